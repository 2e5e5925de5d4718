"""Reports in the tracker: an evaluated checkpoint in the run that it came from, a comparison in a run of its own.

The report's files go there as an artifact, its numbers as a table and a summary, its pictures as media panels. Nothing
here raises for a tracker's sake: the report is on disk already.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from hf_tti.console import complain
from hf_tti.errors import UserError
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import NAME_PATTERN, TrackingSection
from hf_tti.report import ARRAYS_FILE, REPORT_FILE, Report
from hf_tti.run_folder import RECIPE_FILE, RunFolder
from hf_tti.tracking import check_tracker
from hf_tti.tracking.environment import environment
from hf_tti.tracking.panels import heatmaps, metrics_table
from hf_tti.tracking.public import public

if TYPE_CHECKING:
    import wandb

_BYTES_A_SECOND = 1e6  # that an upload is given time for


def log_report(run_dir: Path, report: Report) -> None:
    """Logs a report to the tracker of the run that the checkpoint came from, if it has one.

    Args:
        run_dir: of the run.
        report: what was measured.
    """
    run = RunFolder(run_dir)
    if run.record() is None:
        return
    recipe = run.recipe()
    section = TrackingSection(**recipe.tracking)
    if section.tracker == "none":
        return
    try:
        check_tracker(section)
        with run.lock():  # a training in this folder has the tracker's run open
            _LOG[section.tracker](section, run_dir, recipe, report)
    except Exception as error:  # whatever the tracker raises
        complain(f"the report is not in the tracker ({str(error) or type(error).__name__})")


def _files(report: Report, name: str) -> dict[str, bytes]:
    """File name -> content, as the Hub is given it: no folder of this machine, the model by the name of its run."""
    from hf_tti.hub.side_files import as_published

    return dict(zip((REPORT_FILE, ARRAYS_FILE), as_published(report, name).to_bytes(), strict=True))


def _pictures(report: Report) -> dict[str, np.ndarray]:
    if importlib.util.find_spec("matplotlib") is None:
        complain("no pictures in the tracker without matplotlib: pip install 'hf-tti[analysis]'")
        return {}
    return {f"report/{name}": pixels for name, pixels in heatmaps(report).items()}


def _numbers(report: Report) -> dict[str, float]:
    return {f"report/{name}": value for name, value in report.metrics.items() if value is not None}


# ---- W&B ---------------------------------------------------------------------------------------


def _to_wandb(section: TrackingSection, run_dir: Path, recipe: Recipe, report: Report) -> None:
    import wandb

    from hf_tti.tracking import tracker_run_id
    from hf_tti.tracking.wandb_run import FINISH_S, wandb_run

    group = section.group or recipe.experiment or recipe.name
    files = _files(report, recipe.run_name)
    files[RECIPE_FILE] = yaml.safe_dump(public(recipe.to_dict()), sort_keys=False, allow_unicode=True).encode()

    def log_panels(run: wandb.Run) -> None:
        columns, rows = metrics_table(report)
        pictures = {name: wandb.Image(pixels) for name, pixels in _pictures(report).items()}
        run.log({"report/metrics": wandb.Table(columns=columns, data=rows), **pictures})
        run.summary.update(_numbers(report))

    def log_files(run: wandb.Run) -> None:
        metadata = {"name": report.name, "step": report.step, "weights_sha256": report.model.weights_sha256}
        artifact = wandb.Artifact(f"report-{run.id}", type="report", metadata=metadata)
        for name, content in files.items():
            with artifact.new_file(name, mode="wb") as handle:
                handle.write(content)
        run.log_artifact(artifact, aliases=[] if report.step is None else [f"step{report.step}"])

    finish_s = FINISH_S + sum(map(len, files.values())) / _BYTES_A_SECOND
    options = {"id": tracker_run_id(recipe.digest(), run_dir), "name": recipe.run_name, "group": group}
    with wandb_run(section, run_dir, finish_s=finish_s, job_type="train", **options) as run:
        run.do(log_panels)
        run.do(log_files)


def check_comparison(project: str) -> None:
    """Raises a UserError where `log_comparison` could not log to a project of that name, or not without wandb."""
    if not re.fullmatch(NAME_PATTERN, project):
        raise UserError(f"--wandb {project!r}: not a project's name; letters, digits, dots, _ and - make one")
    check_tracker(TrackingSection(tracker="wandb", project=project))


def log_comparison(project: str, folder: Path) -> None:
    """Logs a page of `hf-tti report` and its pictures to W&B, as a run of its own of the job type `report`.

    Args:
        project: in W&B.
        folder: with `index.html` and `figures/*.png`. The same folder is the same run.
    """
    import wandb

    from hf_tti.tracking.wandb_run import FINISH_S, wandb_run

    folder = folder.resolve()
    pages, pictures = sorted(folder.glob("*.html")), sorted(folder.glob("figures/*.png"))

    def log_panels(run: wandb.Run) -> None:
        panels: dict[str, Any] = {f"report/{path.stem}": wandb.Image(str(path)) for path in pictures}
        run.log({**panels, **{f"report/{path.stem}": wandb.Html(str(path)) for path in pages}})

    def log_files(run: wandb.Run) -> None:
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_dir(str(folder), skip_cache=True)
        run.log_artifact(artifact)

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    run_id = hashlib.sha256(f"{project}\n{folder}".encode()).hexdigest()[:16]
    place = Path(os.environ.get("WANDB_DIR", "."))  # not the report's folder: that is replaced as a whole
    section = TrackingSection(tracker="wandb", project=project)
    finish_s = FINISH_S + 2 * size / _BYTES_A_SECOND
    with wandb_run(section, place, id=run_id, finish_s=finish_s, name=folder.name, job_type="report") as run:
        run.do(log_panels)
        run.do(log_files)


# ---- trackio, TensorBoard ------------------------------------------------------------------------


def _to_trackio(section: TrackingSection, run_dir: Path, recipe: Recipe, report: Report) -> None:
    store = os.environ.get("TRACKIO_DIR") or str(run_dir.resolve() / "trackio")
    with environment({"TRACKIO_DIR": store}):
        import trackio

        columns, rows = metrics_table(report)
        panels: dict[str, Any] = {"report/metrics": trackio.Table(columns=columns, data=rows)}
        panels |= {name: trackio.Image(pixels, caption=name) for name, pixels in _pictures(report).items()}
        group = section.group or recipe.experiment or recipe.name
        try:
            trackio.init(project=section.project, name=recipe.run_name, group=group, resume="allow")
            trackio.log({**_numbers(report), **panels})
            artifact = trackio.Artifact(f"report-{recipe.run_name}", type="report")
            with TemporaryDirectory() as folder:
                for name, content in _files(report, recipe.run_name).items():
                    (Path(folder) / name).write_bytes(content)
                    artifact.add_file(Path(folder) / name)
                trackio.log_artifact(artifact)
        finally:
            with suppress(Exception):
                trackio.finish()


def _to_tensorboard(section: TrackingSection, run_dir: Path, recipe: Recipe, report: Report) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run_dir / "tensorboard")) as writer:
        for name, value in _numbers(report).items():
            writer.add_scalar(name, value, report.step)
        for name, pixels in _pictures(report).items():
            writer.add_image(name, pixels, report.step, dataformats="HWC")


_LOG: Mapping[str, Any] = {"wandb": _to_wandb, "trackio": _to_trackio, "tensorboard": _to_tensorboard}
