"""Checkpoints that are whole or not there: staged, listed with digests in a manifest written last, renamed into place.

    .saving-<step>/                 being written; never read
    final/                          the model that a run ends with, in the same way; .saving-final/, .replaced-final/
    checkpoint-<step>/              files, and manifest.json: sha256 and size of each, the step, what the run was
    .replaced-checkpoint-<step>/    on its way out for a newer one of the same step; put back if that did not arrive
    .removing-checkpoint-<step>/    rotated out
    .damaged/                       what did not verify, out of the way
A folder is a checkpoint if and only if its manifest verifies.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError

MANIFEST = "manifest.json"
FINAL = "final"
FORMAT_VERSION = 1
KEPT_AT_LEAST = 2
_NAME = re.compile(r"checkpoint-(\d+)")
QUARANTINE = ".damaged"
_SAVING, _REPLACED, _REMOVING = ".saving-", ".replaced-", ".removing-"
_found_whole: dict[Path, Any] = {}  # folder -> its files' states when this process last read or wrote them all


class NoValidCheckpoint(UserError):
    """There are checkpoints, and none of them can be trusted."""

    exit_code = 3


def reached(point: str) -> None:
    """Does nothing: a seam where fault tests stop the process."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        step: optimizer steps.
        facts: what a resumed run must agree with: world size, batch, data, objectives.
        files: relative path -> (sha256, size in bytes).
    """

    step: int
    facts: Mapping[str, Any]
    files: Mapping[str, tuple[str, int]]


# ---- Writing -----------------------------------------------------------------------------------


def staging_folder(run_dir: Path, step: int | str) -> Path:
    """An empty folder to write a checkpoint into, or `final`; what an interrupted save left there is removed."""
    clear_leftovers(run_dir)
    folder = run_dir / f"{_SAVING}{step}"
    folder.mkdir(parents=True)
    reached("staging made")
    return folder


def clear_leftovers(run_dir: Path) -> None:
    """Ends what an interrupted save began: a checkpoint that it moved away comes back, its own half is removed."""
    for left in [*run_dir.glob(f"{_REPLACED}checkpoint-*"), *run_dir.glob(f"{_REPLACED}{FINAL}")]:
        place = run_dir / left.name.removeprefix(_REPLACED)
        if place.exists():
            _remove(left)
        else:
            os.replace(left, place)
            _flush(run_dir)
        reached("replaced one seen to")
    for left in [*run_dir.glob(f"{_SAVING}*"), *run_dir.glob(f"{_REMOVING}*")]:
        _remove(left)


def publish(staged: Path, place: Path, *, step: int, facts: Mapping[str, Any]) -> None:
    """Turn a staged folder into what is to be at `place`: manifest last, everything flushed to disk, one rename."""
    files = {}
    for path in _files_below(staged):
        _flush(path)
        files[path.relative_to(staged).as_posix()] = [file_sha256(path), path.stat().st_size]
        reached(f"flushed {path.name}")
    content = {"format_version": FORMAT_VERSION, "step": step, "facts": dict(facts), "files": files}
    manifest = staged / MANIFEST
    manifest.write_text(json.dumps({**content, "sha256": _digest(content)}, indent=1) + "\n", encoding="utf-8")
    reached("manifest written")
    _flush(manifest)
    for folder in [*(path for path in staged.rglob("*") if path.is_dir()), staged]:
        _flush(folder)
    reached("staging flushed")
    replaced = place.with_name(f"{_REPLACED}{place.name}")
    if os.path.lexists(place):  # the same step, saved again after a resume from an earlier one
        os.replace(place, replaced)
        reached("old moved away")
    os.replace(staged, place)
    reached("renamed")
    _flush(place.parent)
    _remove(replaced)
    _found_whole[place.resolve()] = _states(place)
    reached("published")


def rotate(run_dir: Path, *, limit: int | None, keep: Path | None = None) -> None:
    """Remove the oldest valid checkpoints beyond `limit` (never fewer than two stay); `keep` stays as well.

    Files that this process wrote or verified and nobody touched since are not read again at every save.
    """
    if limit is None:
        return
    valid = [path for path in checkpoints_of(run_dir) if is_still_whole(path)]
    for path in valid[: -max(limit, KEPT_AT_LEAST)]:
        if keep is None or path.resolve() != keep.resolve():
            removing = path.with_name(f"{_REMOVING}{path.name}")
            os.replace(path, removing)  # from here on it is no checkpoint, however far the removal gets
            reached("rotation began")
            _remove(removing)
            reached("rotated")


def check_space(run_dir: Path, needed: int) -> None:
    """Raises a UserError where the disk has less than `needed` bytes left; nothing was written."""
    free = shutil.disk_usage(run_dir).free
    if free < needed:
        raise UserError(
            f"{run_dir}: a checkpoint needs {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB left; "
            "earlier checkpoints are as they were: make room and go on with --resume"
        )


# ---- Reading -----------------------------------------------------------------------------------


def checkpoints_of(run_dir: Path) -> list[Path]:
    """Folders called checkpoint-<step>, by step; valid or not."""
    found = [entry for entry in (run_dir.iterdir() if run_dir.is_dir() else ()) if _NAME.fullmatch(entry.name)]
    return sorted(found, key=_step_of)


def read_manifest(folder: Path) -> Manifest:
    """What the manifest says, checked against its own digest and the folder's name, not yet against the files.

    Raises:
        UserError: none there, or not one that was written whole.
    """
    path = folder / MANIFEST
    if path.is_symlink():
        raise UserError(f"{path}: a link; it was not written by hf_tti")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("sha256")
        if digest != _digest(content) or content["format_version"] != FORMAT_VERSION:
            raise ValueError("its digest is of other content")
        files = {name: (str(sha256), int(size)) for name, (sha256, size) in content["files"].items()}
        manifest = Manifest(step=int(content["step"]), facts=dict(content["facts"]), files=files)
    except FileNotFoundError:
        raise UserError(f"{folder}: has no {MANIFEST}; it was not written whole, or not by hf_tti") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    if _NAME.fullmatch(folder.name) and _step_of(folder) != manifest.step:
        raise UserError(f"{folder}: its {MANIFEST} is of step {manifest.step}")
    return manifest


def problems_of(folder: Path) -> list[str]:
    """Why a folder is no checkpoint, one line each; empty where every file is there with its digest."""
    if folder.is_symlink() or not folder.is_dir():
        return [f"{folder}: not a folder of its own"]
    try:
        return list(_file_problems(folder, read_manifest(folder)))
    except UserError as error:
        return [str(error)]
    except OSError as error:
        return [f"{folder}: cannot be read: {error.strerror or error}"]


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, (sha256, size) in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file() or folder.resolve() not in path.resolve().parents:
            yield f"{path}: missing"
        elif path.stat().st_size != size:
            yield f"{path}: {path.stat().st_size:,} bytes, {size:,} were written"
        elif file_sha256(path) != sha256:
            yield f"{path}: its content has changed since it was written"


def is_still_whole(folder: Path) -> bool:
    """Whether a folder verifies. What this process wrote or verified, and nobody touched since, is not read again."""
    place, states = folder.resolve(), _states(folder)
    if folder.is_symlink() or _found_whole.get(place) != states:
        if problems_of(folder):
            return False
        _found_whole[place] = states
    return True


def _states(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Inode, size and time of the last change of each file."""
    found = {path: path.stat() for path in [*_files_below(folder), folder / MANIFEST] if path.is_file()}
    return {path.relative_to(folder): (of.st_ino, of.st_size, of.st_mtime_ns) for path, of in found.items()}


