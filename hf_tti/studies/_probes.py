"""What the probes share: the tokens and classes that a field of labels asks about, and the fits.

Even documents fit, odd ones score: a split of tokens would put neighbours of one sentence on both sides and let a probe
score on what it has memorised. Units are standardised by the fitting half, so that their scale decides nothing. With n
tokens, W [D, C] and losses in nats a fit minimises  (1/n) Σ_t −log softmax(x_t W + b)[c_t] + ½·l2·‖W‖².
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from hf_tti.components import component_name
from hf_tti.errors import UserError
from hf_tti.metrics.base import with_mean
from hf_tti.studies.base import Study
from hf_tti.studies.sample import NO_LABEL, Sample
from hf_tti.studies.subject import Subject

_MAX_ITERATIONS = 300
_TOLERANCE = 3e-3  # of the largest entry of the gradient; 1e-4 moves no accuracy by 0.003 and takes four times as long
_NOTHING = float("nan")


@dataclass(frozen=True)
class ProbeTask:
    """Which tokens of a sample have which class.

    Attributes:
        names: of the C classes.
        num_left_out: classes with too few tokens.
        fit, score: [n], [m] int64: indices into the sample's tokens, of even and of odd documents.
        fit_classes, score_classes: [n], [m] int64: indices into `names`.
    """

    names: tuple[str, ...]
    num_left_out: int
    fit: np.ndarray
    score: np.ndarray
    fit_classes: np.ndarray
    score_classes: np.ndarray

    @property
    def names_array(self) -> np.ndarray:
        """[bytes] uint8: the names as UTF-8, one a line. `bytes(array).decode().split("\\n")` reads them again."""
        return np.frombuffer("\n".join(self.names).encode("utf-8", errors="replace"), dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class ProbeStudy(Study):
    """Probes of label fields at every hookpoint; what is fitted is a subclass's affair.

    Args:
        sites: see `Study`.
        fields: of the sample's labels, each with probes of its own.
        min_class_tokens: a class with fewer in either half is left out.
        max_tokens: at most this many tokens of each half and the rest of the document that reaches them.
    """

    greater_is_better: ClassVar[bool | None] = True

    fields: tuple[str, ...] = field(default=("pos",), metadata={"help": "Fields of the sample's labels."})
    min_class_tokens: int = field(
        default=20, metadata={"min": 1, "help": "A class with fewer tokens in either half is left out."}
    )
    max_tokens: int = field(
        default=8192,
        metadata={"min": 1, "help": "Tokens of each half: its first documents up to the one that reaches this number."},
    )

    def __post_init__(self):
        object.__setattr__(self, "fields", (self.fields,) if isinstance(self.fields, str) else tuple(self.fields))
        super().__post_init__()

    def check(self) -> None:
        require_sklearn(component_name(type(self)))

    def run(self, subject: Subject, sample: Sample, reference: Subject | None = None) -> dict[str, float | np.ndarray]:
        self.check()
        points = subject.hookpoints(self.sites)
        by_layer: dict[str, float] = {}
        of_sample: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        for name, prefix in field_prefixes(self.fields).items():
            task = probe_task(sample, name, min_class_tokens=self.min_class_tokens, max_tokens=self.max_tokens)
            if task is None:
                of_sample |= no_values(prefix, self.sites)
                continue
            of_sample |= {f"{what}/{prefix}mean": value for what, value in self.facts(sample, task).items()}
            for key, point in zip(self.layer_keys(points), points, strict=True):
                numbers, found = self.probe(subject.activations(sample, point).numpy(), sample, task)
                by_layer |= {f"{what}{prefix}{key}": value for what, value in numbers.items()}
                arrays |= {f"{what}/{prefix}{key}": array for what, array in found.items()}
            arrays[f"class_names/{prefix}".rstrip("/")] = task.names_array
        return {**with_mean(by_layer), **of_sample, **arrays}

    def facts(self, sample: Sample, task: ProbeTask) -> dict[str, float]:
        """Numbers of the task alone, by name."""
        return {"num_classes": float(len(task.names)), "num_classes_left_out": float(task.num_left_out)}

    @abstractmethod
    def probe(
        self, activations: np.ndarray, sample: Sample, task: ProbeTask
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Numbers by name (`""`, or one that ends in a slash) and arrays by name, for activations [N, D]."""


