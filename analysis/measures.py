"""What several reports measured alike: their headline metrics, one value a run, and the same of nothing (null rows).

    headline   `<label>/mean`, or `<label>/<site>/mean` for each site of a metric over several
Numbers compare on the same rows, tokenizer and settings only: other data is refused, other settings leave a metric out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from analysis.pareto import Direction
from analysis.runs import Run
from hf_tti.errors import UserError
from hf_tti.report import NULL_ROWS, Report

Values = Mapping[str, Mapping[str, float]]  # run's label -> metric -> value; what is not finite is not there


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A headline metric.

    Attributes:
        key: in `Report.metrics`.
        label: of the metric; a metric over several sites has several keys.
        direction: what is more interpretable; None where neither is claimed.
        summary: its definition in one line.
    """

    key: str
    label: str
    direction: Direction | None
    summary: str

    @property
    def title(self) -> str:
        """The key without `/mean`, and an arrow to what is better."""
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[self.direction]
        return self.key.removesuffix("/mean") + arrow


def check_same_data(runs: Sequence[Run]) -> None:
    """Whether all were evaluated on the same rows, cut by the same tokenizer.

    Raises:
        UserError: names two runs and what differs.
    """
    first = runs[0]
    for run in runs[1:]:
        for what, one, other in (
            ("tokenizer", first.report.data.tokenizer_sha256, run.report.data.tokenizer_sha256),
            ("data fingerprint", first.report.data.fingerprint, run.report.data.fingerprint),
            ("document shards", first.report.loss_shards.num_tokens, run.report.loss_shards.num_tokens),
        ):
            if one != other:
                shown = f": {one[:12]}, {other[:12]}" if isinstance(one, str) and isinstance(other, str) else ""
                raise UserError(
                    f"{first.label} and {run.label} cannot be compared, their {what} differs{shown}; "
                    "evaluate both on the same data"
                )


def check_losses(runs: Sequence[Run]) -> None:
    """Raises UserError where a run has no finite cross-entropy."""
    for run in runs:
        if run.report.metrics.get("loss") is None:
            raise UserError(f"{run.label}: its cross-entropy is not a finite number, so it cannot be compared")


def metric_infos(runs: Sequence[Run]) -> list[MetricInfo]:
    """The headline metrics that at least one run has a value of, in the order of the reports."""
    infos: dict[str, MetricInfo] = {}
    for run in runs:
        for label, facts in run.report.metric_facts.items():
            direction = {True: "higher", False: "lower", None: None}[facts.get("greater_is_better")]
            for key in _headline_keys(run.report, label):
                info = MetricInfo(key=key, label=label, direction=direction, summary=facts.get("summary", ""))
                infos.setdefault(key, info)
    return [info for key, info in infos.items() if any(run.report.metrics.get(key) is not None for run in runs)]


def _headline_keys(report: Report, label: str) -> list[str]:
    if f"{label}/mean" in report.metrics:
        return [f"{label}/mean"]
    sites = report.metric_settings.get(label, {}).get("sites", [])
    return [key for site in sites if (key := f"{label}/{site}/mean") in report.metrics]


def differently_measured(runs: Sequence[Run]) -> dict[str, str]:
    """Label -> what to say of it, for metrics whose settings (of studies, whose sample too) differ between runs."""
    found: dict[str, str] = {}
    first: dict[str, Run] = {}
    for run in runs:
        for label in run.report.metric_settings:
            other = first.setdefault(label, run)
            mine, theirs = _settings(run.report, label), _settings(other.report, label)
            names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
            if names:
                what = ", ".join(f"{name} {theirs.get(name)} and {mine.get(name)}" for name in names)
                found.setdefault(label, f"{label}: left out, {other.label} and {run.label} measured it with {what}")
    return found


def _settings(report: Report, label: str) -> dict[str, object]:
    settings, sample = report.metric_settings[label], report.evaluation.get("sample") or {}
    return {**settings, "sample": _short(sample.get("fingerprint"))} if "study" in settings else settings


