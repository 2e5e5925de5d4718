"""Share of a unit's variance that lies between token classes, beyond chance; the objective is minus its mean.

On x = a / (|a| + sg(rms(a))), classes c with n_c >= 2 tokens, p_c = n_c / N, W_c and D_cd the mean half squared
difference of distinct pairs within c and across c, d:  between = sum_{c<d} p_c p_d (2 D_cd - W_c - W_d),
within = sum_c p_c W_c, share = between / (between + within). With class means mu_c, mu = sum_c p_c mu_c, this equals
between = sum_c p_c (mu_c - mu)^2 - sum_c (1 - p_c) W_c / N, where W_c is the unbiased variance of class c.
R >= -1, reached when the class decides the activation; expectation 0 under independence (but for O(K/N^3)). Scale free.
Sources: one-way ANOVA (omega squared), distance covariance (Szekely 2007); bounded so that one huge value buys nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_tti.activations import ForwardPass
from hf_tti.errors import UserError
from hf_tti.objectives._statistics import all_reduce_together, at_least_float32, masked_moments
from hf_tti.objectives.base import Objective, Scope, Setup, Term, per_layer_mean

NO_CLASS = -1


class TokenClasses(nn.Module):
    """`class_of_token` [V] int64: the rank of a token among the most frequent ones, `NO_CLASS` outside."""

    def __init__(self, token_counts: Tensor, num_classes: int):
        super().__init__()
        counts = torch.as_tensor(token_counts)
        frequent = torch.argsort(counts, descending=True, stable=True)[:num_classes]
        frequent = frequent[counts[frequent] > 0]
        classes = torch.full((len(counts),), NO_CLASS, dtype=torch.long)
        classes[frequent] = torch.arange(len(frequent))
        self.register_buffer("class_of_token", classes)


def _of_token(forward: ForwardPass, own: TokenClasses) -> Tensor:
    return own.class_of_token[forward.input_ids]


def _of_next_token(forward: ForwardPass, own: TokenClasses) -> Tensor:
    """The class of the token that follows in the same row and document; the last one has none."""
    documents, mask = forward.document_ids, forward.token_mask
    follows = (documents[:, 1:] == documents[:, :-1]) & mask[:, 1:]
    classes = torch.full_like(forward.input_ids, NO_CLASS)
    classes[:, :-1] = torch.where(follows, _of_token(forward, own)[:, 1:], NO_CLASS)
    return classes


# What `classes` may name: (forward, what `own_module` holds) -> [B, T] int64 in [0, num_classes) or NO_CLASS.
CLASS_SOURCES = {"token": _of_token, "next_token": _of_next_token}


@dataclass(frozen=True, kw_only=True)
class Selectivity(Objective):
    """Minus the mean share of units' variance between frequent token classes.

    Logs `alive_fraction` and `classed_fraction`, the real tokens that have a class.

    Args:
        classes: what a token's class is: the token itself, or the one that follows it.
        num_classes: that many of the corpus's most frequent tokens are classes; the others have none.
        variance_floor: units of smaller variance over real tokens, in squared units of the activation, are left out of
            the mean; so are units whose variance is lost in rounding (below 1e-5 of their mean square).
    """

    needs_privileged_basis: ClassVar[bool] = True
    uses_token_counts: ClassVar[bool] = True

    classes: str = field(
        default="token",
        metadata={"choices": list(CLASS_SOURCES), "help": "what a token's class is"},
    )
    num_classes: int = field(
        default=256,
        metadata={"min": 2, "help": "most frequent tokens of the corpus that are classes"},
    )
    variance_floor: float = field(
        default=1e-6,
        metadata={"min": 0.0, "help": "units of smaller variance are left out and counted"},
    )

    def own_module(self, setup: Setup) -> TokenClasses:
        if setup.token_counts is None:
            raise UserError(
                "selectivity: needs the corpus's token counts to find its frequent classes; "
                "pass token_counts ([vocab_size] int64), which prepare_data returns"
            )
        missing = setup.vocab_size - len(setup.token_counts)
        return TokenClasses(F.pad(torch.as_tensor(setup.token_counts), (0, max(missing, 0))), self.num_classes)

    def terms(self, forward: ForwardPass, scope: Scope) -> dict[str, Term]:
        if not isinstance(scope.own, TokenClasses):
            raise UserError("selectivity: needs Scope.own, made by Selectivity.own_module(setup)")
        classes = CLASS_SOURCES[self.classes](forward, scope.own)
        classes = torch.where(forward.token_mask & (classes != NO_CLASS), classes, self.num_classes)
        tensors = [site.activations for site in forward.sites.values()]
        sizes, bounds = self._first_pass(tensors, forward.token_mask, classes, scope)
        weights = _pair_weights(sizes)
        local = [
            part
            for a, bound in zip(tensors, bounds, strict=True)
            for part in _ClassSums.apply(a, classes.reshape(-1), weights, bound.rms, bound.center)
        ]
        reduced = iter(all_reduce_together(scope, local))
        values, alive = [], []
        for bound in bounds:
            share, keep = _share(next(reduced), next(reduced), sizes, weights, bound.alive)
            values.append(-(share.sum() / keep.sum().clamp(min=1)))
            alive.append(keep.mean())
        scope.logs["alive_fraction"] = per_layer_mean(alive)
        return {"selectivity": Term(per_layer_mean(values), kind="statistic")}

    @torch.no_grad()
    def _first_pass(self, tensors: list[Tensor], mask: Tensor, classes: Tensor, scope: Scope):
        """(n_c [K], what bounds each site's activations), over all ranks."""
        moments = [masked_moments(a, mask) for a in tensors]
        dtype = moments[0][0].dtype
        sizes = torch.zeros(self.num_classes + 1, dtype=dtype, device=mask.device)
        sizes.index_add_(0, classes.reshape(-1), torch.ones(classes.numel(), dtype=dtype, device=mask.device))
        count = mask.sum().to(dtype)
        local = [count, sizes[:-1], *(moment for pair in moments for moment in pair)]
        count, sizes, *moments = all_reduce_together(scope, local)
        scope.logs["classed_fraction"] = sizes.sum() / count.clamp(min=1)
        pairs = zip(moments[::2], moments[1::2], strict=True)
        count = count.clamp(min=1)
        return sizes, [_Bound.of(first / count, second / count, self.variance_floor) for first, second in pairs]


@dataclass(frozen=True)
class _Bound:
    """Per unit [D]: the constants of x = a / (|a| + rms) - center, and whether the unit counts.

    `center` only keeps sums small; shares do not depend on it.
    """

    rms: Tensor
    center: Tensor
    alive: Tensor

    @classmethod
    def of(cls, mean: Tensor, mean_square: Tensor, variance_floor: float) -> _Bound:
        alive = mean_square - mean.square() > (1e-5 * mean_square).clamp(min=variance_floor)
        rms = torch.where(alive, mean_square, 1).sqrt()
        return cls(rms, mean / (mean.abs() + rms), alive)


class _ClassSums(torch.autograd.Function):
    """([K, D] sum of x over each class, [2, D] sums of x^2 over tokens weighted by [2, K] per class)."""

    @staticmethod
    def forward(ctx, activations: Tensor, classes: Tensor, weights: Tensor, rms: Tensor, center: Tensor):
        ctx.save_for_backward(activations, classes, weights, rms, center)
        num_classes = weights.shape[1]
        x = _bounded(activations, rms).sub_(center)
        sums = x.new_zeros(num_classes + 1, x.shape[1]).index_add_(0, classes, x)[:num_classes]
        # Matrix-vector products: a matrix product may run in TF32, too coarse for a difference of squares.
        squares = x.square_().T
        return sums, torch.stack([torch.mv(squares, row) for row in _per_token(weights, classes)])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sums: Tensor, grad_squares: Tensor):
        activations, classes, weights, rms, center = ctx.saved_tensors
        # dL/da = (grad_sums[class] + 2 (y - center) w[class] . grad_squares) dy/da with y = a / (|a| + rms) and
        # dy/da = (1 - |y|)^2 / rms; whatever depends on the class alone is folded into a table of classes.
        slope = 2 * grad_squares / rms  # [2, D]
        table = grad_sums / rms - center * (weights.T @ slope)
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        y = _bounded(activations, rms)
        first, second = _per_token(weights, classes)
        grad = torch.outer(first, slope[0]).addr_(second, slope[1]).mul_(y).add_(table[classes])
        grad.mul_(y.abs_().sub_(1).square_())
        return grad.to(activations.dtype).view(activations.shape), None, None, None, None


