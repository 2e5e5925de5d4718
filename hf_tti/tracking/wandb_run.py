"""A W&B run that outlives its server and its service.

A server that does not answer within `INIT_S` seconds of a sign-in that has ten of its own: the run is recorded
offline. One that goes away later: the client tries on in the background, and `FINISH_S` seconds after the end it is
left at that. A client process that dies: the rest is recorded offline. Each time the `wandb sync` line is said, and
the run id stays the same.
"""

from __future__ import annotations

import os
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wandb

from hf_tti.console import complain
from hf_tti.recipe.sections import TrackingSection
from hf_tti.run_folder import RUN_FILE, RunFolder, write_json
from hf_tti.signals import Stopped
from hf_tti.tracking.environment import environment

INIT_S, FINISH_S = 10, 10
_RECENT = 64  # actions, more than a client that is killed has not yet written
_FATAL = "filestream: fatal error"  # in the client's log: what it holds back it does not raise


@contextmanager
def wandb_run(
    section: TrackingSection, run_dir: Path, *, id: str, finish_s: float = FINISH_S, **options: Any
) -> Iterator[WandbRun]:
    """The run in the tracker of the run in a folder, new or resumed; closed at the end of the block.

    Args:
        id: where `run.json` names no other; an agent of a sweep decides itself.
        finish_s: seconds for what is not uploaded yet at the end.
        options: of `wandb.init`: name, group, job_type, config.
    """
    with environment(_variables(run_dir)):
        record = RunFolder(run_dir).record() or {}
        place = {"id": record.get("tracker_run_id", id), "project": section.project}
        run = WandbRun(
            {
                **options,
                **({} if os.environ.get("WANDB_SWEEP_ID") else place),
                "tags": list(section.tags) or None,
                "resume": "allow",
                "dir": str(run_dir),
            },
            finish_s,
        )
        if record and run.id not in (None, record.get("tracker_run_id")):
            write_json(run_dir / RUN_FILE, {**record, "tracker_run_id": run.id})
        exit_code = 1
        try:
            yield run
            exit_code = 0
        except Stopped:
            run.do(lambda run: run.mark_preempting())  # an agent of a sweep begins it again
            raise
        finally:
            run.close(exit_code)


def _variables(run_dir: Path) -> dict[str, str]:
    """No code and no weights are uploaded, and files that wait for it lie in the run's folder."""
    off = {"WANDB_DISABLE_CODE": "true", "WANDB_LOG_MODEL": "false", "WANDB_WATCH": "false"}
    return {**off, "WANDB_DATA_DIR": str(run_dir.resolve() / "wandb")}


class WandbRun:
    """An open run.

    Args:
        options: of `wandb.init`.
        finish_s: seconds for what is not uploaded yet at the end.
    """

    def __init__(self, options: Mapping[str, Any], finish_s: float = FINISH_S):
        self._options = dict(options)
        self._finish_s = finish_s
        self._folders: list[Path] = []
        self._setups: list[Callable[[wandb.Run], Any]] = []
        self._recent: deque[Callable[[wandb.Run], Any]] = deque(maxlen=_RECENT)
        self._run: wandb.Run | None = None
        self._open()

    @property
    def id(self) -> str | None:
        """In the tracker; None where there is no run in it."""
        return None if self._run is None or self._run.disabled else self._run.id

    def set_up(self, action: Callable[[wandb.Run], Any]) -> None:
        """Does something with the run that any run in its place needs too."""
        self._setups.append(action)
        self._attempt(action)

    def do(self, action: Callable[[wandb.Run], Any]) -> None:
        """Does something with the run; the last of these are done again with a run in its place."""
        self._recent.append(action)
        self._attempt(action)

    def close(self, exit_code: int) -> None:
        """Ends the run, and says how to upload what did not get to the server."""
        is_cut = self._run is not None and self._finish(exit_code)
        if is_cut or any(_is_offline(folder) or _was_fatal(folder) for folder in self._folders):
            only_here = all(map(_is_offline, self._folders))
            what = "This run is on disk only" if only_here else "W&B lacks a part of this run"
            complain(f"{what}; to upload it: {'; '.join(map(_upload, self._folders))}")

    def _open(self) -> None:
        settings = wandb.Settings(
            init_timeout=INIT_S,
            login_timeout=INIT_S,
            finish_timeout=self._finish_s,
            finish_timeout_raises=True,
        )
        try:
            self._keep(wandb.init(**self._options, settings=settings))
        except Stopped:
            raise
        except Exception as error:  # wandb.Error, OSError, errors of the client's own service
            complain(f"W&B cannot be reached ({_first_line(error)}); recording this run offline")
            self._open_offline()

    def _open_offline(self) -> None:
        with suppress(Exception):
            wandb.teardown()  # else the failed service answers for the offline run as well
        try:
            self._keep(wandb.init(**self._options, mode="offline"))
        except Exception as error:
            self._run = None
            complain(f"W&B records nothing of this run ({_first_line(error)}); the run's own log file does")

    def _keep(self, run: wandb.Run) -> None:
        self._run = run
        if not run.disabled:
            self._folders.append(Path(run.dir).parent)

    def _attempt(self, action: Callable[[wandb.Run], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Stopped:
            raise
        except Exception as error:  # wandb.Error, OSError of a client that died, and others
            self._go_on_offline(error)

    def _go_on_offline(self, error: Exception) -> None:
        complain(f"W&B's client failed ({_first_line(error)}); recording the rest of this run offline")
        with suppress(Exception):
            self._run.finish(exit_code=1)
        self._open_offline()
        try:
            for action in [*self._setups, *self._recent]:
                if self._run is not None:
                    action(self._run)
        except Exception as error:
            self._run = None
            complain(f"W&B records no more of this run ({_first_line(error)}); the run's own log file does")

    def _finish(self, exit_code: int) -> bool:
        """Whether something was not uploaded."""
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            return True
        except Stopped:
            raise
        except Exception as error:  # of a client that died
            self._go_on_offline(error)
            with suppress(Exception):
                wandb.finish(exit_code=exit_code)
            return True
        return False


def _is_offline(folder: Path) -> bool:
    return folder.name.startswith("offline-")


def _upload(folder: Path) -> str:
    """A command for each folder: one that a dead client left would keep `wandb sync` from the next."""
    online = "" if _is_offline(folder) else "--include-online "  # else it passes over it
    return f"wandb sync {online}{shlex.quote(str(folder))}"


def _was_fatal(folder: Path) -> bool:
    """Whether the client gave up on uploading, of which only its log tells."""
    log = folder / "logs" / "debug-internal.log"
    return log.is_file() and _FATAL in log.read_text(encoding="utf-8", errors="replace")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300] or type(error).__name__
