"""The numbers and pictures of a model card: one run among its neighbours, the evaluated runs of the same folder.

cross-entropy   t over document shards: jackknife, this model held fixed; and t over the seeds of its method
metrics         t over those seeds; differences to the baseline paired by seed
A neighbour counts where it was evaluated on the same rows, and as a seed of the method where only its seed differs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.card_pictures import curve_pictures, frontier_pictures
from analysis.comparison import Comparison, MethodSummary, MetricInfo, compare_runs
from analysis.estimates import over_documents
from analysis.intervals import Estimate, document_difference
from analysis.measures import check_losses, check_same_data, metric_infos
from analysis.rows import DASH, between, is_apart
from analysis.runs import Run, read_run
from analysis.tables import nats, number
from hf_tti.card_parts import NULL_NAMES, CardParts, Row, more_rows
from hf_tti.errors import UserError
from hf_tti.report import REPORT_DIR, REPORT_FILE, find_report

_LIKE_NATS = 0.1  # four decimals


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """The run, its method over its seeds, and the baseline's run of the same seed."""

    run: Run
    method: MethodSummary
    comparison: Comparison
    base: Run | None

    @property
    def num_seeds(self) -> int:
        return len(self.method.runs)


def card_parts(run_dir: Path, report_dir: Path | None = None) -> CardParts:
    """What a card says of an evaluated run.

    Args:
        run_dir: the run's folder; the folders beside it are its neighbours.
        report_dir: what `hf-tti report` wrote: its frontier pictures are taken. Default: drawn from the neighbours.

    Raises:
        UserError: the run has no report or a damaged one, or no finite cross-entropy; no picture in `report_dir`.
    """
    run = read_run(find_report(Path(run_dir)))
    check_losses([run])
    notes: list[str] = []
    placed = _placed(run, [run, *_neighbours(run, Path(run_dir), notes)], notes)
    infos = [*metric_infos([run]), *(info for info in placed.comparison.metrics if info.key == "composite")]
    rows = [_metric_row(info, placed) for info in infos]
    return CardParts(
        summary=_summary(placed),
        loss=_loss_rows(placed),
        metrics=rows,
        definitions=[f"{info.title}: {info.summary}" for info in infos],
        more=list(more_rows(run.report, [info.key for info in infos])),
        curves=curve_pictures(run, placed.base),
        frontiers=frontier_pictures(placed.comparison, report_dir),
        notes=[*_notes(placed), *notes],
    )


# ---- Neighbours --------------------------------------------------------------------------------


def _neighbours(run: Run, run_dir: Path, notes: list[str]) -> Iterator[Run]:
    """Other evaluated runs beside this one, each method and seed once."""
    here = run_dir.resolve()
    labels = {run.label}
    for folder in sorted(entry for entry in here.parent.iterdir() if entry != here):
        if not (folder / REPORT_DIR / REPORT_FILE).is_file():
            continue
        try:
            other = read_run(folder / REPORT_DIR / REPORT_FILE)
            check_same_data([run, other])
            check_losses([other])
        except UserError:
            notes.append(f"{folder.name} is left out: it was not evaluated on the same data, or its report is damaged")
            continue
        if other.method == run.method and _recipe_but_seed(other) != _recipe_but_seed(run):
            notes.append(f"{other.name} is left out: its recipe differs in more than the seed")
        elif other.label not in labels:
            labels.add(other.label)
            yield other


def _recipe_but_seed(run: Run) -> dict | None:
    recipe = run.report.recipe
    if recipe is None:
        return None
    training = {key: value for key, value in (recipe.get("training") or {}).items() if key not in ("seed", "data_seed")}
    return {"training": training, **{key: recipe.get(key) or {} for key in ("model", "data", "objectives")}}


def _placed(run: Run, runs: Sequence[Run], notes: list[str]) -> _Placed:
    try:
        comparison = compare_runs(runs)
    except UserError:  # of the neighbours: the run itself was checked
        notes.append("the runs beside it cannot be compared with it")
        comparison = compare_runs([run])
    summaries = [*comparison.methods, *comparison.shorter]
    method = next(one for one in summaries if run in one.runs)
    base = next((one for one in comparison.methods if one.name == comparison.baseline), None)
    pairs = base.runs if base is not None and base is not method and method in comparison.methods else []
    partner = next((other for other in pairs if other.seed == run.seed and run.seed is not None), None)
    return _Placed(run=run, method=method, comparison=comparison, base=partner)


# ---- Cross-entropy -----------------------------------------------------------------------------


def _documents(run: Run) -> Estimate | None:
    """Cross-entropy with its jackknife interval over document shards; None where a shard is not finite."""
    shards = run.report.loss_shards
    counts = np.array(shards.num_tokens, dtype=np.float64)
    if None in shards.loss_sums or not counts.any():
        return None
    sums = np.array(shards.loss_sums, dtype=np.float64)[counts > 0]
    return document_difference(sums, np.zeros_like(sums), counts[counts > 0])