def _bounded(activations: Tensor, rms: Tensor) -> Tensor:
    """[B*T, D]: a / (|a| + rms)."""
    flat = at_least_float32(activations.reshape(-1, activations.shape[-1]))
    return flat / flat.abs().add_(rms)


def _per_token(weights: Tensor, classes: Tensor) -> Tensor:
    """[2, N]: the weights of each token's class, 0 without one."""
    return torch.cat([weights, weights.new_zeros(2, 1)], dim=1)[:, classes]


def _pair_weights(sizes: Tensor) -> Tensor:
    """[2, K] alpha, beta: with V_c = (n_c - 1) W_c the sum of squares about a class's mean, within = sum_c alpha_c V_c
    and sum_c (1 - p_c) W_c / N = sum_c beta_c V_c. Classes of fewer than 2 tokens weigh 0.
    """
    eligible = sizes >= 2
    kept = torch.where(eligible, sizes, 0)
    total = kept.sum().clamp(min=1)
    inverse = torch.where(eligible, 1 / (sizes - 1).clamp(min=1), 0) / total
    return torch.stack([kept * inverse, (1 - kept / total) * inverse])


def _share(sums: Tensor, squares: Tensor, sizes: Tensor, weights: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """(share of variance between classes [D], 0 where left out; 1 or 0 for each unit [D])."""
    kept = torch.where(sizes >= 2, sizes, 0)
    p = kept / kept.sum().clamp(min=1)  # [K]
    means = sums / sizes.clamp(min=1)[:, None]  # [K, D]
    within_weight, chance_weight = weights * sizes
    squared_means = means.square().T
    within = squares[0] - torch.mv(squared_means, within_weight)
    spread = torch.mv(squared_means, p + chance_weight) - torch.mv(means.T, p).square()
    between = spread - squares[1]
    total = between + within
    keep = alive & (total.detach() > 1e-8)
    return torch.where(keep, between / torch.where(keep, total, 1), 0), keep.to(sums.dtype)