def _short(value: object) -> str:
    """Its first characters, of a digest or another long text."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def values_by_run(runs: Sequence[Run], without: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Every finite number of every report but those of the labels in `without`.

    Without a mean over layers, too, where the run has no finite value in a layer that counts in another run's mean.
    """
    skipped = tuple(f"{label}/" for label in without)
    finite = {run.label: {key for key, value in run.report.metrics.items() if value is not None} for run in runs}
    of_layers = {key for keys in finite.values() for key in keys if _mean_of(key)}
    values = {}
    for run in runs:
        metrics = run.report.metrics
        partial = {_mean_of(key) for key in of_layers.intersection(metrics) - finite[run.label]}
        values[run.label] = {
            key: float(value)
            for key, value in metrics.items()
            if value is not None and key not in partial and not key.startswith(skipped)
        }
    return values


def _mean_of(key: str) -> str | None:
    """The key of the mean in which a layer's value counts; None for other values."""
    prefix, found, layer = key.rpartition("layer_")
    return f"{prefix}mean" if found and layer.isdigit() else None


def missing_notes(runs: Sequence[Run], without: Collection[str] = ()) -> list[str]:
    """A line for each metric of which a run has no finite value, with runs and keys; but for labels in `without`."""
    notes = []
    labels = [label for run in runs for label in run.report.metric_facts if label not in without]
    for label in dict.fromkeys(labels):
        lacking = {run: keys for run in runs if (keys := _without_value(run.report, label))}
        if lacking:
            keys = list(dict.fromkeys(key for keys in lacking.values() for key in keys))
            what = ", ".join(keys[:4]) + ", …" * (len(keys) > 4)
            names = ", ".join(run.label for run in lacking)
            methods = ", ".join(dict.fromkeys(run.method for run in lacking))
            notes.append(f"{what}: no finite value in {names}; left out for {methods}, with differences from it")
    return notes


def _without_value(report: Report, label: str) -> list[str]:
    """The metric's keys that are not finite; the label alone where there is no key."""
    keys = [key for key in report.metrics if key.startswith(f"{label}/")]
    return [key for key in keys if report.metrics[key] is None] if keys else [label]


def evaluation_notes(runs: Sequence[Run]) -> list[str]:
    """A line for each setting or version that is not the same in all evaluations."""
    notes = []
    for what, facts in (
        ("evaluated with", [_what_tokens(run.report.evaluation) for run in runs]),
        ("measured by version", [run.report.versions for run in runs]),
        ("measured by", [{"commit": run.report.git_commit} for run in runs]),
    ):
        for name in dict.fromkeys(name for one in facts for name in one):
            values = list(dict.fromkeys(_short(one.get(name)) for one in facts))
            if len(values) > 1:
                notes.append(f"runs were {what} {name} = {' / '.join(values)}")
    return notes


def _what_tokens(evaluation: Mapping[str, object]) -> dict[str, object]:
    """What bears on the numbers, `sample` opened up. The batch size does only where metrics stop after some batches;
    a reference model belongs to its seed."""
    skipped = {"device", "reference"} | ({"batch_size"} if not evaluation.get("metric_batches") else set())
    opened: dict[str, object] = {}
    for name, value in evaluation.items():
        if isinstance(value, Mapping):
            opened |= {f"{name}.{key}": item for key, item in value.items()}
        elif name not in skipped:
            opened[name] = value
    return opened


def null_values(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Null row -> metric -> mean over these runs, where each of them has a finite value."""
    there = {row for run in runs for row in run.report.nulls}
    rows = [row for row in NULL_ROWS if row in there] + sorted(there.difference(NULL_ROWS))
    means: dict[str, dict[str, float]] = {}
    for row in rows:
        reported = [run.report.nulls.get(row, {}) for run in runs]
        keys = dict.fromkeys(key for values in reported for key in values)
        complete = [key for key in keys if all(values.get(key) is not None for values in reported)]
        means[row] = {key: sum(values[key] for values in reported) / len(runs) for key in complete}
    return {row: values for row, values in means.items() if values}
