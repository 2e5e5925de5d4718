"""What is still to be delivered, tried one at a time: no thread and no sleeping here.

`attempt` tries what is first in line and says how long to wait before the next. What may pass goes to the end of the
line; whoever is first then is tried after 1, 2, 4 … 60 s, or as long as the Hub asks. What may not (the token, the
file, the repository) is set aside until `another_try`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hf_tti.console import complain
from hf_tti.hub.card import card_files
from hf_tti.hub.errors import PushError, may_pass, reason_of, retry_after
from hf_tti.hub.files import Content, model_files
from hf_tti.hub.ledger import Ledger, step_of
from hf_tti.hub.remote import Remote
from hf_tti.pushes import MAIN
from hf_tti.run_folder import RunFolder

LONGEST_WAIT_S = 60.0


@dataclass
class Job:
    """A branch to be filled.

    Attributes:
        reason: why it has not arrived. is_refused: and trying again will not help.
    """

    branch: str
    reason: str = "not tried yet"
    is_refused: bool = False


class Outbox:
    """The branches of one run that have not arrived in one repository.

    Args:
        report_dir: what `hf-tti report` wrote, for the frontier pictures of the card on `main`.
        clock: monotonic seconds. wall: seconds since 1970.
    Attributes:
        arrived: branch -> its new commit, or None where all of it was there.
    """

    def __init__(
        self,
        run: RunFolder,
        remote: Remote,
        *,
        report_dir: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        self.run, self.remote = run, remote
        self.ledger = Ledger(run.path, remote.repo)
        self.arrived: dict[str, str | None] = {}
        self._report_dir, self._clock, self._wall = report_dir, clock, wall
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._due, self._failures = 0.0, 0

    def promise(self, branch: str, folder: Path | None = None) -> None:
        """A branch that is to arrive, from a checkpoint's folder; `main` is made of `final/`. Never raises."""
        job = Job(branch)
        with self._lock:
            self._jobs[branch] = job  # what is under way is not this one
            try:
                self.ledger.promise(branch, folder)
            except OSError as error:
                job.reason, job.is_refused = f"its files could not be kept: {error.strerror or error}", True
        if job.is_refused:
            complain(f"{branch} will not be pushed to {self.remote.repo}: {job.reason}")

    def adopt(self, branch: str) -> None:
        """A branch that was promised before, or that needs no promise."""
        with self._lock:
            self._jobs.setdefault(branch, Job(branch))

    def another_try(self) -> None:
        """Everything that is left is due at once, what was refused as well."""
        with self._lock:
            self._due, self._failures = 0.0, 0
            for job in self._jobs.values():
                job.is_refused = False

    def missing(self) -> list[tuple[str, str]]:
        """(branch, reason) of what has not arrived, by step, `main` last."""
        with self._lock:
            return [(branch, self._jobs[branch].reason) for branch in sorted(self._jobs, key=step_of)]

    def is_waiting(self) -> bool:
        """Whether there is anything left that may still arrive."""
        with self._lock:
            return any(not job.is_refused for job in self._jobs.values())

    def attempt(self) -> float | None:
        """Try the first in line. Returns seconds until the next may be tried, or None: nothing is left to try."""
        with self._lock:
            job = next((job for job in self._jobs.values() if not job.is_refused), None)
            wait = self._due - self._clock()
        if job is None or wait > 0:
            return None if job is None else wait
        try:
            files = self.files(job.branch)
            commit = self.remote.push(job.branch, files, f"{job.branch} of {self.run.path.name}, trained with hf_tti")
        except Exception as error:  # of any kind: training goes on
            return self._failed(job, error)
        self._arrived(job, commit)
        return 0.0

    def files(self, branch: str) -> Mapping[str, Content]:
        """What the branch is to hold.

        Raises:
            PushError: nothing is there to push.
        """
        folder = self.run.final
        if branch != MAIN:
            staged, checkpoint = self.ledger.staged(branch), self.run.path / f"checkpoint-{branch[4:]}"
            folder = staged if staged.is_dir() else checkpoint
        files = model_files(folder)
        if not files:
            raise PushError(f"{folder}: its files are gone")
        card = card_files(self.run, self.remote.repo, revision=branch, report_dir=self._report_dir)
        return {**files, **card}

    def _arrived(self, job: Job, commit: str | None) -> None:
        with self._lock:
            self._failures = 0
            self.arrived[job.branch] = commit
            if self._jobs.get(job.branch) is not job:  # promised anew meanwhile
                return
            del self._jobs[job.branch]
            try:
                self.ledger.pushed(job.branch, commit)
            except OSError as error:  # it will be looked at once more, and found to be there
                complain(f"{job.branch} is on the Hub, but that could not be noted: {error.strerror or error}")

    def _failed(self, job: Job, error: Exception) -> float:
        reason = str(error) if isinstance(error, PushError) else reason_of(error)
        with self._lock:
            job.reason = reason
            if not may_pass(error):
                job.is_refused = True
                complain(f"{job.branch} was not pushed to {self.remote.repo}: {reason}")
                return 0.0
            if not self._failures:
                complain(f"{job.branch} is not on the Hub yet ({reason}); it is tried again")
            if self._jobs.get(job.branch) is job:  # to the end: one that keeps failing holds up no other
                self._jobs[job.branch] = self._jobs.pop(job.branch)
            self._failures += 1
            wait = max(min(2.0 ** (self._failures - 1), LONGEST_WAIT_S), retry_after(error, self._wall()))
            self._due = self._clock() + wait
            return wait
