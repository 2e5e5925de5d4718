"""Squared correlation between units over tokens, beyond what sampling gives.

rho = centred correlation over real tokens;  R = mean over i != j of rho_ij^2 - 1/(N-1)  (half of it if `positive_only`,
which takes max(rho, 0)^2: exclusive features ought to anti-correlate). In [-1/(N-1), 1]; expectation 0 for independent
units, 1 - 1/(N-1) when all are copies. Invariant to each unit's scale and offset. Units of variance below an absolute
floor are left out and counted. Tokens are autocorrelated, so the true floor lies above 1/(N-1): see `cross_half`.
Sources: DeCov 1511.06068, Barlow Twins 2103.03230; the guard after VICReg 2105.04906.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from hf_tti.activations import ForwardPass
from hf_tti.errors import UserError
from hf_tti.objectives._statistics import (
    all_reduce_together,
    draw_block,
    gram,
    masked_reciprocal,
    masked_sum,
    take_block,
)
from hf_tti.objectives.base import Objective, Scope, Setup, Term, per_layer_mean


class RunningScale(nn.Module):
    """Each unit's running standard deviation, per hookpoint, for the starvation guard."""

    def __init__(self, setup: Setup):
        super().__init__()
        for point in setup.hookpoints:
            self.register_buffer(self._name("scale", point.path), torch.zeros(point.width))
            self.register_buffer(self._name("updates", point.path), torch.zeros(point.width))

    @staticmethod
    def _name(what: str, path: str) -> str:
        return f"{what}/{path.replace('.', '/')}"

    @torch.no_grad()
    def update(self, path: str, block: Tensor | None, std: Tensor, momentum: float) -> Tensor:
        """The running scale [D or block] before this batch (0: never seen), which `std` then enters."""
        scale = self.get_buffer(self._name("scale", path))
        updates = self.get_buffer(self._name("updates", path))
        index = slice(None) if block is None else block
        before, seen = scale[index].clone(), updates[index] > 0
        std = std.to(scale.dtype)
        scale[index] = torch.where(seen, momentum * before + (1 - momentum) * std, std)
        updates[index] += 1
        return before


