"""Floating-point operations of a model's and its objectives' matrix products; a multiply-add is two.

forward = tokens · (2 · Σ weights of linear layers, the LM head too + 4 · layers · heads · head width · T)
step    = 3 · forward (and the blocks once more with gradient checkpointing) + objectives

The second term is attention over all T positions, masked or not: the convention of MFU (PaLM, arXiv:2204.02311,
appendix B). Dense models only; what is no matrix product (norms, softmax, embeddings, optimizer) is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_tti.activations import Recorder, Site, make_forward_pass, resolve_sites
from hf_tti.from_recipe import blamed_on
from hf_tti.objectives.base import Scope, Setup, WeightedObjective


def meta_model(config: PretrainedConfig) -> PreTrainedModel:
    """The model on the meta device: shapes alone, no memory. It runs there, with a mask that it need not look into."""
    with torch.device("meta"), blamed_on("model"):
        model = AutoModelForCausalLM.from_config(config)
    model.register_forward_pre_hook(_with_mask, with_kwargs=True)
    return model


def _with_mask(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    length = kwargs["input_ids"].shape[1]
    mask = torch.ones(1, 1, length, length, dtype=torch.bool, device="meta")
    return args, {**kwargs, "attention_mask": mask}


def forward_flops(model: PreTrainedModel, num_rows: int, length: int) -> int:
    """Of one forward over `num_rows` rows of `length` tokens, logits at every position."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    per_token = 2 * sum(layer.weight.numel() for layer in layers)
    per_token += 4 * config.num_hidden_layers * heads * head_width * length
    return num_rows * length * per_token


def step_flops(model: PreTrainedModel, num_rows: int, length: int, *, recomputed: bool = False) -> int:
    """Of one optimizer step's forward and backward; `recomputed`: with gradient checkpointing."""
    forward = forward_flops(model, num_rows, length)
    if not recomputed:
        return 3 * forward
    head = 2 * num_rows * length * model.get_output_embeddings().weight.numel()
    return 4 * forward - head


def objective_flops(model: PreTrainedModel, weighted: WeightedObjective, num_rows: int, length: int) -> int | None:
    """Of one micro-batch's terms and their gradients to the activations, counted by running them.

    Args:
        model: from `meta_model`.

    Returns:
        None where the objective looks at values, which the meta device does not have.
    """
    objective = weighted.objective
    points = resolve_sites(model, objective.sites)
    vocab_size = model.config.get_text_config().vocab_size
    ids = torch.zeros(num_rows, length, dtype=torch.long, device="meta")
    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"):
            counts = torch.ones(vocab_size, dtype=torch.long)
            setup = Setup(hookpoints=points, vocab_size=vocab_size, token_counts=counts)
            own = objective.own_module(setup)
            forward = make_forward_pass({"input_ids": ids, "labels": ids}, None, _sites(model, points, ids))
        generator = torch.Generator().manual_seed(0)
        scope = Scope(num_active_global=num_rows * length, generator=generator, own=own)
        with counter:
            values = [term.value for term in objective.terms(forward, scope).values()]
            torch.autograd.backward([value for value in values if value.requires_grad])
    except (RuntimeError, NotImplementedError):  # data-dependent shapes, .item() and the like
        return None
    return counter.get_total_flops()


@torch.no_grad()
def _sites(model: PreTrainedModel, points: list, ids: torch.Tensor) -> Mapping[str, Site]:
    """Path -> Site of one forward, each a leaf that a gradient ends at."""
    recorder = Recorder(model, points)
    try:
        with recorder.recording():
            model(input_ids=ids, use_cache=False)
        sites = recorder.sites
    finally:
        recorder.close()
    return {p: replace(site, activations=site.activations.requires_grad_()) for p, site in sites.items()}