def _loss_rows(placed: _Placed) -> list[Row]:
    report, method = placed.run.report, placed.method
    documents = _documents(placed.run)
    shards = f"95 % over {documents.num_groups if documents else 'the'} document shards"
    seeds = _seeds_column(placed)
    loss, perplexity = report.metrics["loss"], report.metrics.get("perplexity")
    rows = [
        {
            "": "cross-entropy, nats a token",
            "this model": nats(loss),
            shards: _bounds(documents, _LIKE_NATS),
            seeds: _over_seeds(method.loss, _LIKE_NATS),
        },
        {
            "": "perplexity",
            "this model": number(perplexity) if perplexity is not None else DASH,
            shards: _exponential(documents),
            seeds: _over_seeds(method.values.get("perplexity")),
        },
    ]
    if placed.base is not None:
        apart = over_documents([placed.run], [placed.base])
        paired = method.verdict.estimate if method.verdict else None
        value = loss - placed.base.report.metrics["loss"]
        rows.append(
            {
                "": f"minus {placed.base.method}, same seed",
                "this model": nats(value, sign=True),
                shards: _bounds(apart, _LIKE_NATS, sign=True),
                seeds: _over_seeds(paired, _LIKE_NATS, sign=True),
            }
        )
        theirs = nats(placed.base.report.metrics["loss"])
        rows.append({"": f"cross-entropy of {placed.base.name}", "this model": theirs})
    if (random := report.nulls.get("random_init", {}).get("loss")) is not None:
        rows.append({"": "cross-entropy of random weights", "this model": nats(random)})
    return rows


def _seeds_column(placed: _Placed) -> str:
    return f"{placed.num_seeds} seeds ± 95 %" if placed.num_seeds > 1 else "over seeds"


def _over_seeds(estimate: Estimate | None, like: float | None = None, *, sign: bool = False) -> str:
    if estimate is None:
        return DASH
    if estimate.interval is None:
        return "one seed"
    like = estimate.value if like is None else like
    half = (estimate.interval.high - estimate.interval.low) / 2  # Student's t is symmetric
    return f"{number(estimate.value, like=like, sign=sign)} ± {number(half, like=like)}".replace(" ", "\xa0")


def _bounds(estimate: Estimate | None, like: float, *, sign: bool = False) -> str:
    if estimate is None or estimate.interval is None:
        return DASH
    return between(estimate.interval, like=like, sign=sign).replace(" ", "\xa0")


def _exponential(estimate: Estimate | None) -> str:
    if estimate is None or estimate.interval is None:
        return DASH
    low, high = (math.exp(bound) for bound in estimate.interval[:2])
    return f"[{number(low)},\xa0{number(high, like=low)}]"


def _summary(placed: _Placed) -> str:
    loss, documents = placed.run.report.metrics["loss"], _documents(placed.run)
    has_interval = documents is not None and documents.interval is not None
    interval = f" (95 % over documents {_bounds(documents, _LIKE_NATS)})" if has_interval else ""
    parts = [f"Validation cross-entropy {nats(loss)} nats a token{interval}"]
    if placed.base is not None:
        difference = loss - placed.base.report.metrics["loss"]
        parts.append(f"{nats(difference, sign=True)} against {placed.base.method} with the same seed")
    verdict = placed.method.verdict
    if verdict is not None:
        parts.append(f"over {_counted(verdict.estimate.num_groups)} the verdict is {verdict.word}")
    return "; ".join(parts) + "."


def _counted(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


# ---- Metrics -----------------------------------------------------------------------------------


def _metric_row(info: MetricInfo, placed: _Placed) -> Row:
    values = placed.comparison.values[placed.run.label]
    value = placed.run.report.metrics.get(info.key, values.get(info.key))
    mark = " (!)" if info.key in placed.comparison.not_separating else ""
    row = {
        "metric": info.title + mark,
        "this model": DASH if value is None else number(value),
        _seeds_column(placed): _over_seeds(placed.method.values.get(info.key)),
    }
    if placed.base is not None:
        row[f"minus {placed.base.method}"] = _difference(info, placed)
    for name, words in NULL_NAMES.items():
        if of := placed.run.report.nulls.get(name):
            null = of.get(info.key)
            row[words] = DASH if null is None else number(null)
    return row


def _difference(info: MetricInfo, placed: _Placed) -> str:
    difference, mean = placed.method.differences.get(info.key), placed.method.values.get(info.key)
    if difference is None or mean is None:
        return DASH
    if difference.interval is None:
        return f"{number(difference.value, like=mean.value, sign=True)}, one seed"
    return f"{_over_seeds(difference, mean.value, sign=True)}{'*' * is_apart(difference)}"


# ---- Words -------------------------------------------------------------------------------------


def _notes(placed: _Placed) -> Iterator[str]:
    comparison, method = placed.comparison, placed.method
    if method.verdict is not None:
        yield method.verdict.explanation
    if placed.num_seeds > 1:
        yield "± is half of the 95 % t interval of the mean over seeds; differences are paired by seed"
    else:
        yield "one seed: nothing here says how much another seed would differ"
    if any(is_apart(difference) for difference in method.differences.values()):
        yield "* the 95 % interval of the paired difference over seeds excludes 0, metric by metric"
    if any(info.key in comparison.not_separating for info in comparison.metrics):
        yield "(!) does not tell the baseline from a model with random weights"
    if method in comparison.shorter:
        yield f"{method.name}: the recipe of {comparison.baseline} with fewer steps, so no difference is shown"
    elif placed.base is None and comparison.baseline != method.name:
        yield "no run without objectives and with this seed was found beside it, so no difference is shown"
    yield "the interval over documents holds the trained model fixed; the one over seeds holds the documents fixed"
