"""Entropy of units' activation mass over token types, as published (the study's polysemanticity).

For each unit, A_v = sum over real tokens of type v of |a|, p_v = A_v / sum_v A_v, H = -sum_v p_v log p_v in nats.
R = mean of H over units with mass. In [0, log U], U the types in the batch: 0 when every unit fires on one type only,
log U when mass is even over types. It grows with the batch's vocabulary: compare at one batch size. Massless units are
left out and counted, else dead units would buy a good score.
Source: the training-time-interpretability study (hiskuDN), masked, with [U, D] sums in place of [V, D].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_tti.activations import ForwardPass
from hf_tti.errors import UserError
from hf_tti.objectives._statistics import all_reduce_together, at_least_float32
from hf_tti.objectives.base import Objective, Scope, Setup, Term, per_layer_mean


class Vocabulary(nn.Module):
    """The size of the vocabulary, so that ranks agree on the types of a global batch. Holds no tensor."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size


@dataclass(frozen=True, kw_only=True)
class TokenEntropy(Objective):
    """Mean entropy, in nats, of units' absolute activation over the token types present in the global batch.

    One device synchronisation per call, however many layers: the number of types present is the height of every table.
    Logs `alive_fraction`: units with mass.

    Args:
        sites: see `Objective`; the published site is the MLP's output.
    """

    needs_privileged_basis: ClassVar[bool] = True

    sites: tuple[str, ...] = ("mlp.out",)

    def own_module(self, setup: Setup) -> Vocabulary:
        return Vocabulary(setup.vocab_size)

    def terms(self, forward: ForwardPass, scope: Scope) -> dict[str, Term]:
        rows, num_types = _type_rows(forward, scope)
        masses = [_TypeMass.apply(site.activations, rows, num_types) for site in forward.sites.values()]
        values, alive = zip(*map(_mean_entropy, all_reduce_together(scope, masses)), strict=True)
        scope.logs["alive_fraction"] = per_layer_mean(alive)
        return {"token_entropy": Term(per_layer_mean(values), kind="statistic")}


@torch.no_grad()
def _type_rows(forward: ForwardPass, scope: Scope) -> tuple[Tensor, int]:
    """([B*T] row of each token's type among the types present, U for padding; U) over all ranks' real tokens."""
    size = _vocab_size(forward, scope)
    mask = forward.token_mask.reshape(-1)
    token_ids = torch.where(mask, forward.input_ids.reshape(-1), size)
    present = torch.zeros(size + 1, device=token_ids.device)
    present = scope.all_reduce(present.index_fill_(0, token_ids, 1.0)) > 0
    present[size] = False
    num_types = int(present.sum())  # the one synchronisation
    row_of_type = present.cumsum(0) - 1
    row_of_type[size] = num_types
    return row_of_type[token_ids], num_types


def _vocab_size(forward: ForwardPass, scope: Scope) -> int:
    if isinstance(scope.own, Vocabulary):
        return scope.own.size
    if scope.world_size > 1:
        raise UserError("token_entropy: several ranks need Scope.own, made by TokenEntropy.own_module(setup)")
    return int(forward.input_ids.max()) + 1 if forward.input_ids.numel() else 0


class _TypeMass(torch.autograd.Function):
    """Sum of |a| over the tokens of each type: [B, T, D], rows [B*T] -> [U, D]. Row U, the padding, is dropped."""

    @staticmethod
    def forward(ctx, activations: Tensor, rows: Tensor, num_types: int) -> Tensor:
        ctx.save_for_backward(activations, rows)
        flat = activations.reshape(-1, activations.shape[-1])
        magnitude = at_least_float32(flat.abs())
        return magnitude.new_zeros(num_types + 1, flat.shape[-1]).index_add_(0, rows, magnitude)[:num_types]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        activations, rows = ctx.saved_tensors
        flat = activations.reshape(-1, activations.shape[-1])
        padded = torch.cat([grad, grad.new_zeros(1, grad.shape[1])])
        grad_flat = padded.index_select(0, rows).mul_(flat.sign())
        return grad_flat.to(activations.dtype).view(activations.shape), None, None


class _Entropy(torch.autograd.Function):
    """Entropy in nats of each column of masses [U, D] >= 0 -> [D], 0 for a column without mass.

    The slope at an empty cell, infinite in the limit, is kept finite: |a| has derivative 0 there.
    """

    @staticmethod
    def forward(ctx, masses: Tensor) -> Tensor:
        total = masses.sum(dim=0)
        share = masses / torch.where(total > 0, total, 1)
        log_share = torch.where(share > 0, share, 1).log()
        entropy = -(share * log_share).sum(dim=0)
        ctx.save_for_backward(log_share, entropy, total)
        return entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        log_share, entropy, total = ctx.saved_tensors
        scale = torch.where(total > 0, grad / torch.where(total > 0, total, 1), 0)
        return (log_share + entropy).mul_(-scale)


def _mean_entropy(masses: Tensor) -> tuple[Tensor, Tensor]:
    """(mean entropy of the units with mass, their fraction) from [U, D] masses."""
    alive = (masses.detach().sum(dim=0) > 0).to(masses.dtype)
    return (_Entropy.apply(masses) * alive).sum() / alive.sum().clamp(min=1), alive.mean()
