"""What goes wrong with the fake Hub of `hub.py`, and when."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass

from hub_server import HUB

from fakes.hub import Fault, Request, hang_up, lost_reply, stall, status

MOMENTS = {"start": 0, "middle": 3, "end": 5}  # commits before it, of seven


@dataclass(frozen=True)
class Kind:
    """One way to fail.

    Attributes:
        faults: what the next requests of this method and path (any, where empty) get, from the moment on.
        lasts: until the training is over.
        down_s: seconds for which the port is closed, instead of faults.
    """

    method: str = "POST"
    path: str = "/commit/"
    faults: tuple[Fault, ...] = ()
    lasts: bool = False
    down_s: float = 0.0


KINDS = {
    "refused for 3 s": Kind(down_s=3.0),
    "refused for good": Kind(down_s=3600.0, lasts=True),
    "503, four times": Kind("", "", (status(503),) * 4),
    "503 for good": Kind("", "", (status(503),), lasts=True),
    "429 with Retry-After 2, twice": Kind(faults=(status(429, retry_after=2),) * 2),
    "429 to the upload, twice": Kind("PUT", "/_lfs/", (status(429, retry_after=1),) * 2),
    "timeout in the upload": Kind("PUT", "/_lfs/", (stall(),)),
    "timeout of the commit": Kind(faults=(stall(),)),
    "cut in the upload, twice": Kind("PUT", "/_lfs/", (hang_up(),) * 2),
    "cut in the commit, twice": Kind(faults=(hang_up(),) * 2),
    "commit's reply lost": Kind(faults=(lost_reply(),)),
    "creation's reply lost": Kind("POST", "/branch/|/repos/create", (lost_reply(),)),
    "401, three times": Kind("", "", (status(401),) * 3),
    "401 for good": Kind("", "", (status(401),), lasts=True),
    "409 to the commit, twice": Kind(faults=(status(409),) * 2),
}


class Weather:
    """Decides which requests fail."""

    def __init__(self, kind: Kind, moment: str):
        self._kind, self._left, self._commits_before = kind, list(kind.faults), MOMENTS[moment]
        self._commits, self._is_down = 0, False
        self.met = 0  # requests that got a fault

    def __call__(self, request: Request) -> Fault | None:
        is_ours = "agent-harnesses" not in request.path and "whoami" not in request.path
        if not is_ours or self._commits < self._commits_before:
            self._commits += "/commit/" in request.path
            return None
        fault = self._fault(request)
        self.met += fault is not None
        return fault

    def _fault(self, request: Request) -> Fault | None:
        kind = self._kind
        if kind.down_s:
            if not self._is_down:
                self._is_down = True
                threading.Thread(target=self._close_the_port).start()
            return hang_up()
        if kind.method not in ("", request.method) or not re.search(kind.path, request.path) or not self._left:
            return None
        return self._left[0] if kind.lasts else self._left.pop(0)

    def _close_the_port(self) -> None:
        HUB.refuse()
        if not self._kind.lasts:
            time.sleep(self._kind.down_s)
            HUB.decide = None
            HUB.accept()