def newest_valid(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint with the highest step that verifies, or None, and what is wrong with newer ones."""
    problems: list[str] = []
    for folder in reversed(checkpoints_of(run_dir)):
        found = problems_of(folder)
        if not found:
            return folder, problems
        problems.append(found[0])
    return None, problems


def resumable(run_dir: Path) -> tuple[Path | None, list[str]]:
    """As `newest_valid`, with damaged newer folders moved out of the way, into `.damaged/`, and leftovers cleared.

    Raises:
        NoValidCheckpoint: there are checkpoints, and none verifies; nothing is moved.
    """
    clear_leftovers(run_dir)
    valid, problems = newest_valid(run_dir)
    if problems and valid is None:
        raise NoValidCheckpoint(
            f"{run_dir}: none of its {len(problems)} checkpoints is whole; the newest: {problems[0]}; "
            "put back a copy, or train anew in another folder"
        )
    for folder in checkpoints_of(run_dir):
        if valid is not None and _step_of(folder) > _step_of(valid):
            _quarantine(folder)
    return valid, problems


def _quarantine(folder: Path) -> None:
    place = folder.parent / QUARANTINE / folder.name
    place.parent.mkdir(exist_ok=True)
    number = 1
    while os.path.lexists(place):
        number += 1
        place = place.with_name(f"{folder.name}.{number}")
    os.replace(folder, place)


def _step_of(folder: Path) -> int:
    return int(_NAME.fullmatch(folder.name)[1])


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)


def _remove(path: Path) -> None:
    """A folder with all that is in it, or whatever else has that name; nothing where nothing has it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """To the disk itself, a folder's entries as well."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
