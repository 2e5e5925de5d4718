"""Orthogonality of units' activation vectors over tokens, as published.

With G = sum_t m_t a_t a_t^T and cos_ij = G_ij / sqrt(G_ii G_jj):  R = mean over i != j of |cos_ij|, over D(D-1).
In [0, 1]: 0 when no two units are active on the same tokens in a correlated way, 1 when all are multiples of one.
A unit that never fires has cosine 0 with the others and stays in D(D-1). Uncentred, hence not 0 for independent units.
Source: the training-time-interpretability study (hiskuDN), with the mask applied, before dropout, without the diagonal.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.objectives._statistics import all_reduce_together, draw_block, gram, take_block
from hf_tti.objectives.base import Objective, Scope, Term, per_layer_mean


@dataclass(frozen=True, kw_only=True)
class Orthogonality(Objective):
    """Mean absolute cosine between different units' activation vectors.

    Logs `alive_fraction`: units with any activation on a real token.

    Args:
        sites: see `Objective`; the published site is the MLP's output.
        neuron_block: units drawn anew at each step, every pair of them compared; None compares all D.
    """

    needs_privileged_basis: ClassVar[bool] = True

    sites: tuple[str, ...] = ("mlp.out",)
    neuron_block: int | None = field(
        default=None,
        metadata={"min": 2, "help": "random units compared at each step; null for all"},
    )

    def terms(self, forward: ForwardPass, scope: Scope) -> dict[str, Term]:
        grams = []
        for site in forward.sites.values():
            activations = site.activations  # [B, T, D]
            block = draw_block(activations.shape[-1], self.neuron_block, scope, activations.device)
            grams.append(gram(take_block(activations, block), forward.token_mask))
        values, alive = zip(*map(_mean_absolute_cosine, all_reduce_together(scope, grams)), strict=True)
        scope.logs["alive_fraction"] = per_layer_mean(alive)
        return {"orthogonality": Term(per_layer_mean(values), kind="statistic")}


def _mean_absolute_cosine(products: Tensor) -> tuple[Tensor, Tensor]:
    """(mean of |cos| off the diagonal, fraction of units with a norm) from [D, D] scalar products."""
    width = products.shape[0]
    squared_norm = products.diagonal()
    alive = squared_norm.detach() > torch.finfo(products.dtype).tiny
    inverse_norm = torch.where(alive, torch.where(alive, squared_norm, 1).rsqrt(), 0)
    off_diagonal = products - torch.diag(squared_norm)
    total = inverse_norm @ (off_diagonal.abs() @ inverse_norm)
    return total / max(width * (width - 1), 1), alive.to(products.dtype).mean()
