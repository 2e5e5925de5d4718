"""Forward passes of random activations for tests of metrics, the same draws on every version."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hf_tti.activations import ForwardPass, Site
from hf_tti.metrics.base import Metric

TYPES = 11
UNITS = 10


def random_forward(
    metric: Metric,
    *,
    rows: int = 6,
    length: int = 9,
    seed: int = 0,
    relu: bool = False,
    ragged: bool = True,
    layers: int = 2,
) -> ForwardPass:
    """Activations that depend on the token, for every site of a metric. One model for all seeds.

    Ragged rows are padded with a token that also occurs as a real one; padding is loud.
    """
    draw = np.random.RandomState(seed)
    ids = draw.randint(0, TYPES, size=(rows, length))
    mask = np.arange(length) < draw.randint(1, length + 1, size=(rows, 1))
    if not ragged:
        mask = np.ones_like(mask)
    ids[~mask] = 3
    sites = {}
    for name in metric.sites:
        for layer in range(layers):
            by_type = draw.randn(TYPES, UNITS)
            activations = 0.7 * draw.randn(rows, length, UNITS) + by_type[ids] - 0.1
            activations[~mask] = 50.0
            if relu:
                activations = np.maximum(activations, 0.0)
            out_weight = None if name in ("mlp.out", "resid") else _out_weight(layer)
            sites[f"h.{layer}.{name}"] = Site(float32(activations), layer, name, out_weight)
    return ForwardPass(torch.from_numpy(ids), torch.from_numpy(mask), sites)


def _out_weight(layer: int) -> Tensor:
    return float32(np.random.RandomState(100 + layer).randn(UNITS, 5))


def float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def with_activations(forward: ForwardPass, change) -> ForwardPass:
    """The forward with `change(site) -> Site` applied to every site."""
    return replace(forward, sites={path: change(site) for path, site in forward.sites.items()})


def take_rows(forward: ForwardPass, index) -> ForwardPass:
    """Rows of a batch, in any order or number."""
    index = torch.as_tensor(index, dtype=torch.long)
    taken = with_activations(forward, lambda s: replace(s, activations=s.activations[index]))
    return replace(taken, input_ids=forward.input_ids[index], token_mask=forward.token_mask[index])


def measured(metric: Metric, *forwards: ForwardPass) -> dict:
    """The finalized values of a pass over batches."""
    state = metric.init()
    for forward in forwards:
        state = metric.update(state, forward)
    return metric.finalize(state)


def numpy_rows(forward: ForwardPass) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Real tokens of the first site in float64: activations [N, D], ids [N], and ‖W_out‖ [D]."""
    site = next(iter(forward.sites.values()))
    mask = forward.token_mask.numpy()
    rows = site.activations.double().numpy()[mask]
    return rows, forward.input_ids.numpy()[mask], site.write_norm.double().numpy()
