"""Laws of a run that the real W&B client sends to a server: what gets there, once, under one id; and what happens when
the server or the client goes away. The server is on 127.0.0.1.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.wandb import KEY, STALL, fake_wandb
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.recipe.sections import TrackingSection
from hf_tti.run import train_run
from hf_tti.tracking import tracked
from test_tracking import SECRETS, crash_at, files_with_a_secret
from tiny_runs import write_recipe
from tracker_files import read_wandb

wandb = pytest.importorskip("wandb")

from hf_tti.tracking.wandb_run import wandb_run  # noqa: E402

SECTION = TrackingSection(tracker="wandb", project="tiny", tags=["a"])
OPTIONS = {"id": "0123456789abcdef", "name": "tiny-seed7", "group": "tiny_runs", "job_type": "train"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    with fake_wandb() as server:
        for name, value in {**server.environment, "HF_TTI_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        yield server
        wandb.teardown()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(server, run folder) of a run that was interrupted at step 4 and resumed."""
    folder = tmp_path_factory.mktemp("online")
    tracking = {"tracker": "wandb", "tags": ["tiny"]}
    recipe = expand_sweep(load_recipe(write_recipe(folder, tracking=tracking), ()))[0]
    with fake_wandb() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**server.environment, "HF_TTI_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        patch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        with pytest.MonkeyPatch.context() as crash, pytest.raises(KeyboardInterrupt):
            crash_at(crash, step=5)
            train_run(recipe, folder / "run")
        train_run(recipe, folder / "run", resume=True)
        wandb.teardown()
    return server, folder / "run"


def test_a_resumed_run_is_one_run_at_the_server(trained):
    server, folder = trained
    (run,) = server.runs.values()
    assert run.name == json.loads((folder / "run.json").read_text())["tracker_run_id"]
    assert (run.project, run.last("groupName"), run.last("jobType"), run.last("displayName"), run.last("tags")) == (
        "training-time-interpretability",
        "tiny_runs",
        "train",
        "tiny-seed7",
        ["tiny"],
    )
    assert run.is_complete and not run.exit_code


def test_of_the_steps_that_are_repeated_on_resume_only_the_last_is_logged_again(trained):
    (run,) = trained[0].runs.values()
    steps = [row["train/global_step"] for row in run.history if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 5, 6]  # the last one twice: it may have been cut off
    assert [row["_step"] for row in run.history] == list(range(len(run.history)))
    assert sorted({row["train/global_step"] for row in run.history if "eval/loss" in row}) == [2, 4, 6]


def test_the_axis_is_the_optimizer_step_and_the_summary_the_best(trained):
    """Fields of the client's records: 1 and 2 are a metric's name and pattern, 5 its axis, 7 what the summary keeps."""
    (run,) = trained[0].runs.values()
    names = [metric.get("1") or metric["2"] for metric in run.metrics]
    axis, (least, most) = names.index("train/global_step") + 1, (1, 2)
    assert {name: (metric.get("5"), metric["7"]) for name, metric in zip(names, run.metrics, strict=True)} == {
        "train/global_step": (None, []),
        "train/*": (axis, []),
        "eval/*": (axis, []),
        "eval/loss": (axis, [least]),
        "eval/perplexity": (axis, [least]),
        "eval/sparsity/mean": (axis, [most]),
        "eval/polysemanticity/mean": (axis, [least]),
    }
    assert len(names) == len(set(names))


def test_the_configuration_is_the_recipe_without_local_folders(trained):
    server, folder = trained
    (run,) = server.runs.values()
    assert run.config["recipe"]["objectives"] == {"orthogonality": {"sites": ["mlp.out"], "weight": 0.1}}
    assert run.config["recipe"]["data"]["train"] == "stories.jsonl"
    assert run.config["model/num_parameters"] > 0
    assert str(folder.parent) not in json.dumps(run.config)


def test_no_secret_is_sent_or_written(trained):
    server, folder = trained
    assert {request.key for request in server.requests} <= {KEY, ""}
    assert not [body for body in server.bodies if KEY.encode() in body or SECRETS["HF_TOKEN"].encode() in body]
    assert not files_with_a_secret(folder)


# ---- outages --------------------------------------------------------------------------------------------------------


def record_three(server, run_dir: Path, *, break_at: int | None = None, action=None) -> None:
    """Three steps; before one of them, or at the end, something happens."""
    with wandb_run(SECTION, run_dir, finish_s=1, **OPTIONS) as run:
        for step in (1, 2, 3):
            if step == break_at:
                action()
            run.do(lambda run, step=step: run.log({"train/loss": 1 / step, "train/global_step": step}))
        if break_at == "end":
            action()


