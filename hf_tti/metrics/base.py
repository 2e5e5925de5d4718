"""What a metric is: a state that every batch updates, that two ranks can merge, and that becomes
numbers at the end.

`merge(update(init(), a), update(init(), b))` equals `update(update(init(), a), b)` for any split of
a data set: exact under distributed evaluation, and memory does not grow with the corpus unless the
metric says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hf_tti.activations import ForwardPass, Site
from hf_tti.components import check_limits
from hf_tti.sites import as_sites

State = Any  # nested dicts of tensors and numbers; picklable


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A frozen dataclass of settings and four pure verbs.

    Attributes:
        greater_is_better: which way is more interpretable; None where neither is claimed.
        null_rows: the nulls of `hf_tti.report.NULL_ROWS` that can change its value.

    Args:
        sites: names such as `mlp.neurons`, or module paths with `*` for one segment, `:in` for a
            module's input.
    """

    greater_is_better: ClassVar[bool | None] = None
    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "rotated")

    sites: tuple[str, ...] = ("mlp.neurons",)

    def __post_init__(self):
        object.__setattr__(self, "sites", as_sites(self.sites))
        check_limits(self)

    @abstractmethod
    def init(self) -> State:
        """An empty state."""

    @abstractmethod
    def update(self, state: State, forward: ForwardPass) -> State:
        """The state after one more batch. `forward` holds this metric's sites only. May change
        `state` in place.
        """

    @abstractmethod
    def merge(self, a: State, b: State) -> State:
        """The state of both batches of data together."""

    @abstractmethod
    def finalize(self, state: State) -> dict[str, float | np.ndarray]:
        """Numbers by key (`layer_0`, `mean`), and arrays for reports. An empty state gives NaN,
        never an exception.
        """


def layer_key(site: Site, several_sites: bool) -> str:
    """`layer_3`, or `mlp.out/layer_3` where a metric looks at several sites."""
    return f"{site.name}/layer_{site.layer}" if several_sites else f"layer_{site.layer}"


def with_mean(values: Mapping[str, float]) -> dict[str, float]:
    """The values and, under `mean` (`<site>/mean` for keys that carry a site), their mean over
    layers, NaN left out.
    """
    groups: dict[str, list[float]] = {}
    for key, value in values.items():
        groups.setdefault(key.rpartition("layer_")[0], []).append(value)
    return {**values, **{f"{prefix}mean": _nanmean(group) for prefix, group in groups.items()}}


def _nanmean(values: Iterable[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
