"""The optimizer step of a recipe on a GPU, predicted by `hf_tti.cost.step`, and what to say of it."""

from __future__ import annotations

from transformers import PreTrainedModel

from hf_tti.cost.estimate import Schedule
from hf_tti.cost.flops import meta_model
from hf_tti.cost.gpus import Gpu
from hf_tti.cost.memory import config_of
from hf_tti.cost.shapes import shapes_of
from hf_tti.cost.step import Step, predicted_step
from hf_tti.recipe import Recipe


def model_of(recipe: Recipe) -> PreTrainedModel:
    """The recipe's model on the meta device."""
    return meta_model(config_of(recipe)[0])


def step_on(
    card: Gpu, recipe: Recipe, schedule: Schedule, model: PreTrainedModel, precision: str, objective_flops: float
) -> Step:
    """Of one GPU; `objective_flops` of its step."""
    training = recipe.training
    accumulation = training.get("gradient_accumulation_steps", 1)
    return predicted_step(
        shapes_of(model),
        card,
        num_rows=schedule.micro_rows,
        length=schedule.length,
        precision=precision,
        accumulation=accumulation,
        compiled=bool(training.get("torch_compile", False)),
        attention="eager" if recipe.model.get("attn_implementation") == "eager" else "sdpa",
        recomputed=bool(training.get("gradient_checkpointing", False)),
        fused_optimizer="fused" in (training.get("optim") or "adamw_torch_fused"),
        clipped=(training.get("max_grad_norm", 1.0) or 0) > 0,
        objective_flops=objective_flops / accumulation,
    )


def peak_of(card: Gpu, precision: str) -> str:
    """A GPU's peak in words."""
    return f"{card.peak(precision) / 1e12:g} TFLOP/s in {precision} ({card.data_sheet})"


def words_of(card: Gpu, precision: str, mfu: float, step: Step, model: PreTrainedModel) -> list[str]:
    """What was assumed of the speed, a sentence each."""
    among = "some on this GPU" if card.compared else "none on this GPU"
    lines = [
        f"MFU {mfu:.1%} of {peak_of(card, precision)}: predicted for this model and batch, not measured: a step of "
        f"{_ms(step.seconds)} ms, {_ms(step.matmul + step.attention)} of arithmetic and {_ms(step.memory)} of memory "
        f"traffic, or {_ms(step.launches)} on the CPU if that is more",
        f"published runs ({among}) were within 30 % of such predictions; --mfu sets another, --measure times this one",
    ]
    if step.bound == "kernel launches":
        lines.append(
            "a step waits for the CPU to launch kernels: more rows in a micro-batch cost nothing, a faster CPU helps"
        )
    vocabulary = model.config.get_text_config().vocab_size
    if precision in ("bf16", "fp16") and vocabulary % 8:
        lines.append(
            f"a vocabulary of {vocabulary:,}, no multiple of 8, slows the products with the LM head threefold unless "
            "torch_compile pads it"
        )
    return lines


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 10e-3 else f"{1e3 * seconds:.2g}"
