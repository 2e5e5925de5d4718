"""Training curves: what a run logged by step, a line a method, its range over seeds as a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.comparison import Comparison
from analysis.figures._axes import empty_axes, legend_below, method_handle
from analysis.runs import Run
from analysis.theme import MUTED, Picture, looks, slug, style, text

MAX_POINTS = 200  # of a line
_QUANTITIES = {  # name in the log -> title, axis
    "ce_loss": ("Training cross-entropy", "ce_loss, nats a token"),
    "eval_loss": ("Validation cross-entropy", "eval_loss, nats a token"),
    "loss": ("Training loss with its objectives", "loss"),
    "reg_to_ce_ratio": ("Weighted objectives over cross-entropy", "reg_to_ce_ratio"),
}
_GROUPS = {  # prefix in the log -> title
    "weighted/": "Weighted objectives",
    "objective/": "Objectives before their weight",
    "force_ratio/": "Gradient of an objective over that of cross-entropy",
}
_DASHES = ("-", "--", "-.", ":")  # of a method's terms
Curve = Mapping[int, float]
Lines = Mapping[tuple[str, str], Sequence[Curve]]  # (method, term) -> one curve a run


def curve_pictures(comparison: Comparison) -> list[Picture]:
    """One a quantity that some run logged at two steps or more; none without logs."""
    lines = {name: _lines(comparison, name) for name in _QUANTITIES}
    pictures = [_picture(comparison, name, *words, lines[name]) for name, words in _QUANTITIES.items()]
    difference = "Training cross-entropy minus the baseline's", "difference of ce_loss, nats a token"
    pictures.insert(1, _picture(comparison, "ce-difference", *difference, _differences(comparison, lines["ce_loss"])))
    for prefix, title in _GROUPS.items():
        pictures.append(_picture(comparison, prefix, title, prefix.rstrip("/"), _terms(comparison, prefix)))
    return [picture for picture in pictures if picture is not None]


def _lines(comparison: Comparison, quantity: str, term: str = "") -> Lines:
    found = {(m.name, term): [curve_of(run, quantity) for run in m.runs] for m in comparison.methods}
    return {key: curves for key, curves in found.items() if any(len(curve) > 1 for curve in curves)}


def curve_of(run: Run, quantity: str) -> Curve:
    """Step -> what the run logged under this name, finite values alone."""
    points = ((line.get("step"), line.get(quantity)) for line in run.curves)
    return {step: float(value) for step, value in points if isinstance(step, int) and _is_finite(value)}


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def _terms(comparison: Comparison, prefix: str) -> Lines:
    """What lies below a term, such as `objective/x/alive_fraction`, measures it and is left out."""
    keys = {key for run in comparison.runs for line in run.curves for key in line if key.startswith(prefix)}
    terms = sorted(key.removeprefix(prefix) for key in keys if key.count("/") == 1)
    return {key: curves for term in terms for key, curves in _lines(comparison, prefix + term, term).items()}


def _differences(comparison: Comparison, lines: Lines) -> Lines:
    """Method minus baseline at the seeds and steps that both have."""
    runs = {method.name: method.runs for method in comparison.methods}
    reference = {
        run.seed: curve
        for run, curve in zip(runs.get(comparison.baseline, ()), lines.get((comparison.baseline, ""), ()), strict=False)
    }
    found = {
        (name, term): [
            {step: value - reference[run.seed][step] for step, value in curve.items() if step in reference[run.seed]}
            for run, curve in zip(runs[name], curves, strict=True)
            if run.seed in reference
        ]
        for (name, term), curves in lines.items()
        if name != comparison.baseline
    }
    return {key: curves for key, curves in found.items() if any(len(curve) > 1 for curve in curves)}


def _picture(comparison: Comparison, name: str, title: str, axis: str, lines: Lines) -> Picture | None:
    if not lines:
        return None
    shown = looks([method.name for method in comparison.methods], comparison.baseline)
    several = {method for method, term in lines if sum(other == method for other, _ in lines) > 1}
    handles, labels, last = [], [], []
    with style():
        figure, axes = empty_axes()
        for method, term in sorted(lines, key=lambda key: list(shown).index(key[0])):
            look = shown[method]
            if method in several:
                dash = [other for owner, other in lines if owner == method].index(term)
                look = look._replace(dash=_DASHES[dash % len(_DASHES)])
            steps, mean, low, high = _over_runs(lines[method, term])
            every = max(1, len(steps) // 6)
            marks = {"marker": look.marker, "ms": 4, "markevery": (every // 2, every)}
            axes.plot(steps, mean, color=look.colour, ls=look.dash, lw=1.4, **marks)
            axes.fill_between(steps, low, high, color=look.colour, alpha=0.18, lw=0)
            handles.append(method_handle(look))
            labels.append(f"{method}: {term}" if term and term != method else method)
            last.append(f"{labels[-1]} {mean[-1]:.4g}")
        if name == "ce-difference":
            axes.axhline(0, color=MUTED, lw=1)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(text(axis, 40))
        legend_below(figure, handles, labels)
    return Picture(name=f"curves-{slug(name)}", title=title, caption=f"At the end: {'; '.join(last)}.", figure=figure)


def _over_runs(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every run has (else that any has), thinned to `MAX_POINTS`; mean, smallest and largest over runs."""
    curves = [curve for curve in curves if curve]
    common = set.intersection(*(set(curve) for curve in curves))
    steps = np.array(sorted(common if len(common) > 1 else max(curves, key=len)))
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int))]
    values = np.array([[curve.get(step, np.nan) for step in steps.tolist()] for curve in curves])
    return steps, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0)