def probe_task(sample: Sample, name: str, *, min_class_tokens: int, max_tokens: int) -> ProbeTask | None:
    """The task of a field of labels; None where fewer than two of its classes have tokens enough.

    Args:
        min_class_tokens: what a class must have in each half.
        max_tokens: of each half's documents, in order, those up to and with the one that reaches this number.
    """
    if name not in sample.labels:
        return None
    labels = sample.labels[name]
    known = labels.codes != NO_LABEL
    halves = [np.flatnonzero(known & _first_documents(sample, half, max_tokens)) for half in (0, 1)]
    counts = np.array([np.bincount(labels.codes[half], minlength=len(labels.names)) for half in halves])
    kept = np.flatnonzero(counts.min(axis=0) >= min_class_tokens)
    if len(kept) < 2:
        return None
    fit, score = (half[np.isin(labels.codes[half], kept)] for half in halves)
    return ProbeTask(
        names=tuple(labels.names[code] for code in kept),
        num_left_out=int((counts.sum(axis=0) > 0).sum()) - len(kept),
        fit=fit,
        score=score,
        fit_classes=np.searchsorted(kept, labels.codes[fit]),
        score_classes=np.searchsorted(kept, labels.codes[score]),
    )


def standardised(activations: np.ndarray, task: ProbeTask) -> tuple[np.ndarray, np.ndarray] | None:
    """[n, D] and [m, D]: the tokens to fit and to score, less the mean of the first, over its standard deviation.
    Constant units are 0. None where an activation is not finite.
    """
    from sklearn.preprocessing import StandardScaler

    fit, score = activations[task.fit], activations[task.score]
    if not (np.isfinite(fit).all() and np.isfinite(score).all()):
        return None
    scaler = StandardScaler().fit(fit)
    return scaler.transform(fit), scaler.transform(score)


def logistic_predictions(
    fit: np.ndarray, classes: np.ndarray, score: np.ndarray, *, l2: float, balanced: bool = False
) -> tuple[np.ndarray, bool]:
    """[m] classes that logistic regression predicts, and whether the fit converged.

    Args:
        fit, classes, score: [n, D], [n], [m, D].
        l2: of the module's formula.
        balanced: weigh tokens so that all classes weigh the same.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(classes)) == 1:
        return np.full(len(score), classes[0]), True
    model = LogisticRegression(
        C=1 / (l2 * len(fit)),
        class_weight="balanced" if balanced else None,
        tol=_TOLERANCE,
        max_iter=_MAX_ITERATIONS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(fit, classes)
    return model.predict(score), bool(model.n_iter_.max() < _MAX_ITERATIONS)


def require_sklearn(study: str) -> None:
    """Raises:
    UserError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(f'{study}: scikit-learn is not installed: pip install "hf-tti[analysis]"') from error


def field_prefixes(fields: Sequence[str]) -> dict[str, str]:
    """What each field's keys carry: nothing where there is one field, `pos/` where there are several."""
    return {name: f"{name}/" if len(fields) > 1 else "" for name in fields}


def no_values(prefix: str, sites: Sequence[str]) -> dict[str, float]:
    """The NaN means of a field without a task."""
    return {f"{prefix}{site}mean": _NOTHING for site in ([f"{site}/" for site in sites] if len(sites) > 1 else [""])}


def _first_documents(sample: Sample, half: int, max_tokens: int) -> np.ndarray:
    """[N] bool: tokens of the documents of one half that `max_tokens` lets through, whole."""
    lengths = np.bincount(sample.documents)
    lengths[1 - half :: 2] = 0
    kept = lengths.cumsum() - lengths < max_tokens
    kept[1 - half :: 2] = False
    return kept[sample.documents]