def recorded_steps(run_dir: Path) -> list[int]:
    wandb.teardown()  # what the client's service still holds goes to the file
    recorded = read_wandb(run_dir)
    assert {entry[0] for entry in recorded.runs} == {OPTIONS["id"]}
    return sorted(recorded.curves["train/loss"])


def failing(server, status: int):
    """The server answers everything with this status from then on."""

    def fail() -> None:
        server.fault = lambda request: status

    return fail


def upload(said: str, folder: Path) -> None:
    """What the run said has to be done."""
    (commands,) = [line.split("upload it: ")[1] for line in said.splitlines() if "upload it: " in line]
    environment = {**os.environ, "HOME": str(folder)}
    for command in commands.split("; "):
        words = shlex.split(command)
        assert words[:2] == ["wandb", "sync"] and Path(words[-1]).is_dir()
        subprocess.run([sys.executable, "-m", *words], env=environment, cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(("status", "moment"), [(401, "end"), (503, 2), (STALL, "end")])
def test_a_server_that_fails_later_loses_nothing(server, status, moment, tmp_path, capsys):
    record_three(server, tmp_path, break_at=moment, action=failing(server, status))
    assert recorded_steps(tmp_path) == [1, 2, 3]
    assert not files_with_a_secret(tmp_path)
    said = capsys.readouterr().err
    assert "W&B lacks a part of this run; to upload it: wandb sync --include-online" in said
    if status == 503:
        server.fault = lambda request: None
        upload(said, tmp_path)
        assert [row["train/global_step"] for row in server.runs[OPTIONS["id"]].history] == [1, 2, 3]


def test_a_server_that_fails_from_the_start_means_an_offline_run(server, tmp_path, capsys):
    failing(server, 401)()
    record_three(server, tmp_path)
    assert recorded_steps(tmp_path) == [1, 2, 3]
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert f"This run is on disk only; to upload it: wandb sync {folder}\n" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("pgrep") is None, reason="pgrep finds the client's process")
@pytest.mark.parametrize("moment", [3, "end"])
def test_a_client_that_is_killed_is_replaced(server, moment, tmp_path, capsys):
    def kill() -> None:
        ours = ["pgrep", "-P", str(os.getpid()), "wandb-core"]
        for pid in subprocess.run(ours, capture_output=True, text=True, check=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    record_three(server, tmp_path, break_at=moment, action=kill)
    assert recorded_steps(tmp_path) == [1, 2, 3]
    said = capsys.readouterr().err
    assert "recording the rest of this run offline" in said
    assert re.search(r"upload it: wandb sync --include-online \S+/run-\S+; wandb sync \S+/offline-run-\S+\n", said)


def test_a_client_that_cannot_start_ends_nothing(tmp_path, capsys, monkeypatch):
    def init(**options):
        raise OSError("no such file")

    monkeypatch.setattr(wandb, "init", init)
    with wandb_run(SECTION, tmp_path, **OPTIONS) as run:
        run.do(lambda run: run.log({"train/loss": 1.0}))
    assert "W&B records nothing of this run" in capsys.readouterr().err


def test_a_healthy_run_says_nothing(server, tmp_path, capsys):
    record_three(server, tmp_path)
    assert "upload" not in capsys.readouterr().err
    assert server.runs[OPTIONS["id"]].is_complete


def test_a_disabled_run_leaves_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    record = {"name": "tiny-seed7", "digest": "d", "tracker_run_id": OPTIONS["id"]}
    (tmp_path / "run.json").write_text(json.dumps(record))
    record_three(server, tmp_path)
    assert not server.requests and not list(tmp_path.rglob("*.wandb"))
    assert json.loads((tmp_path / "run.json").read_text()) == record


def test_a_run_that_was_stopped_is_begun_again_by_its_agent(server, tmp_path):
    from hf_tti.signals import Stopped

    with pytest.raises(Stopped), wandb_run(SECTION, tmp_path, finish_s=5, **OPTIONS):
        raise Stopped(signal.SIGTERM, 3)
    run = server.runs[OPTIONS["id"]]
    assert run.exit_code == 1
    assert any(b'"preempting":true' in body for body in server.bodies)


def test_the_environment_is_as_before(server, tmp_path):
    before = dict(os.environ)
    with tracked(SECTION, run_dir=tmp_path, run_name="a", group="b", run_id="c") as callbacks:
        assert len(callbacks) == 1
        assert os.environ["WANDB_DISABLE_CODE"] == "true"
    wandb.teardown()
    assert {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} == before
