"""What a run needs: FLOPs, memory, hours and dollars, from its recipe and a GPU, with everything that was assumed.

hours = FLOPs of all steps and evaluations / (GPUs · peak FLOP/s · MFU) / 3600;  dollars = hours · GPUs · price.
MFU (model FLOPs utilisation) is assumed unless it is given; `hf_tti.cost.timing` measures instead of assuming.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_tti.cost.gpus import Gpu, find_gpu
from hf_tti.data import DataConfig
from hf_tti.errors import UserError
from hf_tti.recipe import Recipe
from hf_tti.run_folder import resolve_paths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# With GPT-2's tokenizer. The published evaluation had 4,653,648 targets; each of its about 22,000 stories has one more
# token than targets, which makes 4,675,648, rounded.
_KNOWN_TOKENS = {("tinystories", "validation"): 4_675_000}


@dataclass(frozen=True)
class Schedule:
    """How much of everything a run does.

    Attributes:
        num_steps: optimizer steps. rows_per_step: rows in each, over all devices and accumulation.
        micro_rows: rows in a forward of one device.
        num_evaluations: passes over the validation rows, the final one too.
        validation_rows: None where nothing says how long the corpus is.
        length: tokens in a row.
    """

    num_steps: int
    rows_per_step: int
    micro_rows: int
    num_evaluations: int
    validation_rows: int | None
    length: int


@dataclass(frozen=True)
class CostEstimate:
    """What one run costs.

    Attributes:
        gpu, num_gpus: what it runs on.
        flops_per_step: of an optimizer step over all GPUs; None for runs that differ. flops: of all steps and
            evaluations.
        memory_bytes: that each GPU needs. gpu_memory_bytes: that it has; None where nobody said.
        hours: of wall time. dollars: for all GPUs; None where they have no price.
        mfu: model FLOPs utilisation, predicted, given or measured; None without a peak, or for runs that differ.
        num_steps: optimizer steps.
        assumptions: a sentence each.
    """

    gpu: str
    num_gpus: int
    flops_per_step: float | None
    flops: float
    memory_bytes: int
    gpu_memory_bytes: int | None
    hours: float
    dollars: float | None
    mfu: float | None
    num_steps: int
    assumptions: list[str]

    @property
    def fits(self) -> bool | None:
        """Whether it fits into memory, or None where nobody said how much there is."""
        return None if self.gpu_memory_bytes is None else self.memory_bytes <= self.gpu_memory_bytes

    def to_dict(self) -> dict[str, object]:
        """JSON-able, with `fits`."""
        return {**dataclasses.asdict(self), "fits": self.fits}


def estimate(recipe: Recipe, *, gpu: str, num_gpus: int = 1, mfu: float | None = None) -> CostEstimate:
    """What one run of the recipe costs on `num_gpus` of a GPU.

    Args:
        recipe: one run. Of a sweep, the run that `expand_sweep` names first costs what the recipe says.
        gpu: a name of `GPUS`.
        mfu: in (0, 1]; default: of the step that is predicted.

    Raises:
        UserError: an unknown GPU, a number out of range, epochs of a corpus of unknown length.
    """
    card = find_gpu(gpu)
    if mfu is not None and not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: a fraction of the peak, above 0 and at most 1")
    if num_gpus < 1:
        raise UserError(f"--num-gpus {num_gpus}: at least 1")
    from hf_tti.cost.memory import estimate_memory, precision_of
    from hf_tti.cost.speed import model_of, peak_of, step_on, words_of

    recipe = resolve_paths(recipe)
    precision = precision_of(recipe, bf16=card.bf16_flops is not None)
    if precision == "fp32" and recipe.training.get("tf32") and card.bf16_flops:
        precision = "tf32"
    peak = card.peak(precision)
    if peak is None:
        raise UserError(
            f"training.precision: {precision!r} is not for a {gpu}, which lacks it; choose auto, fp16 or fp32"
        )
    schedule = schedule_of(recipe, num_gpus)
    model = model_of(recipe)
    work = count_work(recipe, schedule, model)
    memory, of_memory = estimate_memory(recipe, bf16=card.bf16_flops is not None)
    if mfu is None:
        predicted = step_on(card, recipe, schedule, model, precision, work.objectives / num_gpus)
        used = work.step / (num_gpus * peak * predicted.seconds)
        of_speed = words_of(card, precision, used, predicted, model)
    else:
        used, of_speed = mfu, [f"MFU {mfu:.1%} of {peak_of(card, precision)}, as given"]
    flops = work.step * schedule.num_steps + work.evaluation * schedule.num_evaluations
    hours = flops / (num_gpus * peak * used) / 3600
    return CostEstimate(
        gpu=gpu,
        num_gpus=num_gpus,
        flops_per_step=work.step,
        flops=flops,
        memory_bytes=int(memory[-1]["bytes"]),
        gpu_memory_bytes=card.memory_bytes,
        hours=hours,
        dollars=hours * num_gpus * card.dollars_per_hour,
        mfu=used,
        num_steps=schedule.num_steps,
        assumptions=[*of_speed, *work.notes, *_of_money(card, num_gpus), *of_memory],
    )


def _of_money(card: Gpu, num_gpus: int) -> list[str]:
    money = [f"${card.dollars_per_hour:g} an hour and GPU ({card.source}); CPU, memory and storage cost extra"]
    if num_gpus > 1:
        money.append(
            f"{num_gpus} processes, each with per_device_train_batch_size rows: a larger global batch, not fewer "
            "steps; communication is not counted"
        )
    return money


def schedule_of(recipe: Recipe, num_gpus: int = 1) -> Schedule:
    """Steps, rows and evaluations of a run, from the recipe alone; transformers' defaults where it is silent.

    Raises:
        UserError: no steps, or `num_train_epochs` over a corpus whose length only preparing it would tell.
    """
    from hf_tti.from_recipe import check_steps

    check_steps(recipe)
    training, length = recipe.training, DataConfig(**recipe.data).block_size
    micro_rows = training.get("per_device_train_batch_size", 8)
    rows_per_step = micro_rows * training.get("gradient_accumulation_steps", 1) * num_gpus
    num_steps, epochs = training.get("max_steps", -1), training.get("num_train_epochs", 3.0)
    train_tokens, validation_tokens = (_max_tokens(recipe, split) for split in ("train", "validation"))
    per_epoch = None if train_tokens is None else math.ceil(train_tokens / length / rows_per_step)
    if num_steps < 1:
        if per_epoch is None:
            raise UserError(
                f"{recipe.path}: how many steps num_train_epochs: {epochs:g} are depends on the data; "
                "set training.max_steps or data.max_tokens"
            )
        num_steps = math.ceil(epochs * per_epoch)
    return Schedule(
        num_steps=num_steps,
        rows_per_step=rows_per_step,
        micro_rows=micro_rows,
        num_evaluations=_num_evaluations(training, num_steps, per_epoch),
        validation_rows=None if validation_tokens is None else math.ceil(validation_tokens / length),
        length=length,
    )


def _max_tokens(recipe: Recipe, split: str) -> int | None:
    from hf_tti.components import load_component

    config = DataConfig(**recipe.data)
    asked = config.max_tokens if split == "train" else config.max_validation_tokens
    bound = load_component("data", config.name).default_num_tokens.get(split) if asked is None else asked
    known = None if config.train else _KNOWN_TOKENS.get((config.name, split))
    return known if bound is None else min(bound, known or bound)


def _num_evaluations(training: dict, num_steps: int, per_epoch: int | None) -> int:
    """Passes over the validation rows. A run evaluates at its end unless its last step just did."""
    strategy, every = training.get("eval_strategy", "no"), None
    if strategy == "steps":
        every = training.get("eval_steps") or training.get("logging_steps", 500)
        every = math.ceil(every * num_steps) if every < 1 else int(every)
    elif strategy == "epoch":
        every = per_epoch
    during = num_steps // every if every else 0
    at_the_end = not every or num_steps % every != 0 or training.get("load_best_model_at_end", False)
    return during + bool(at_the_end) + bool(training.get("eval_on_start", False))


@dataclass(frozen=True)
class Work:
    """FLOPs over all devices.

    Attributes:
        step: of an optimizer step. objectives: that are theirs of it. evaluation: of a pass over the validation rows.
        notes: what they leave out.
    """

    step: float
    objectives: float
    evaluation: float
    notes: list[str]


def count_work(recipe: Recipe, schedule: Schedule, model: PreTrainedModel) -> Work:
    """FLOPs of a run's steps and evaluations; `model` from `hf_tti.cost.speed.model_of`."""
    from hf_tti.cost.flops import forward_flops, step_flops

    recomputed = bool(recipe.training.get("gradient_checkpointing", False))
    step = step_flops(model, schedule.rows_per_step, schedule.length, recomputed=recomputed)
    extra, uncounted = _of_objectives(recipe, schedule, model)
    rows = schedule.validation_rows
    evaluation = 0 if rows is None else forward_flops(model, rows, schedule.length)
    notes = [
        f"{schedule.num_steps:,} steps of {schedule.rows_per_step * schedule.length:,} tokens; FLOPs of the matrix "
        f"products alone, forward and backward, attention over all {schedule.length} positions"
        + (", activations computed twice (gradient_checkpointing)" if recomputed else "")
        + (f", {extra / step:.1%} on top for objectives" if extra else "")
    ]
    if recipe.data.get("packing") is False:
        notes.append("rows count as full ones, without packing an upper bound for a step")
    if rows is None:
        notes.append("evaluations are not counted: set data.max_validation_tokens to say how long they are")
    else:
        notes.append(f"{schedule.num_evaluations} evaluations of {rows * schedule.length:,} tokens")
    if uncounted:
        notes.append(f"not counted: the work of {', '.join(uncounted)} (no matrix products of a known shape)")
    notes.append("not counted: start-up, data preparation, metrics, checkpoints, force ratios, hf-tti evaluate")
    return Work(step + extra, extra, evaluation, notes)


