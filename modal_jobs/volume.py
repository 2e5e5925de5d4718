"""The checkpoints' Volume as seen from here: which runs it holds, and copies of what a container wrote there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import modal
from modal.volume import FileEntryType

from hf_tti.errors import UserError
from hf_tti.pushes import LEDGER
from hf_tti.run_folder import RECIPE_FILE, RESULT_FILE, RUN_FILE
from modal_jobs.places import CHECKPOINTS_VOLUME, RUNS

_RECORDS = (RUN_FILE, RECIPE_FILE, RESULT_FILE, LEDGER)


def checkpoints_volume() -> modal.Volume:
    """By name; made at its first use."""
    return modal.Volume.from_name(CHECKPOINTS_VOLUME, create_if_missing=True)


def copy_records(volume: modal.Volume, places: Iterable[str], folder: Path) -> None:
    """What tells the state of runs, to where it would be below `folder` as a `runs/`; nothing of one that is not there.

    Args:
        places: of the runs' folders on the Volume.
    """
    wanted = [PurePosixPath(place) for place in places]
    there = {parent: {run.name for run in _folders(volume, parent)} for parent in {place.parent for place in wanted}}
    for run in wanted:
        if run.name not in there[run.parent]:
            continue
        target = folder / run.relative_to(RUNS)
        target.mkdir(parents=True, exist_ok=True)
        for name in _RECORDS:
            try:
                (target / name).write_bytes(b"".join(volume.read_file(str(run / name))))
            except FileNotFoundError:
                pass


def finished_runs(volume: modal.Volume, experiment: str) -> list[str]:
    """Names of an experiment's runs that have their result."""
    found = []
    for run in _folders(volume, RUNS / experiment):
        if any(PurePosixPath(entry.path).name == RESULT_FILE for entry in _list(volume, run)):
            found.append(run.name)
    return sorted(found)


def experiments(volume: modal.Volume) -> list[str]:
    """Names of the experiments that have runs."""
    return sorted(place.name for place in _folders(volume, RUNS))


def fetch_folder(volume: modal.Volume, place: PurePosixPath, folder: Path) -> int:
    """Copies a folder of the Volume; returns the number of files.

    Raises:
        UserError: nothing there, or a path that leads out of the folder.
    """
    count = 0
    for entry in _list(volume, place, recursive=True):
        if entry.type != FileEntryType.FILE:
            continue
        target = folder / PurePosixPath("/", entry.path).relative_to(PurePosixPath("/", place))
        if folder.resolve() not in target.resolve().parents:
            raise UserError(f"{entry.path}: leads out of {folder}")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        with open(partial, "wb") as handle:
            for chunk in volume.read_file(entry.path):
                handle.write(chunk)
        os.replace(partial, target)
        count += 1
    if not count:
        raise UserError(f"{place}: nothing there on the Volume {CHECKPOINTS_VOLUME}")
    return count


def _folders(volume: modal.Volume, place: PurePosixPath) -> list[PurePosixPath]:
    return [PurePosixPath(entry.path) for entry in _list(volume, place) if entry.type == FileEntryType.DIRECTORY]


def _list(volume: modal.Volume, place: PurePosixPath, *, recursive: bool = False) -> list:
    try:
        return volume.listdir(str(place), recursive=recursive)
    except (modal.exception.NotFoundError, FileNotFoundError):
        return []
