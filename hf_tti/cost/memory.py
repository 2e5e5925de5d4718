"""What one process of a run needs of its device's memory, computed from the recipe; nothing is allocated."""

from __future__ import annotations

from typing import Any

from hf_tti.recipe import Recipe

GIB = 2**30


def estimate_memory(recipe: Recipe, *, bf16: bool | None = None) -> tuple[list[dict[str, str | float]], list[str]]:
    """Rows {part, bytes, GiB} for one process, and the assumptions behind them.

    Activations per token and layer: 34·d_model bytes in 16 bit for an MLP four times as wide
    (Korthikanti et al. 2022,
    https://arxiv.org/abs/2205.05198, without the attention matrix), twice that in fp32; scaled with
    d_mlp.

    Args:
        bf16: whether the device has it, which `precision: auto` follows; None asks this machine.
    """
    from hf_tti.from_recipe import count_parameters

    config, vocab_note = config_of(recipe)
    num_parameters = count_parameters(config)
    text = config.get_text_config()
    half = precision_of(recipe, bf16) != "fp32"
    tokens = recipe.training.get("per_device_train_batch_size", 8) * recipe.data.get("block_size", 512)
    width = text.hidden_size
    mlp = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
    recomputed = bool(recipe.training.get("gradient_checkpointing", False))
    of_a_layer = tokens * (18 * width + 4 * mlp) * (1 if half else 2)
    activations = text.num_hidden_layers * of_a_layer
    if recomputed:  # a layer at a time, and the input of each
        activations = of_a_layer + text.num_hidden_layers * tokens * width * (2 if half else 4)
    # A logit in fp32 (4 bytes), its log-softmax (4) and its gradient (4); under autocast the 16-bit one (2) as well.
    logits = tokens * text.vocab_size * (4 + 4 + 4 + (2 if half else 0))
    parts = {
        "parameters": 4 * num_parameters,
        "gradients": 4 * num_parameters,
        "AdamW moments": 8 * num_parameters,
        "activations": activations,
        "logits and their gradient": logits,
    }
    parts["together"] = sum(parts.values())
    rows = [{"part": part, "bytes": size, "GiB": round(size / GIB, 3)} for part, size in parts.items()]
    assumptions = [
        f"{num_parameters:,} parameters, kept in fp32 with their gradients and two AdamW moments",
        f"{tokens:,} tokens in a micro-batch, {'16 bit' if half else 'fp32'} activations of "
        f"{'one layer and the inputs of all' if recomputed else 'every layer'} kept, no attention matrix (sdpa)",
        f"logits of all {text.vocab_size:,} tokens of the vocabulary at every position{vocab_note}",
        "not counted: what objectives and metrics add, the CUDA context, fragmentation",
    ]
    return rows, assumptions


def config_of(recipe: Recipe) -> tuple[Any, str]:
    """The model's configuration without opening a tokenizer, and what was assumed of the vocabulary for that."""
    from hf_tti.data._tokenizers import DEFAULT_VOCAB_SIZE
    from hf_tti.from_recipe import build_config

    vocab_size, note = recipe.data.get("vocab_size") or DEFAULT_VOCAB_SIZE, ""
    if recipe.data.get("tokenizer") and not {"vocab_size", "pretrained"} & recipe.model.keys():
        vocab_size = None
        note = f" (the architecture's default; {recipe.data['tokenizer']} is not opened here)"
    return build_config(recipe, None, vocab_size), note


def precision_of(recipe: Recipe, bf16: bool | None = None) -> str:
    """`bf16`, `fp16` or `fp32`: what the recipe trains in on a device with or without bf16; None asks this machine."""
    from hf_tti.from_recipe import has_bf16

    precision = recipe.training.get("precision", "auto")
    if precision != "auto":
        return precision
    return "bf16" if (has_bf16() if bf16 is None else bf16) else "fp32"
