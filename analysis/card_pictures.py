"""The pictures of a model card: how one run trained, and the frontiers of the runs around it, as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures
from analysis.comparison import Comparison
from analysis.figures.curves import curve_of
from analysis.runs import Run
from analysis.theme import INK, MUTED, SERIES, Picture, style, text
from hf_tti.card_parts import CardPicture
from hf_tti.errors import UserError

FRONTIERS = "figures/frontier-*.png"
_MAX_BYTES, _DPI = 5_000_000, 200
_PNG = b"\x89PNG\r\n\x1a\n"
_WHOLE, _HALF = 760, 375  # pixels of the card's column
_TERM_LINES = ("-", "--", "-.", ":")


def curve_pictures(run: Run, base: Run | None) -> list[CardPicture]:
    """Cross-entropy by step, the baseline's of the same seed beside it, and the objectives; [] without a log."""
    training = curve_of(run, "ce_loss") or curve_of(run, "loss")
    if len(training) < 2:
        return []
    terms = _terms(run)
    with style():
        figure = Figure(figsize=(7.6, 2.9), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
        axes = figure.subplots(1, 2 if terms else 1, squeeze=False)[0]
        _draw_losses(axes[0], run, base, training)
        if terms:
            _draw_terms(axes[1], terms)
        png = _png(figure)
    caption = "Cross-entropy of training batches by optimizer step, and of the validation split where it was evaluated"
    if base is not None:
        caption += f"; dotted: {base.method} with the same seed"
    caption += "; on the right what the objective measures" * bool(terms)
    return [CardPicture(name="training-curve", title="Training curve", caption=f"{caption}.", png=png, width=_WHOLE)]


def _terms(run: Run) -> dict[str, Mapping[int, float]]:
    """Label -> objective by step before its weight; after its weight, in nats, where there are several."""
    names = [name for name in dict.fromkeys(key for line in run.curves for key in line) if name.count("/") == 1]
    labels = [name.removeprefix("objective/") for name in names if name.startswith("objective/")]
    prefix = "objective/" if len(labels) == 1 else "weighted/"
    curves = {label: curve_of(run, prefix + label) for label in labels}
    return {label: curve for label, curve in curves.items() if len(curve) > 1}


def _draw_losses(axes: Axes, run: Run, base: Run | None, training: Mapping[int, float]) -> None:
    if base and (theirs := curve_of(base, "ce_loss") or curve_of(base, "loss")):
        axes.plot(*_points(theirs), color=MUTED, lw=1.2, ls=":", label=text(f"{base.method}, training"))
    axes.plot(*_points(training), color=SERIES[0], lw=1.5, label="training")
    if validation := curve_of(run, "eval_loss"):
        axes.plot(*_points(validation), color=SERIES[1], ls="none", marker="o", ms=5, label="validation")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("cross-entropy, nats a token")
    axes.legend(loc="best")


def _draw_terms(axes: Axes, terms: Mapping[str, Mapping[int, float]]) -> None:
    for (label, curve), dash, number in zip(terms.items(), _TERM_LINES * len(terms), range(len(terms)), strict=False):
        colour = SERIES[(number + 2) % len(SERIES)]
        axes.plot(*_points(curve), color=colour, ls=dash, lw=1.5, label=text(label))
    axes.axhline(0, color=INK, lw=0.5)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("objective before its weight" if len(terms) == 1 else "weighted objective, nats")
    axes.legend(loc="best")


def _points(curve: Mapping[int, float]) -> tuple[list[int], list[float]]:
    steps = sorted(curve)
    return steps, [curve[step] for step in steps]


def frontier_pictures(comparison: Comparison, report_dir: Path | None) -> list[CardPicture]:
    """Of a report's folder, or drawn where there are several methods; a declared composite first.

    Raises:
        UserError: `report_dir` holds none, or one that is no PNG of at most 5 MB.
    """
    if report_dir is not None:
        return sorted(_of_report(Path(report_dir)), key=_composite_first)
    if len(comparison.methods) < 2:
        return []
    return sorted(map(_drawn, figures.frontier_pictures(comparison)), key=_composite_first)


def _composite_first(picture: CardPicture) -> bool:
    return not picture.name.endswith("-composite")


def _drawn(picture: Picture) -> CardPicture:
    with style():
        png = _png(picture.figure)
    front = picture.caption.partition(". ")[0].rstrip(".")
    return CardPicture(name=picture.name, title=picture.title, caption=f"{front}.", png=png, width=_HALF)


def _of_report(folder: Path) -> list[CardPicture]:
    named = {path: re.fullmatch(r"frontier-([0-9]+)-([a-z0-9-]+)", path.stem) for path in folder.glob(FRONTIERS)}
    found = sorted((int(name[1]), name[2], path) for path, name in named.items() if name)
    if not found:
        raise UserError(f"--report {folder}: holds no {FRONTIERS}; hf-tti report RUNS --out {folder} draws them")
    return [_read(path, f"{metric.replace('-', ' ')} against cross-entropy") for _, metric, path in found]


def _read(path: Path, title: str) -> CardPicture:
    png = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else b""
    if not png.startswith(_PNG):
        raise UserError(f"{path}: not a PNG picture of at most {_MAX_BYTES // 1_000_000} MB")
    return CardPicture(name=path.stem, title=title, png=png, width=_HALF)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
