"""Laws of reports in a tracker: an evaluated run's files, numbers and pictures are in the run that it came from, a
comparison's page and pictures in a run of its own. The W&B server is on 127.0.0.1.
"""

import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fakes.wandb import fake_wandb
from hf_tti.cli import main
from hf_tti.hub.side_files import as_published
from hf_tti.report import Report
from hf_tti.run_folder import RunFolder
from hf_tti.tracking.panels import heatmaps
from hf_tti.tracking.reports import log_comparison, log_report
from test_tracking import OFFLINE, SECRETS, forget_trackio
from tiny_runs import write_recipe
from tracker_files import files_with

wandb = pytest.importorskip("wandb")
METRICS = {"sparsity": {"metric": "activation_sparsity"}, "similarity": {"metric": "cosine_similarity"}}


def trained_and_evaluated(folder: Path, tracker: str) -> Path:
    tracking = {"tracker": tracker, "project": "tiny"}
    recipe = write_recipe(folder, tracking=tracking, metrics=METRICS, training={"max_steps": 2})
    run = folder / "run"
    assert main(["train", str(recipe), "--run-dir", str(run)]) == 0
    assert main(["evaluate", str(run), "--nulls", "random_init", "--metrics", "sparsity,similarity"]) == 0
    return run


def _published(report: Report) -> tuple[bytes, bytes]:
    """What of a report a tracker is given: what the Hub is."""
    return as_published(report, "tiny-seed7").to_bytes()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """(server, run folder) of a run that was evaluated."""
    folder = tmp_path_factory.mktemp("evaluated")
    with fake_wandb() as server, pytest.MonkeyPatch.context() as patch:
        variables = {**server.environment, "HF_TTI_CACHE": str(folder / "cache"), "HF_TOKEN": SECRETS["HF_TOKEN"]}
        for name, value in variables.items():
            patch.setenv(name, value)
        run = trained_and_evaluated(folder, "wandb")
        wandb.teardown()
    return server, run


def test_the_report_is_an_artifact_of_the_run_that_it_came_from(evaluated):
    server, folder = evaluated
    (run,) = server.runs.values()
    assert run.last("jobType") == "train"
    (artifact,) = [artifact for artifact in server.artifacts if artifact.type == "report"]
    assert (artifact.run, artifact.state) == (run.name, "COMMITTED")
    report = Report.load(folder)
    assert (artifact.files["report.json"], artifact.files["arrays.safetensors"]) == _published(report)
    assert str(folder.parent).encode() in (folder / "report" / "report.json").read_bytes()
    ours = ("report.json", "arrays.safetensors", "recipe.yaml")  # W&B's own manifest names its staging folder
    assert [name for name in ours if str(folder.parent).encode() in artifact.files[name]] == []


def test_tables_and_pictures_are_media_panels(evaluated):
    server, folder = evaluated
    (run,) = server.runs.values()
    report = Report.load(folder)
    (panels,) = [row for row in run.history if "report/metrics" in row]
    table = json.loads(run.files[panels["report/metrics"]["path"]])
    assert {row[0]: row[1] for row in table["data"]} == report.metrics
    assert {row[0]: row[2] for row in table["data"]} == {
        name: report.nulls["random_init"].get(name) for name in report.metrics
    }
    pictures = {f"report/{name}" for name in heatmaps(report)}
    assert pictures == {"report/similarity/layer_0", "report/similarity/layer_1"}
    for name in pictures:
        assert run.files[panels[name]["path"]].startswith(b"\x89PNG")


@pytest.fixture
def with_tracker(evaluated, tmp_path, monkeypatch):
    """A copy of the evaluated run whose recipe names another tracker, or the same."""

    def copy(tracker: str) -> Path:
        run = tmp_path / "run"
        shutil.copytree(evaluated[1], run, ignore=shutil.ignore_patterns("wandb"))
        recipe = run / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("tracker: wandb", f"tracker: {tracker}"))
        return run

    for name, value in {**OFFLINE, "HF_TOKEN": SECRETS["HF_TOKEN"]}.items():
        monkeypatch.setenv(name, value)
    return copy


