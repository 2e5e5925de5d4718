"""A trackio run: curves in an SQLite file of the run's folder, which `trackio show` opens in a browser.

Nothing leaves the machine unless trackio's own variables (TRACKIO_SPACE_ID, TRACKIO_SERVER_URL) say so.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hf_tti.console import complain


@contextmanager
def trackio_run(project: str, store: Path, group: str, config: Mapping[str, Any]) -> Iterator[None]:
    """Adds group and configuration to the run that transformers opens, and closes it whatever ends the training."""
    import trackio  # here, not above: it reads TRACKIO_DIR when it is imported, once in a process

    if Path(trackio.TRACKIO_DIR) != store:
        complain(f"trackio already writes to {trackio.TRACKIO_DIR} in this process; this run's curves go there too")
    stock = trackio.init
    trackio.init = functools.partial(stock, group=group, config=dict(config))
    try:
        yield
    finally:
        trackio.init = stock
        _finish(trackio)
        where = f"TRACKIO_DIR={shlex.quote(str(trackio.TRACKIO_DIR))}"
        complain(f"To see this run: {where} trackio show --project {project}")


def _finish(trackio: ModuleType) -> None:
    if trackio.context_vars.current_run.get() is None:
        return
    try:
        trackio.finish()
    except Exception as error:  # a full disk, say
        complain(f"trackio could not close its run ({error})")
