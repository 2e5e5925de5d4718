"""What is still to be delivered, tried one at a time: no thread and no sleeping here.

`attempt` tries what is first in line and says how long to wait before the next. What may pass goes to the end of the
line; whoever is first then is tried after 1, 2, 4 … 60 s, or as long as the Hub asks. What may not (the token, the
file, the repository) is set aside until `another_try`. In the `last_round` each is tried once, without waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_tti.console import complain
from hf_tti.errors import UserError
from hf_tti.hub.card import card_files
from hf_tti.hub.errors import PushError, is_silence, may_pass, reason_of, retry_after
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
        is_tried: since `another_try`.
    """

    branch: str
    reason: str = "not tried yet"
    is_refused: bool = False
    is_tried: bool = False


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
        self._is_last = self._is_building = False
        self._sign, self._heard = clock(), float("-inf")  # of life: lasting, and of the attempt that is under way
        self._built: dict[str, Mapping[str, Content]] = {}

    def prepare(self, branches: Sequence[str]) -> None:
        """Makes the files of these branches, for the attempts that follow.

        Raises:
            UserError: what they are made of is damaged. Files that are gone are left to the attempt.
        """
        for branch in branches:
            try:
                self._built[branch] = self.files(branch, branches)
            except PushError:
                continue

    def promise(self, branch: str, folder: Path | None = None) -> None:
        """A branch that is to arrive, from a checkpoint's folder; `main` is made of `final/`. Never raises."""
        job = Job(branch)
        with self._lock:
            self._jobs[branch] = job  # what is under way is not this one
            self._built.pop(branch, None)
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
            self._due, self._failures, self._sign, self._is_last = 0.0, 0, self._clock(), False
            for job in self._jobs.values():
                job.is_refused = job.is_tried = False

    def last_round(self) -> None:
        """From now on only what has not been tried since `another_try` is, once, and none waits for its time."""
        with self._lock:
            self._is_last = True

    def quiet_s(self) -> float:
        """Seconds without progress: since the last branch arrived, or since the Hub granted a request of the attempt
        that is under way. 0 while files are made.
        """
        with self._lock:
            return 0.0 if self._is_building else self._clock() - max(self._sign, self._heard)

    def missing(self) -> list[tuple[str, str]]:
        """(branch, reason) of what has not arrived, by step, `main` last."""
        with self._lock:
            return [(branch, self._jobs[branch].reason) for branch in sorted(self._jobs, key=step_of)]

    def is_waiting(self) -> bool:
        """Whether there is anything left that may still arrive."""
        with self._lock:
            return any(map(self._is_open, self._jobs.values()))

    def _is_open(self, job: Job) -> bool:
        return not job.is_refused and not (self._is_last and job.is_tried)

    def attempt(self) -> float | None:
        """Try the first in line. Returns seconds until the next may be tried, or None: nothing is left to try."""
        with self._lock:
            job = next(filter(self._is_open, self._jobs.values()), None)
            wait = 0.0 if self._is_last else self._due - self._clock()
        if job is None or wait > 0:
            return None if job is None else wait
        try:
            files = self._files_of(job.branch)
            message = f"{job.branch} of {self.run.path.name}, trained with hf_tti"
            commit = self.remote.push(job.branch, files, message, heard=self._hear)
        except Exception as error:  # of any kind: training goes on
            return self._failed(job, error)
        self._arrived(job, commit)
        return 0.0

    def _hear(self) -> None:
        with self._lock:
            self._heard = self._clock()

    def _files_of(self, branch: str) -> Mapping[str, Content]:
        if branch in self._built:
            return self._built[branch]
        self._is_building = True
        try:
            return self.files(branch, list(self._jobs))
        finally:
            self._is_building = False
            self._hear()

    def files(self, branch: str, beside: Sequence[str] = ()) -> Mapping[str, Content]:
        """What the branch is to hold.

        Args:
            beside: branches that are to be there as well, besides those in the ledger.

        Raises:
            UserError: a damaged model, recipe or report. PushError: nothing is there to push.
        """
        folder = self.run.final
        if branch == MAIN:
            self.run.check_final()
        else:
            staged, checkpoint = self.ledger.staged(branch), self.run.path / f"checkpoint-{branch[4:]}"
            folder = staged if staged.is_dir() else checkpoint
        files = model_files(folder)
        if not files:
            raise PushError(f"{folder}: its files are gone")
        steps = sorted({*beside, *self.ledger.branches()} - {MAIN}, key=step_of)
        card = card_files(self.run, self.remote.repo, revision=branch, report_dir=self._report_dir, branches=steps)
        return {**files, **card}

    def _arrived(self, job: Job, commit: str | None) -> None:
        with self._lock:
            self._failures = 0
            self._sign = self._clock()
            self.arrived[job.branch] = commit
            if self._jobs.get(job.branch) is not job:  # promised anew meanwhile
                return
            del self._jobs[job.branch]
            try:
                self.ledger.pushed(job.branch, commit)
            except OSError as error:  # it will be looked at once more, and found to be there
                complain(f"{job.branch} is on the Hub, but that could not be noted: {error.strerror or error}")

    def _failed(self, job: Job, error: Exception) -> float:
        reason = str(error) if isinstance(error, UserError) else reason_of(error)
        with self._lock:
            job.reason, job.is_tried, self._heard = reason, True, float("-inf")
            if self._is_last and is_silence(error):
                for other in self._jobs.values():
                    other.reason, other.is_tried = other.reason if other.is_tried else reason, True
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
            return 0.0 if self._is_last else wait