def _of_objectives(recipe: Recipe, schedule: Schedule, model: PreTrainedModel) -> tuple[float, list[str]]:
    from hf_tti.cost.flops import objective_flops
    from hf_tti.from_recipe import build_objectives

    times, total, uncounted = schedule.rows_per_step // schedule.micro_rows, 0.0, []
    for weighted in build_objectives(recipe):
        flops = objective_flops(model, weighted, schedule.micro_rows, schedule.length)
        if flops is None:
            uncounted.append(weighted.label)
        else:
            total += times * flops
    return total, uncounted


def total_of(estimates: list[CostEstimate]) -> CostEstimate:
    """All runs of a sweep, one after the other: FLOPs, hours and dollars added up, memory the largest; what they share
    of a step's FLOPs, the MFU and the assumptions.
    """
    first, *others = estimates
    same_step = all(each.flops_per_step == first.flops_per_step for each in others)
    same_mfu = all(each.mfu == first.mfu for each in others)
    return dataclasses.replace(
        first,
        flops_per_step=first.flops_per_step if same_step else None,
        mfu=first.mfu if same_mfu else None,
        assumptions=[line for line in first.assumptions if all(line in each.assumptions for each in others)],
        flops=sum(each.flops for each in estimates),
        hours=sum(each.hours for each in estimates),
        dollars=None if first.dollars is None else sum(each.dollars or 0.0 for each in estimates),
        memory_bytes=max(each.memory_bytes for each in estimates),
        num_steps=sum(each.num_steps for each in estimates),
    )
