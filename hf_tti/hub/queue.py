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

    def finish(self, seconds: float) -> list[tuple[str, str]]:
        """Tries everything that is left once more at once, waits at most so long, ends the thread.

        Returns (branch, reason) of what has not arrived.
        """
        if self._thread is None:
            return self.outbox.missing()
        self.outbox.another_try()
        self._wake()
        begun, has_said = time.monotonic(), False
        try:
            with self._condition:
                while self.outbox.is_waiting() and (left := begun + seconds - time.monotonic()) > 0:
                    if not has_said and time.monotonic() - begun > _SAY_AFTER_S:
                        has_said = True
                        names = ", ".join(branch for branch, _ in self.outbox.missing())
                        say(f"waiting up to {seconds / 60:.0f} min for pushes to {self.outbox.remote.repo}: {names}")
                    self._condition.wait(min(left, 1.0))
        except KeyboardInterrupt:
            pass  # whoever waits has had enough
        with self._condition:
            self._is_ending = True
            self._condition.notify_all()
        return self.outbox.missing()

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
