"""What the built-in metrics share: a state of one additive record per hookpoint, and the rows of
real tokens.

A record is a dict of tensors and numbers. `absorb(record, observation)` adds one to another and is
the only arithmetic between batches and between ranks, so that both add up in the same way.
"""

from __future__ import annotations

import copy
import re
from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_tti.activations import ForwardPass, Site
from hf_tti.metrics.base import Metric, layer_key, with_mean

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PerLayerMetric(Metric):
    """A metric whose state is layer key -> record.

    Results are `layer_<i>` and `mean` for the value named "", `<name>/layer_<i>` and `<name>/mean`
    for the others; with several sites `mlp.out/layer_<i>`, `<name>/mlp.out/layer_<i>`. Without any
    data the result is a NaN `mean`.
    """

    def observe(self, forward: ForwardPass, path: str) -> Record:
        """The record of one batch at one hookpoint, for `extend`. May be shared with other metrics: nobody changes
        it.
        """
        raise NotImplementedError

    @abstractmethod
    def absorb(self, record: Record | None, observation: Record) -> Record:
        """The sum of both; may change `record` in place, never `observation`, and shares no tensor
        with it.
        """

    def extend(self, record: Record | None, forward: ForwardPass, path: str) -> Record:
        """The record with one batch more; may change `record`. A metric that adds to its record directly, or looks
        only for what it does not have, defines this and no `observe`.
        """
        return self.absorb(record, self.observe(forward, path))

    @abstractmethod
    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        """Values by name, "" for the metric's own."""

    def is_broken(self, record: Record) -> bool:
        """Whether the layer had activations that are not finite, so that its numbers are NaN; its arrays stay."""
        return False

    def init(self) -> dict[str, Record]:
        return {}

    @torch.no_grad()
    def update(self, state: dict[str, Record], forward: ForwardPass) -> dict[str, Record]:
        keys = _keys(forward, several_sites=len(self.sites) > 1)
        for path, key in keys.items():
            state[key] = self.extend(state.get(key), forward, path)
        return state

    @torch.no_grad()
    def merge(self, a: dict[str, Record], b: dict[str, Record]) -> dict[str, Record]:
        merged = copy.deepcopy(a)
        for key, record in b.items():
            merged[key] = self.absorb(merged.get(key), record)
        return merged

    @torch.no_grad()
    def finalize(self, state: dict[str, Record]) -> dict[str, float | np.ndarray]:
        numbers: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for key in sorted(state, key=_natural):
            broken = self.is_broken(state[key])
            for name, value in self.summarise(state[key]).items():
                is_number = not isinstance(value, np.ndarray)
                chosen = numbers if is_number else arrays
                chosen[f"{name}/{key}" if name else key] = float("nan") if broken and is_number else value
        return {**(with_mean(numbers) if numbers else self._without_data()), **arrays}

    def _without_data(self) -> dict[str, float]:
        prefixes = [f"{site}/" for site in self.sites] if len(self.sites) > 1 else [""]
        return {f"{prefix}mean": float("nan") for prefix in prefixes}


def real_rows(forward: ForwardPass, site: Site) -> Tensor:
    """[N, D] float32 (float64 stays): the activations of real tokens, in the order of the batch."""
    device = site.activations.device
    rows = site.activations.detach().flatten(0, 1)
    index = forward.once(("real_rows", device), lambda: _real_index(forward.token_mask.to(device)))
    chosen = rows if index is None else rows[index]
    return chosen if chosen.dtype == torch.float64 else chosen.float()


def write_norm(site: Site) -> Tensor:
    """[D] on the activations' device: ‖W_out,i‖, ones where the site is the residual stream's
    own.
    """
    return site.write_norm.detach().to(site.activations.device)


def ratio(numerator: float, denominator: float) -> float:
    """The quotient, NaN for 0/0."""
    return numerator / denominator if denominator else float("nan")


def _real_index(mask: Tensor) -> Tensor | None:
    """Flat positions of real tokens, None where that is all of them."""
    return None if bool(mask.all()) else mask.flatten().nonzero().squeeze(1)


def _keys(forward: ForwardPass, several_sites: bool) -> dict[str, str]:
    """Path -> layer key. Where a pattern matches twice in a layer, the path tells the matches
    apart.
    """
    keys = {path: layer_key(site, several_sites) for path, site in forward.sites.items()}
    counts = Counter(keys.values())
    return {
        path: key if counts[key] == 1 else f"{re.sub(r'[.][0-9]+[.]', '.*.', path)}/layer_{forward.sites[path].layer}"
        for path, key in keys.items()
    }


def _natural(key: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]
