"""What a model card shows of a run's numbers: tables, pictures and notes.

Intervals and pictures come from a package that offers them by an entry point in the group `hf_tti.card_parts`, whose
object is `(run_dir, report_dir) -> CardParts`; without one, values stand alone. Loads no torch.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hf_tti.errors import UserError
from hf_tti.report import NULL_ROWS, REPORT_DIR, REPORT_FILE, Report
from hf_tti.run_folder import RunFolder
from hf_tti.table import format_number, headline_metrics

ENTRY_POINTS = "hf_tti.card_parts"
NULL_NAMES = dict(zip(NULL_ROWS, ("random weights", "rotated", "shuffled labels"), strict=True))
Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class CardPicture:
    """A picture in the card.

    Attributes:
        name: of its file, without the ending.
        title: a few words; what stands in for it where it cannot be seen.
        caption: what it shows; "" where the title says it.
        png: the file's content.
        width: in the card, pixels.
    """

    name: str
    title: str
    png: bytes
    width: int
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class CardParts:
    """The numbers of one run, as text that nobody has escaped.

    Attributes:
        summary: how the model did, in a sentence; "" where nothing is known.
        loss: rows on cross-entropy: the value, its intervals, the baseline, random weights.
        metrics: a row a metric: value, interval, difference, null rows.
        definitions: a line for each metric.
        more: other values of the same metrics and studies.
        curves, frontiers: pictures.
        notes: what a reader has to know of the numbers.
    """

    summary: str = ""
    loss: Sequence[Row] = ()
    metrics: Sequence[Row] = ()
    definitions: Sequence[str] = ()
    more: Sequence[Row] = ()
    curves: Sequence[CardPicture] = ()
    frontiers: Sequence[CardPicture] = ()
    notes: Sequence[str] = field(default_factory=list)


def card_parts(run: RunFolder, report_dir: Path | None = None) -> CardParts:
    """The best that is installed for this run: with intervals and pictures where its report can be read.

    Args:
        report_dir: what `hf-tti report` wrote, for its frontier pictures.

    Raises:
        UserError: `report_dir` holds no such pictures, or there is nobody to read it; a damaged report.
    """
    if not (run.path / REPORT_DIR / REPORT_FILE).is_file():
        if report_dir is not None:
            raise UserError(f"--report {report_dir}: {run.path} has no report; hf-tti evaluate {run.path} makes one")
        return _of_training(run)
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            return entry_point.load()(run.path, report_dir)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] == "hf_tti":
                raise
            lacking = f"no intervals and no pictures: {error.name} was not installed where this card was made"
            break
        except UserError as error:  # of the numbers, such as a cross-entropy that is not finite
            if report_dir is not None:
                raise
            lacking = f"no intervals and no pictures: {str(error).replace(str(run.path), run.path.name)}"
            break
    else:
        lacking = "no intervals and no pictures: nothing that makes them was installed where this card was made"
    if report_dir is not None:
        raise UserError(f"--report {report_dir}: {lacking}; pip install 'hf-tti[analysis]'")
    return _of_report(Report.load(run.path), lacking)


def more_rows(report: Report, without: Sequence[str]) -> Iterator[Row]:
    """A row for each mean over layers whose key is not in `without`, with its null rows."""
    for key, value in report.metrics.items():
        if key.endswith("/mean") and key not in without:
            yield {"value": key.removesuffix("/mean"), "this model": format_number(value), **null_cells(report, key)}


def null_cells(report: Report, key: str) -> dict[str, str]:
    """Of every null row of the report that has some metric, by its name; "-" where it has not this one."""
    rows = {row: values for row in NULL_ROWS if (values := report.nulls.get(row))}
    return {NULL_NAMES[row]: format_number(values.get(key)) for row, values in rows.items()}


def _of_training(run: RunFolder) -> CardParts:
    metrics = (run.result() or {}).get("metrics", {})
    note = "not evaluated yet: values are those of training's own last evaluation, without null rows or intervals"
    return CardParts(
        summary=_loss_sentence(metrics.get("eval_loss"), metrics.get("eval_perplexity")),
        loss=_loss_rows({"": {key.removeprefix("eval_"): value for key, value in metrics.items()}}),
        metrics=_metric_rows({"this model": metrics}),
        notes=[note],
    )


def _of_report(report: Report, lacking: str) -> CardParts:
    columns = {
        "this model": report.metrics,
        **{NULL_NAMES[row]: of for row in NULL_ROWS if (of := report.nulls.get(row))},
    }
    rows = _metric_rows({name: {f"eval_{k}": v for k, v in of.items()} for name, of in columns.items()})
    means = [f"{row['metric']}/mean" for row in rows]
    arrows = {True: " ↑", False: " ↓"}
    of_label = {label: arrows.get(facts.get("greater_is_better"), "") for label, facts in report.metric_facts.items()}
    return CardParts(
        summary=_loss_sentence(report.metrics.get("loss"), report.metrics.get("perplexity")),
        loss=_loss_rows({"": report.metrics, "random weights": report.nulls.get("random_init", {})}),
        metrics=[{**row, "metric": row["metric"] + of_label.get(row["metric"].split("/")[0], "")} for row in rows],
        definitions=[f"{label}{of_label[label]}: {of.get('summary', '')}" for label, of in report.metric_facts.items()],
        more=list(more_rows(report, means)),
        notes=[lacking],
    )


def _loss_sentence(loss: float | None, perplexity: float | None) -> str:
    if loss is None:
        return "Its validation cross-entropy is not a finite number."
    return f"Validation cross-entropy {loss:.4f} nats a token (perplexity {format_number(perplexity)})."


def _loss_rows(columns: Mapping[str, Mapping[str, float | None]]) -> list[Row]:
    """Cross-entropy to 1e-4, perplexity."""
    rows = []
    for key, name in (("loss", "cross-entropy, nats a token"), ("perplexity", "perplexity")):
        values = {column or "this model": of[key] for column, of in columns.items() if of.get(key) is not None}
        cells = {name: f"{value:.4f}" if key == "loss" else format_number(value) for name, value in values.items()}
        rows += [{"": name, **cells}] if cells else []
    return rows


def _metric_rows(columns: Mapping[str, Mapping[str, float | None]]) -> list[Row]:
    found = {name: headline_metrics(of) for name, of in columns.items()}
    names = [name for name in found["this model"] if name != "perplexity"]
    return [{"metric": name, **{column: format_number(of.get(name)) for column, of in found.items()}} for name in names]
