"""One daemon thread that empties an outbox while training goes on, and a bounded wait for it at the end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from hf_tti.console import say
from hf_tti.hub.outbox import Outbox

_SAY_AFTER_S = 3.0


class PushQueue:
    """The thread starts with the first promise. It draws no random number, and holds no lock while it talks."""

    def __init__(self, outbox: Outbox):
        self.outbox = outbox
        self._condition = threading.Condition()
        self._has_news = self._is_ending = False
        self._thread: threading.Thread | None = None

    def promise(self, branch: str, folder: Path | None = None) -> None:
        """As `Outbox.promise`; takes as long as linking the files."""
        self.outbox.promise(branch, folder)
        self._wake()

    def adopt(self, branch: str) -> None:
        """As `Outbox.adopt`."""
        self.outbox.adopt(branch)
        self._wake()

    def finish(self, seconds: float, *, at_most: bool = False) -> list[tuple[str, str]]:
        """Tries everything that is left once more, at least once each, until nothing has moved for so long.

        Args:
            seconds: without progress, see `Outbox.quiet_s`.
            at_most: these seconds are all that there are, whatever moves and whatever was tried.

        Returns (branch, reason) of what has not arrived.
        """
        if self._thread is None:
            return self.outbox.missing()
        self.outbox.another_try()
        self._wake()
        try:
            self._wait(seconds) if not at_most else self._wait_at_most(seconds)
        except KeyboardInterrupt:
            pass  # whoever waits has had enough
        with self._condition:
            self._is_ending = True
            self._condition.notify_all()
        return self.outbox.missing()

    def _wait(self, seconds: float) -> None:
        has_said, is_last = False, False
        with self._condition:
            while self.outbox.is_waiting():
                quiet = self.outbox.quiet_s()
                if quiet >= seconds and not is_last:
                    is_last, self._has_news = True, True
                    self.outbox.last_round()
                    self._condition.notify_all()
                if quiet > _SAY_AFTER_S and not is_last and not has_said:
                    has_said = True
                    names = ", ".join(branch for branch, _ in self.outbox.missing())
                    limit = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
                    say(f"waiting for pushes to {self.outbox.remote.repo}, up to {limit} without progress: {names}")
                self._condition.wait(1.0 if is_last else min(max(seconds - quiet, 0.0), 1.0))

    def _wait_at_most(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        with self._condition:
            while self.outbox.is_waiting() and (left := end - time.monotonic()) > 0:
                self._condition.wait(min(left, 1.0))

    def _wake(self) -> None:
        with self._condition:
            self._has_news = True
            self._condition.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hub-push", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            wait = self.outbox.attempt()
            with self._condition:
                self._condition.notify_all()
                if self._is_ending:
                    return
                if not self._has_news and wait != 0:
                    self._condition.wait(wait)
                self._has_news = False
