"""Runs to compare, found by path or on the Hub: each a report, and the text files of the run where there are some."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError
from hf_tti.own_files import check_links
from hf_tti.published import NotOnHub, hub_name, open_repo, published_report
from hf_tti.report import ARRAYS_FILE, REPORT_DIR, REPORT_FILE, Report, find_report
from hf_tti.run_folder import METRICS_FILE, RUN_FILE

STORIES_FILE = "stories.txt"


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One evaluated run.

    Attributes:
        name: of its report.
        method: the name without `-seed<seed>`: runs of one method differ in their seed alone. A run's checkpoint is a
            method of its own, `baseline-checkpoint-150`, with the seeds of which it was evaluated.
        seed: None for a model of which no seed is known; it cannot be paired with another.
        report: what was measured.
        folder: of the run, or of what the Hub holds of it; None for a report that stands alone.
        path: of the `report.json`, or the name on the Hub, for messages; None where none was read.
    """

    name: str
    method: str
    seed: int | None
    report: Report
    folder: Path | None = None
    path: Path | None = None

    @property
    def label(self) -> str:
        """Method and seed: unlike the name, of one run alone in a comparison."""
        return self.method if self.seed is None else f"{self.method}-seed{self.seed}"

    @cached_property
    def curves(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, a torn one left out; [] without such a file."""
        return [line for text in self._text(METRICS_FILE).splitlines() if (line := _json_object(text)) is not None]

    @cached_property
    def stories(self) -> list[tuple[int, str]]:
        """Optimizer step and text of each generated story; [] without `stories.txt`. All are of the end of training."""
        step, stories = self.report.step or 0, []
        for line in self._text(STORIES_FILE).splitlines():
            if line == f"--- {len(stories) + 1}":
                stories.append("")
            elif stories:
                stories[-1] += line + "\n"
        return [(step, text.strip("\n")) for text in stories]

    def _text(self, name: str) -> str:
        path = self.folder / name if self.folder else None
        if path is not None:
            check_links(self.folder, [path])
        return path.read_text(encoding="utf-8", errors="replace") if path and path.is_file() else ""


def find_runs(paths: Iterable[str | Path], *, arrays: bool = True) -> list[Run]:
    """The runs that paths stand for, each once, in the order of the paths and then of names and seeds.

    Args:
        paths: a run folder, a report folder, a `report.json`, a folder of either, or the beginning of run folders'
            names without the seed: `runs/x/baseline` stands for every `runs/x/baseline-seed<n>`. What is none of them
            and reads `owner/name` or `owner/name@revision` is looked for on the Hub.
        arrays: whether those of reports on the Hub are fetched as well.

    Raises:
        UserError: nothing there, a run without a report, a damaged report, or two reports of one method and seed.
    """
    runs: dict[Path | str, Run] = {}
    for path in map(Path, paths):
        if on_hub := _on_hub(path):
            runs.setdefault(str(path), _published_run(path, *on_hub, arrays=arrays))
            continue
        for file in _report_files(path):
            if file.resolve() not in runs:
                runs[file.resolve()] = read_run(file)
    check_distinct(list(runs.values()))
    return list(runs.values())


def read_run(file: Path) -> Run:
    """The run whose `report.json` this is.

    Raises:
        UserError: the report is damaged.
    """
    above = file.parent.parent if file.parent.name == REPORT_DIR else file.parent
    check_links(above, [file.parent, file, file.with_name(ARRAYS_FILE)])
    report = Report.load(file)
    above = file.resolve().parent.parent
    folder = above if file.resolve().parent.name == REPORT_DIR and (above / RUN_FILE).is_file() else None
    return _run(report, folder, file)


def _run(report: Report, folder: Path | None, path: Path) -> Run:
    part = rf"-seed{report.seed}(?=$|-checkpoint-\d+$|-step\d+$|-final$)"  # of a run, or of a part of one
    method = re.sub(part, "", report.name)
    return Run(name=report.name, method=method, seed=report.seed, report=report, folder=folder, path=path)


# ---- On the Hub --------------------------------------------------------------------------------


def _on_hub(path: Path) -> tuple[str, str | None] | None:
    """Name and revision of what is no path here but may be a repository."""
    name = hub_name(str(path))
    return name if name is not None and not path.exists() and not _seeds_of(path) else None


def _published_run(given: Path, repo_name: str, revision: str | None, *, arrays: bool) -> Run:
    """The report that a repository holds, and its log and stories.

    Raises:
        UserError: no such repository or revision, no report in it, one that is damaged.
    """
    what = f"{REPORT_DIR}/{REPORT_FILE}"
    try:
        repo = open_repo(repo_name, revision, first=what)
    except NotOnHub as error:
        raise UserError(f"{given}: no run and no report here, and not on the Hub either: {error}") from error
    report = published_report(repo, arrays=arrays)
    if report is None:
        makes = f"hf-tti evaluate {repo_name}{f' --revision {revision}' if revision else ''}"
        raise UserError(f"{given}: holds no report on the Hub ({what}); {makes} makes one here")
    return _run(report, repo.fetch(what).parent.parent, given)


def check_distinct(runs: Sequence[Run]) -> None:
    """Raises UserError where two runs are of the same method and seed."""
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.label, run)
        if other is not run:
            places = f"{other.path or other.name} and {run.path or run.name}"
            raise UserError(f"{run.label}: there are two reports of it, {places}; name one of them")


def _report_files(path: Path) -> list[Path]:
    if path.is_file() or (path / REPORT_FILE).is_file() or (path / REPORT_DIR / REPORT_FILE).is_file():
        return [find_report(path)]
    if (path / RUN_FILE).is_file():
        raise UserError(f"{path}: a run without a report; hf-tti evaluate {path} makes one")
    if path.is_dir():
        return _below(path, path.iterdir(), f"{path}: no run and no report in this folder")
    return _below(path, seeds) if (seeds := _seeds_of(path)) else [find_report(path)]


def _seeds_of(path: Path) -> list[Path]:
    """The run folders whose name this begins."""
    return [entry for entry in path.parent.glob("*") if re.fullmatch(rf"{re.escape(path.name)}-seed\d+", entry.name)]


def _below(path: Path, entries: Iterable[Path], if_none: str = "") -> list[Path]:
    """The reports of the runs among these entries of a folder."""
    folders = sorted((entry for entry in entries if entry.is_dir()), key=_natural)
    reported = [entry for entry in folders if any((entry / part / REPORT_FILE).is_file() for part in (".", REPORT_DIR))]
    lacking = [entry for entry in folders if entry not in reported and (entry / RUN_FILE).is_file()]
    if lacking:
        names = ", ".join(entry.name for entry in lacking[:3]) + ", …" * (len(lacking) > 3)
        of_all = f"{len(lacking)} of {len(lacking) + len(reported)} runs have no report ({names})"
        raise UserError(f"{path}: {of_all}; hf-tti evaluate {lacking[0]} makes one, or name the others alone")
    if not reported:
        raise UserError(if_none or f"{path}: no run and no report there")
    return [find_report(entry) for entry in reported]


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # torn, or nobody's
        return None
    return value if isinstance(value, dict) else None
