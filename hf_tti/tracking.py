"""The `tracking:` section: which tracker gets the logs, under which project, group and run id.

A tracker never ends a run: where the W&B server does not answer within 12 seconds the run is
recorded offline and the command that uploads it later is printed. The run id is kept in the run's
folder, so that a resumed run stays one run.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hf_tti.console import complain, is_main_process
from hf_tti.errors import UserError
from hf_tti.recipe.sections import TrackingSection

TRACKERS = {
    "wandb": "wandb",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
}  # name -> module that it needs
_WANDB_TIMEOUT_S = 12


def tracker_run_id(digest: str, run_dir: Path) -> str:
    """16 hex digits that belong to this recipe in this folder."""
    return hashlib.sha256(f"{digest}\n{run_dir.resolve()}".encode()).hexdigest()[:16]


def check_tracker(section: TrackingSection) -> None:
    """Raises a UserError where the tracker is not installed."""
    module = TRACKERS.get(section.tracker)
    if module is not None and importlib.util.find_spec(module) is None:
        raise UserError(
            f"tracking.tracker: {section.tracker!r} is not installed; "
            f"pip install {module}, or set tracking.tracker=none"
        )


@contextmanager
def tracked(section: TrackingSection, *, run_dir: Path, run_name: str, group: str, run_id: str) -> Iterator[list[str]]:
    """Opens the tracker's run on the main process and yields transformers' `report_to`; closes it
    afterwards.

    The environment variables that trackers read are set inside and restored after.

    Raises:
        UserError: the tracker is not installed.
    """
    check_tracker(section)
    group = section.group or group
    if section.tracker == "none":
        yield []
    elif section.tracker == "tensorboard":
        with _environment({"TENSORBOARD_LOGGING_DIR": str(run_dir / "tensorboard")}):
            yield ["tensorboard"]
    elif section.tracker == "trackio":
        store = os.environ.get("TRACKIO_DIR") or str(run_dir.resolve() / "trackio")
        with _environment({"TRACKIO_DIR": store}):
            if is_main_process():
                with _trackio_run(section.project, Path(store), group):
                    yield ["trackio"]
            else:
                yield []
    else:
        with _environment({"WANDB_DISABLE_CODE": "true", "WANDB_LOG_MODEL": "false", "WANDB_WATCH": "false"}):
            if is_main_process():
                with _wandb_run(section.project, run_dir, run_name, group, run_id, section.tags):
                    yield ["wandb"]
            else:
                yield []


@contextmanager
def _wandb_run(
    project: str, run_dir: Path, run_name: str, group: str, run_id: str, tags: Sequence[str]
) -> Iterator[None]:
    import wandb

    options = {
        "project": project,
        "group": group,
        "name": run_name,
        "id": run_id,
        "resume": "allow",
        "dir": str(run_dir),
        "job_type": "train",
        "tags": list(tags) or None,
    }
    try:
        settings = wandb.Settings(init_timeout=_WANDB_TIMEOUT_S, login_timeout=_WANDB_TIMEOUT_S)
        run = wandb.init(**options, settings=settings)
    except (wandb.errors.Error, OSError) as error:
        complain(f"W&B cannot be reached ({str(error).splitlines()[0]}); recording this run offline")
        wandb.teardown()  # else the failed service answers for the offline run as well
        run = wandb.init(**options, mode="offline")
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        folder = Path(run.dir).parent
        is_offline = run.settings.mode == "offline" or os.environ.get("WANDB_MODE") == "offline"
        wandb.finish(exit_code=exit_code)
        if is_offline:
            complain(f"This run is on disk only; to upload it: wandb sync {shlex.quote(str(folder))}")


@contextmanager
def _trackio_run(project: str, store: Path, group: str) -> Iterator[None]:
    """Adds the group to the run that transformers opens, and closes it whatever ends the training."""
    import trackio

    if Path(trackio.TRACKIO_DIR) != store:  # trackio reads the variable once in a process
        complain(f"trackio already writes to {trackio.TRACKIO_DIR} in this process; this run's curves go there too")
    stock = trackio.init
    trackio.init = functools.partial(stock, group=group)
    try:
        yield
    finally:
        trackio.init = stock
        if trackio.context_vars.current_run.get() is not None:
            trackio.finish()
        where = f"TRACKIO_DIR={shlex.quote(str(trackio.TRACKIO_DIR))}"
        complain(f"To see this run: {where} trackio show --project {project}")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
