"""The `tracking:` section: which tracker gets the logs, under which project, group and run id.

A tracker never ends a run and never holds it up: where the W&B server does not answer in time the run is recorded
offline and the command that uploads it later is said. The run id is kept in the run's folder, so that a resumed run
stays one run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from hf_tti.console import is_main_process
from hf_tti.errors import UserError
from hf_tti.metrics.base import Metric
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import TrackingSection
from hf_tti.tracking.environment import environment
from hf_tti.tracking.guarded import Guarded
from hf_tti.tracking.public import public

TRACKERS = {
    "wandb": "wandb",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
}  # name -> module that it needs


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
def tracked(
    section: TrackingSection,
    *,
    run_dir: Path,
    run_name: str,
    group: str,
    run_id: str,
    recipe: Recipe | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Iterator[Sequence[TrainerCallback]]:
    """Opens the tracker's run on the main process and yields the callbacks that log to it; closes it afterwards.

    The environment variables that trackers read are set inside and restored after.

    Args:
        run_id: in the tracker, where `run.json` names no other.
        recipe: for the tracker's page of the configuration, without secrets and local folders.
        metrics: label -> Metric, measured at every evaluation.

    Raises:
        UserError: the tracker is not installed.
    """
    check_tracker(section)
    group = section.group or group
    config = {"recipe": public(recipe.to_dict())} if recipe is not None else {}
    if section.tracker == "none" or not is_main_process():
        yield []
    elif section.tracker == "tensorboard":
        with environment({"TENSORBOARD_LOGGING_DIR": str(run_dir / "tensorboard")}):
            yield _stock("tensorboard")
    elif section.tracker == "trackio":
        from hf_tti.tracking.trackio_run import trackio_run

        store = os.environ.get("TRACKIO_DIR") or str(run_dir.resolve() / "trackio")
        with environment({"TRACKIO_DIR": store}), trackio_run(section.project, Path(store), group, config):
            yield _stock("trackio")
    else:
        from hf_tti.tracking.wandb_curves import WandbCurves
        from hf_tti.tracking.wandb_run import wandb_run

        options = {"name": run_name, "group": group, "id": run_id, "job_type": "train", "config": config}
        with wandb_run(section, run_dir, **options) as run:
            yield [WandbCurves(run, metrics or {})]


def _stock(tracker: str) -> list[TrainerCallback]:
    return [Guarded(tracker, callback()) for callback in get_reporting_integration_callbacks([tracker])]
