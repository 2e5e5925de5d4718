"""What a run promised to the Hub and what arrived: `pushes.jsonl`, one JSON object a line, only ever appended to.

    {"event": "promised", "branch": "step1000", "repo": "owner/name", "time": "2026-11-23T07:00:00+00:00"}
    {"event": "pushed", "branch": "step1000", "repo": "owner/name", "commit": "…", "time": "…"}
The files of a promise lie in `.push/<branch>/`, hard links that the rotation of checkpoints leaves alone, until they
have arrived; those of `main` in `final/`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_tti import pushes
from hf_tti.hub.files import model_files
from hf_tti.pushes import LEDGER, MAIN

STAGING = ".push"
_ROOM = 3  # checkpoints that have to fit on the disk beside what is kept for a Hub that is down


class Ledger:
    """Of one run's folder and one repository."""

    def __init__(self, run_dir: Path, repo: str):
        self._run_dir, self._repo = run_dir, repo

    def promise(self, branch: str, folder: Path | None = None) -> None:
        """Notes a branch, then keeps the files of its checkpoint; without a folder notes it alone.

        Each is tried whatever becomes of the other: a promise whose files could not be kept stays a promise.

        Raises:
            OSError: the disk refuses.
        """
        try:
            self.note("promised", branch)
        finally:
            if folder is not None:
                self._stage(branch, folder)

    def pushed(self, branch: str, commit: str | None) -> None:
        """Notes that all of a branch is there, and lets go of its files unless another repository waits for them."""
        self.note("pushed", branch, commit=commit)
        if not any(name == branch for _, name in pushes.pending(self._run_dir)):
            shutil.rmtree(self.staged(branch), ignore_errors=True)

    def staged(self, branch: str) -> Path:
        """Where the files of a branch are kept."""
        return self._run_dir / STAGING / branch

    def staged_branches(self) -> list[str]:
        """Branches whose files are kept, by step."""
        found = (self._run_dir / STAGING).glob("step*")
        return sorted((path.name for path in found if path.name[4:].isdigit()), key=step_of)

    def pending(self) -> list[str]:
        """What was promised to this repository and has not arrived since, by step, `main` last."""
        return sorted((branch for repo, branch in pushes.pending(self._run_dir) if repo == self._repo), key=step_of)

    def branches(self) -> set[str]:
        """What was promised to this repository or has arrived there, at some time."""
        return {line["branch"] for line in pushes.lines(self._run_dir) if line["repo"] == self._repo}

    def has_pushed(self, branch: str) -> bool:
        """Whether a branch has arrived in this repository, at some time."""
        return pushes.has_pushed(self._run_dir, self._repo, branch)

    def is_known(self, branch: str) -> bool:
        """Whether a branch's files are kept, or have arrived."""
        return self.staged(branch).is_dir() or self.has_pushed(branch)

    def note(self, event: str, branch: str, **more: Any) -> None:
        """Appends a line, whole or broken off; a broken one is passed over by whoever reads."""
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"event": event, "branch": branch, "repo": self._repo, **more, "time": moment}
        with open(self._run_dir / LEDGER, "ab+") as handle:
            torn = handle.tell() and not _ends_with_newline(handle)
            handle.write((b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())

    def _stage(self, branch: str, folder: Path) -> None:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        if shutil.disk_usage(self._run_dir).free < _ROOM * size:
            raise OSError(errno.ENOSPC, "the disk is nearly full, and training needs what is left")
        place = self.staged(branch)
        half = place.with_name(f".{branch}.half")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for path in model_files(folder).values():
            try:
                os.link(path, half / path.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, half / path.name)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(half, place)


def step_of(branch: str) -> float:
    """The number in `step1000`; `main` comes after all of them."""
    return float("inf") if branch == MAIN or not branch[4:].isdigit() else int(branch[4:])


def _ends_with_newline(handle) -> bool:
    handle.seek(-1, os.SEEK_END)
    return handle.read(1) == b"\n"
