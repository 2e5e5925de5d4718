"""Sums over real tokens that objectives are functions of, with closed-form gradients.

An objective takes local sums, adds them over ranks with `all_reduce_together`, and does its algebra on the totals. Each
local sum is one autograd function that keeps the activations as the model gave them and nothing else of size [N, D].
Padding is multiplied by zero: its activations may be anything finite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_tti.errors import UserError
from hf_tti.objectives.base import Scope


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_reduce_together(scope: Scope, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums of the tensors over ranks, in one collective. They share a dtype; shapes agree on all ranks."""
    if scope.world_size == 1:
        return [scope.all_reduce(tensor) for tensor in tensors]
    total = scope.all_reduce(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    parts = total.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def gram(activations: Tensor, mask: Tensor, mean: Tensor | None = None) -> Tensor:
    """Sum over real tokens of (a - mean)(a - mean)^T: [B, T, D] and [B, T] -> [D, D] in at least float32.

    No gradient flows to `mean`: there is none when it is the mean over all ranks, because then the deviations sum to
    zero. One matrix product forward and one backward. On a CUDA device bfloat16 activations stay bfloat16 as operands
    and are accumulated in float32.
    """
    return _Gram.apply(activations, mask, mean)


class _Gram(torch.autograd.Function):
    @staticmethod
    def forward(ctx, activations: Tensor, mask: Tensor, mean: Tensor | None) -> Tensor:
        ctx.save_for_backward(activations, mask, mean)
        rows = _deviations(activations, mask, mean)
        return _matmul(rows.T, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        activations, mask, mean = ctx.saved_tensors
        rows = _deviations(activations, mask, mean)
        grad_rows = _matmul(rows, (grad + grad.T).to(rows.dtype))
        return grad_rows.to(activations.dtype).view(activations.shape), None, None


def _deviations(activations: Tensor, mask: Tensor, mean: Tensor | None) -> Tensor:
    """[B*T, D]: a - mean on real tokens, zero elsewhere, in the dtype of the matrix product."""
    rows = activations.reshape(-1, activations.shape[-1])
    exact = rows.dtype != torch.bfloat16 or not rows.is_cuda
    rows = at_least_float32(rows) if exact or mean is not None else rows
    keep = mask.reshape(-1, 1).to(rows.dtype)
    deviations = rows * keep if mean is None else (rows - mean).mul_(keep)
    return deviations if exact else deviations.to(activations.dtype)


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    if left.dtype == torch.bfloat16:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left @ right


@torch.no_grad()
def masked_moments(activations: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over real tokens of a and of a^2: two [D] from [B, T, D] and [B, T], in at least float32, no gradient."""
    rows = at_least_float32(activations).reshape(-1, activations.shape[-1])
    rows = rows * mask.reshape(-1, 1)
    return rows.sum(dim=0), rows.square().sum(dim=0)


@torch.no_grad()
def masked_sum(activations: Tensor, mask: Tensor) -> Tensor:
    """Sum over real tokens: [B, T, D] and [B, T] -> [D] in at least float32. Not differentiable."""
    rows = at_least_float32(activations).reshape(-1, activations.shape[-1])
    return torch.mv(rows.T, mask.reshape(-1).to(rows.dtype))


def masked_reciprocal(values: Tensor, keep: Tensor) -> Tensor:
    """1 / values where `keep`, else 0, with no NaN in the gradient."""
    return torch.where(keep, 1 / torch.where(keep, values, 1), 0)


def draw_block(width: int, size: int | None, scope: Scope, device: torch.device) -> Tensor | None:
    """Indices [size] of a random block of units, the same on every rank; None for all of them.

    A block leaves the mean over pairs unbiased, which a sample of tokens does not.
    """
    if size is None or size >= width:
        return None
    if scope.generator is None:
        raise UserError("neuron_block: needs Scope.generator, seeded alike on every rank")
    return torch.randperm(width, generator=scope.generator)[:size].to(device, non_blocking=True)


def take_block(activations: Tensor, block: Tensor | None) -> Tensor:
    """The block's columns of [B, T, D]."""
    return activations if block is None else activations.index_select(-1, block)