def test_trackio_has_the_same_in_its_own_files(with_tracker, monkeypatch):
    pytest.importorskip("trackio")
    forget_trackio(monkeypatch)
    run = with_tracker("trackio")
    report = Report.load(run)
    log_report(run, report)
    (path,) = (run / "trackio").glob("*.db")
    with closing(sqlite3.connect(path)) as store:
        (logged,) = (json.loads(metrics) for (metrics,) in store.execute("SELECT metrics FROM metrics"))
    assert {row["metric"]: row["value"] for row in logged["report/metrics"]["_value"]} == report.metrics
    assert len(list((run / "trackio").rglob("*.png"))) == len(heatmaps(report))
    assert not files_with(run, [SECRETS["HF_TOKEN"].encode()])


def test_tensorboard_has_numbers_and_pictures(with_tracker):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = with_tracker("tensorboard")
    report = Report.load(run)
    log_report(run, report)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert {f"report/{name}" for name, value in report.metrics.items() if value is not None} <= set(
        events.Tags()["scalars"]
    )
    assert set(events.Tags()["images"]) == {f"report/{name}" for name in heatmaps(report)}


def test_without_a_server_the_report_waits_in_the_run_folder(with_tracker, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", SECRETS["WANDB_API_KEY"])
    monkeypatch.setattr("hf_tti.tracking.wandb_run.INIT_S", 1)
    run = with_tracker("wandb")
    log_report(run, Report.load(run))
    wandb.teardown()
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert f"to upload it: wandb sync {folder}\n" in capsys.readouterr().err
    assert folder.name.endswith(json.loads((run / "run.json").read_text())["tracker_run_id"])
    waiting = {path.read_bytes() for path in (run / "wandb" / "artifacts").rglob("*") if path.is_file()}
    assert _published(Report.load(run))[0] in waiting


def test_a_run_that_trains_keeps_its_tracker_to_itself(with_tracker, capsys):
    run = with_tracker("wandb")
    with RunFolder(run).lock():
        log_report(run, Report.load(run))
    assert "another process is training" in capsys.readouterr().err
    assert not (run / "wandb").exists()


def test_a_comparison_is_a_run_of_its_own_however_often_it_is_made(tmp_path, monkeypatch):
    page = tmp_path / "page"
    (page / "figures").mkdir(parents=True)
    (page / "index.html").write_text("<p>What it costs</p>")
    (page / "figures" / "frontier.png").write_bytes(_png())
    with fake_wandb() as server:
        for name, value in {**server.environment, "WANDB_DIR": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        for _ in range(2):
            log_comparison("tiny", page)
        wandb.teardown()
    (run,) = server.runs.values()
    assert (run.project, run.last("jobType"), run.last("displayName")) == ("tiny", "report", "page")
    first, second = run.history
    assert run.files[first["report/frontier"]["path"]] == _png()
    assert b"What it costs" in run.files[first["report/index"]["path"]]
    assert server.artifacts[0].files["index.html"] == b"<p>What it costs</p>"
    assert sorted(path.name for path in page.iterdir()) == ["figures", "index.html"]


def _png() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "png")
    return content.getvalue()


def test_a_project_that_cannot_be_is_said_before_the_report_is_made(tmp_path, capsys):
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page"), "--wandb", "a/b"]) == 2
    assert "--wandb 'a/b'" in capsys.readouterr().err


def test_nothing_secret_is_in_any_part(evaluated):
    server, folder = evaluated
    secrets = [SECRETS["HF_TOKEN"].encode(), server.environment["WANDB_API_KEY"].encode()]
    assert not [body for body in server.bodies if any(secret in body for secret in secrets)]
    assert not files_with(folder, secrets)
