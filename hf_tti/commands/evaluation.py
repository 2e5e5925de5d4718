"""`hf-tti evaluate`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.commands.base import positive
from hf_tti.console import complain, say
from hf_tti.errors import UserError
from hf_tti.table import Cell, format_number, format_table, headline_metrics

if TYPE_CHECKING:
    from hf_tti.loading import Checkpoint
    from hf_tti.report import Report


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    what = "a run folder, a folder with config.json, or a Hub id"
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=what)
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--data",
        metavar="FILE|FOLDER|BUILDER",
        help="text, or a corpus by name; default: the run's validation split, else synthetic_stories",
    )
    parser.add_argument("--metrics", metavar="A,B,C", help="and studies; default: the run's and the built-in ones")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="default: as the run, else the corpus's own")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="rows; default: as the run, else 8")
    parser.add_argument("--metric-batches", type=positive, metavar="N", help="batches that metrics see; default: all")
    parser.add_argument(
        "--labels", metavar="SOURCE", help="for probes: a JSONL file of words and labels, spacy, spacy:MODEL or nltk"
    )
    parser.add_argument("--sample-tokens", type=positive, metavar="N", help="that studies look at; default: 16384")
    parser.add_argument("--nulls", metavar="A,B,C", help="random_init, rotated, shuffled_labels, or none; default: all")
    parser.add_argument("--reference", metavar="CHECKPOINT", help="a model to compare with (cka)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/report, else reports/<name>")


def evaluate(arguments: argparse.Namespace) -> int:
    from hf_tti.loading import find_checkpoint

    if len(arguments.checkpoints) > 1 and arguments.out is not None:
        raise UserError(f"--out {arguments.out}: one folder for {len(arguments.checkpoints)} checkpoints; leave it out")
    places = [find_checkpoint(checkpoint, arguments.revision) for checkpoint in arguments.checkpoints]
    folders: dict[Path, Checkpoint] = {}
    for place in places:
        folder = arguments.out or place.default_out
        if (other := folders.setdefault(folder.resolve(), place)) is not place:
            raise UserError(f"{other.given} and {place.given} would both be reported in {folder}; name --out for each")
        _check_can_hold(folder)
    for place in places:
        _evaluate_one(place, arguments)
    return 0


def _check_can_hold(folder: Path) -> None:
    """Raises a UserError where no report can be saved, before the minutes of making one; writes nothing."""
    place = folder.absolute()
    nearest = next(path for path in (place, *place.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{folder}: cannot hold a report: {nearest} is a file")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot hold a report: nothing can be written in {nearest}")


def _evaluate_one(place: Checkpoint, arguments: argparse.Namespace) -> None:
    from hf_tti.evaluate import evaluate_checkpoint
    from hf_tti.tracking.reports import log_report

    nulls = _words("--nulls", arguments.nulls)
    folder = arguments.out or place.default_out
    with tempfile.TemporaryDirectory() as files:
        report = evaluate_checkpoint(
            place,
            data=arguments.data,
            metrics=_words("--metrics", arguments.metrics),
            max_tokens=arguments.max_tokens,
            batch_size=arguments.batch_size,
            metric_batches=arguments.metric_batches,
            labels=arguments.labels,
            sample_tokens=arguments.sample_tokens,
            nulls=[] if nulls == ["none"] else nulls,
            reference=arguments.reference,
            files=Path(files),
            progress=sys.stderr.isatty(),
        )
        report.save(folder, Path(files))
    if lacking := [name for name, value in report.metrics.items() if value is None]:
        names = ", ".join(lacking[:4]) + ", …" * (len(lacking) > 4)
        complain(f"{report.name}: no finite value for {len(lacking)} of {len(report.metrics)} names: {names}")
    if place.run is not None:
        log_report(place.run, report)
    if len(arguments.checkpoints) == 1:
        say(f"{report.name}, {report.metrics['num_tokens']:,} tokens of {report.data.name}\n")
        say(format_table(_with_nulls(report)))
        say(f"\nreport in {folder}")
    else:
        loss, perplexity = (format_number(report.metrics[name]) for name in ("loss", "perplexity"))
        say(f"{report.name}: loss {loss}, perplexity {perplexity}, report in {folder}")


def _with_nulls(report: Report) -> list[dict[str, Cell]]:
    """The means over layers, a row a metric, and beside them what the nulls have."""
    columns = {"value": report.metrics, **report.nulls}
    columns = {name: headline_metrics({f"eval_{k}": v for k, v in of.items()}) for name, of in columns.items()}
    rows = [{"metric": "loss", "value": report.metrics["loss"], **{n: v.get("loss") for n, v in report.nulls.items()}}]
    rows += [
        {"metric": metric, **{name: of.get(metric) for name, of in columns.items()}} for metric in columns["value"]
    ]
    return rows


def _words(option: str, text: str | None) -> list[str] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if "" in words:
        raise UserError(f"{option} {text!r}: a name is empty; names stand between commas, as in a,b")
    return words
