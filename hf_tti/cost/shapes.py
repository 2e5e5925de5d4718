"""What a step's cost depends on in a model: sizes of its matrix products, of what lies between them, and dispatches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_DISPATCHES_OF_A_LAYER = 190  # where they cannot be counted: those of HF's BERT
_COMPOSITE_ACTIVATIONS = {"NewGELUActivation", "FastGELUActivation", "QuickGELUActivation"}
_DROPOUTS = [("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "dropout"), ("attn_pdrop", "attention_dropout")]


@dataclass(frozen=True)
class Shapes:
    """Of one model; widths in elements a token and layer.

    Attributes:
        linears: (in, out) of each linear layer but the head. head: width x vocabulary.
        attention: heads x head width. activation: of the MLP; gated: with a second branch.
        composite_activation, composite_norm, rotary: written in several kernels where nothing fuses them.
        dropout: whether there is any. dispatches: of aten, forward and backward, with eager attention.
    """

    num_layers: int
    width: int
    linears: tuple[tuple[int, int], ...]
    head: tuple[int, int]
    attention: int
    num_heads: int
    activation: int
    gated: bool
    composite_activation: bool
    composite_norm: bool
    rotary: bool
    dropout: bool
    num_parameters: int
    dispatches: int


def shapes_of(model: PreTrainedModel) -> Shapes:
    """From a model on the meta device (`hf_tti.cost.flops.meta_model`), which runs once to count its dispatches."""
    config = model.config.get_text_config()
    heads, width = config.num_attention_heads, config.hidden_size
    head_module = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not head_module]
    linears = tuple(_in_out(layer) for layer in layers)
    mlp = _first(config, "intermediate_size", "ffn_dim", "n_inner") or 4 * width
    gated = sum(mlp in pair for pair in linears) >= 3 * config.num_hidden_layers
    names = [type(module).__name__ for module in model.modules()]
    dropouts = [_first(config, *names) or 0.0 for names in _DROPOUTS]
    return Shapes(
        num_layers=config.num_hidden_layers,
        width=width,
        linears=linears,
        head=(width, config.vocab_size),
        attention=heads * (_first(config, "head_dim") or width // heads),
        num_heads=heads,
        activation=mlp,
        gated=gated,
        composite_activation=any(name in _COMPOSITE_ACTIVATIONS for name in names),
        composite_norm=any("RMSNorm" in name for name in names),
        rotary=any("Rotary" in name for name in names),
        dropout=any(dropouts),
        num_parameters=sum(p.numel() for p in model.parameters()),
        dispatches=_count_dispatches(model),
    )


def _first(config: Any, *names: str) -> Any:
    """The first of these that the configuration sets; architectures name the same thing differently."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), None)


def _in_out(layer: nn.Module) -> tuple[int, int]:
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


class _Dispatches(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def _count_dispatches(model: PreTrainedModel) -> int:
    before, training = model.config._attn_implementation, model.training
    ids = torch.zeros(1, 8, dtype=torch.long, device="meta")
    try:
        model.set_attn_implementation("eager")
        with _Dispatches() as counted:
            logits = model.train()(input_ids=ids, use_cache=False).logits
            nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
    except (RuntimeError, NotImplementedError, ValueError):  # it looks at values, which the meta device does not have
        return _DISPATCHES_OF_A_LAYER * model.config.get_text_config().num_hidden_layers
    finally:
        model.zero_grad(set_to_none=True)
        model.set_attn_implementation(before)
        model.train(training)
    return counted.count