@dataclass(frozen=True, kw_only=True)
class Decorrelation(Objective):
    """Mean squared correlation between different units, with its sampling floor subtracted.

    Logs `alive_fraction` and, if asked, `cross_half`. The term `starvation` appears with the guard only.

    Args:
        positive_only: penalise positive correlations only.
        variance_floor: units below it are left out of the mean, in squared units of the activation.
        neuron_block: units drawn anew at each step, every pair of them compared; None compares all D.
        cross_half: log the mean of rho(1) rho(2), correlations over a rank's even and odd sequences: expectation 0
            for independent units even where tokens within a sequence depend on one another. NaN while a half is empty.
        starvation_guard: factor on mean(max(0, 1 - std / (starvation_ratio * running std))), against units that are
            decorrelated by being switched off. 0 leaves it out; with it R is no longer invariant to scale.
        starvation_ratio: the fraction of its own running scale below which a unit is pushed back.
        scale_momentum: of the running scale, per micro-batch.
    """

    needs_privileged_basis: ClassVar[bool] = True

    positive_only: bool = field(default=False, metadata={"help": "penalise positive correlations only"})
    variance_floor: float = field(
        default=1e-6,
        metadata={"min": 0.0, "help": "units of smaller variance are left out and counted"},
    )
    neuron_block: int | None = field(
        default=None,
        metadata={"min": 2, "help": "random units compared at each step; null for all"},
    )
    cross_half: bool = field(
        default=False, metadata={"help": "log the product of correlations over disjoint sequences"}
    )
    starvation_guard: float = field(
        default=0.0,
        metadata={"min": 0.0, "help": "factor on the hinge against switched-off units; 0 is off"},
    )
    starvation_ratio: float = field(
        default=0.5,
        metadata={
            "exclusive_min": 0.0,
            "max": 1.0,
            "help": "hinge, relative to a unit's running scale",
        },
    )
    scale_momentum: float = field(
        default=0.99, metadata={"min": 0.0, "max": 1.0, "help": "momentum of the running scale"}
    )

    def own_module(self, setup: Setup) -> RunningScale | None:
        return RunningScale(setup) if self.starvation_guard else None

    def terms(self, forward: ForwardPass, scope: Scope) -> dict[str, Term]:
        mask, sites = forward.token_mask, forward.sites
        tensors = [site.activations for site in sites.values()]  # [B, T, D] each
        blocks = [draw_block(a.shape[-1], self.neuron_block, scope, a.device) for a in tensors]
        columns = [take_block(a, block) for a, block in zip(tensors, blocks, strict=True)]
        count, means = _count_and_means(columns, mask, scope)
        halves = (slice(0, None, 2), slice(1, None, 2)) if self.cross_half else (slice(None),)
        pairs = list(zip(columns, means, strict=True))
        grams = [[gram(a[half], mask[half], mean) for half in halves] for a, mean in pairs]
        reduced = iter(all_reduce_together(scope, sum(grams, [])))
        products = [[next(reduced) for _ in halves] for _ in grams]  # per site, per half: [D, D]
        totals = [sum(parts[1:], parts[0]) for parts in products]
        variances = [total.diagonal() / (count - 1).clamp(min=1) for total in totals]
        alive = [variance.detach() > self.variance_floor for variance in variances]
        values = [self._excess(total, count, keep) for total, keep in zip(totals, alive, strict=True)]
        scope.logs["alive_fraction"] = per_layer_mean([a.to(count.dtype).mean() for a in alive])
        if self.cross_half:
            scope.logs["cross_half"] = _cross_half(pairs, mask, halves, products, alive, scope)
        terms = {"decorrelation": Term(per_layer_mean(values), kind="statistic")}
        if self.starvation_guard:
            terms["starvation"] = self._starvation(dict(zip(sites, variances, strict=True)), blocks, scope)
        return terms

    def _excess(self, products: Tensor, count: Tensor, alive: Tensor) -> Tensor:
        """Mean of rho^2 over pairs of different units alive, less what N independent tokens give."""
        variance = products.diagonal()
        inverse = masked_reciprocal(variance, alive)
        off_diagonal = products - torch.diag(variance)
        if self.positive_only:
            off_diagonal = off_diagonal.clamp(min=0)
        num_alive = alive.to(products.dtype).sum()
        num_pairs = num_alive * (num_alive - 1)
        mean = (inverse @ (off_diagonal.square() @ inverse)) / num_pairs.clamp(min=1)
        sampling = (0.5 if self.positive_only else 1.0) / (count - 1).clamp(min=1)
        return mean - sampling * ((num_pairs > 0) & (count > 1))

    def _starvation(self, variances: dict[str, Tensor], blocks: list[Tensor | None], scope: Scope) -> Term:
        if not isinstance(scope.own, RunningScale):
            raise UserError("starvation_guard: needs Scope.own, made by Decorrelation.own_module(setup)")
        hinges = []
        for (path, variance), block in zip(variances.items(), blocks, strict=True):
            positive = variance > 0
            std = torch.where(positive, torch.where(positive, variance, 1).sqrt(), 0)
            running = scope.own.update(path, block, std.detach(), self.scale_momentum)
            wanted = self.starvation_ratio * running.to(std.dtype)
            hinges.append((1 - std * masked_reciprocal(wanted, wanted > 0)).clamp(min=0).mul(wanted > 0).mean())
        return Term(self.starvation_guard * per_layer_mean(hinges), kind="statistic")


@torch.no_grad()
def _count_and_means(columns: list[Tensor], mask: Tensor, scope: Scope) -> tuple[Tensor, list[Tensor]]:
    """(N, mean of each unit) over all ranks' real tokens: the first of two passes, so that nothing cancels."""
    sums = [masked_sum(column, mask) for column in columns]
    count, *sums = all_reduce_together(scope, [mask.sum().to(sums[0].dtype), *sums])
    return count, [total / count.clamp(min=1) for total in sums]


@torch.no_grad()
def _cross_half(pairs, mask, halves, products, alive, scope: Scope) -> Tensor:
    """Mean over different units alive and hookpoints of rho(1) rho(2); each half is centred on its own mean."""
    counts = [mask[half].sum() for half in halves]
    shifts = [masked_sum(a[half] - mean, mask[half]) for a, mean in pairs for half in halves]
    local = [*(count.to(shifts[0].dtype) for count in counts), *shifts]
    first, second, *shifts = all_reduce_together(scope, local)
    values = []
    for index, keep in enumerate(alive):
        rho = []
        for half, count in enumerate((first, second)):
            shift = shifts[2 * index + half]
            covariance = products[index][half] - torch.outer(shift, shift) / count
            variance = covariance.diagonal()
            keep = keep & (variance > 0)
            inverse_std = torch.where(keep, variance, torch.inf).rsqrt()
            rho.append(covariance * inverse_std * inverse_std[:, None])
        num_alive = keep.to(count.dtype).sum()
        product = rho[0] * rho[1] * keep * keep[:, None]
        total = product.sum() - product.diagonal().sum()
        values.append(total / (num_alive * (num_alive - 1)))
    return per_layer_mean(values)
