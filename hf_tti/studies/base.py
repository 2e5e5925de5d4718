"""What a study is: a measure that needs labels, a fit, several forwards or another model, and so no single pass.

Where a metric streams, a study looks at one bounded sample whose activations are kept in memory.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from hf_tti.components import check_limits
from hf_tti.sites import Hookpoint, as_sites
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """A frozen dataclass of settings and one verb.

    Attributes:
        greater_is_better: which way is more interpretable; None where neither is claimed.
        null_rows: the nulls of `hf_tti.report.NULL_ROWS` that this study can tell from a trained model.
        by_default: whether an evaluation without instructions runs it.

    Args:
        sites: names such as `mlp.neurons`, or module paths with `*` for one segment.
    """

    greater_is_better: ClassVar[bool | None] = None
    null_rows: ClassVar[tuple[str, ...]] = ("random_init", "rotated")
    by_default: ClassVar[bool] = True

    sites: tuple[str, ...] = ("mlp.neurons",)

    def __post_init__(self):
        object.__setattr__(self, "sites", as_sites(self.sites))
        check_limits(self)

    def check(self) -> None:  # noqa: B027 - most studies need nothing
        """Called before anything is measured.

        Raises:
            UserError: a library that the study needs is not installed.
        """

    @abstractmethod
    def run(self, subject: Subject, sample: Sample, reference: Subject | None = None) -> dict[str, float | np.ndarray]:
        """Numbers by key (`layer_0`, `mean`; `<name>/layer_0` for others), and arrays for reports.

        Args:
            subject: the model, which keeps its activations on the sample.
            sample: tokens, documents, labels. A study that finds no label of its own in it gives a NaN `mean`.
            reference: another model to compare with, where the user named one.

        Raises:
            UserError: a library that is not installed, a sample too small to say anything.
        """

    def layer_keys(self, points: Sequence[Hookpoint]) -> list[str]:
        """The key of each hookpoint: `layer_3`, `mlp.out/layer_3` where there are several sites, and the module's path
        in front where a pattern matches twice in a layer.
        """
        keys = [f"layer_{p.layer}" if len(self.sites) == 1 else f"{p.site}/layer_{p.layer}" for p in points]
        counts = Counter(keys)
        return [
            key if counts[key] == 1 else f"{re.sub(r'[.][0-9]+[.]', '.*.', p.path)}/layer_{p.layer}"
            for key, p in zip(keys, points, strict=True)
        ]

    def run_and_save(
        self, subject: Subject, sample: Sample, folder: Path, reference: Subject | None = None
    ) -> dict[str, float | np.ndarray]:
        """As `run`; a study that makes more than numbers and arrays leaves it in files under `folder`."""
        return self.run(subject, sample, reference)
