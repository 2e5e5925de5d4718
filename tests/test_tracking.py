"""Laws of tracking: every curve is in the tracker's files, they lie in the run's folder and hold no
secret, a resumed run is one run, and the tracker's environment is gone afterwards. No network.
"""

import json
import os
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState

from hf_tti.errors import UserError
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.recipe.sections import TrackingSection
from hf_tti.run import train_run
from hf_tti.tracking import tracked, tracker_run_id
from hf_tti.trainer import InterpTrainer
from tiny import arguments, tiny_model
from tiny_runs import write_recipe
from tracker_files import Recorded, files_with, read_tensorboard, read_trackio, read_wandb

RUN = {"run_name": "tiny-seed7", "group": "tiny_runs", "run_id": "0123456789abcdef"}
READERS = {"tensorboard": read_tensorboard, "trackio": read_trackio, "wandb": read_wandb}
SECRETS = {"HF_TOKEN": "hf_canaryQmFzZTY0aXNub3RhaGFzaA", "WANDB_API_KEY": "canary0123456789abcdef0123456789abcdef01"}
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_BASE_URL": "http://127.0.0.1:9",  # a closed port
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
KEYS = [
    "train/loss",
    "train/ce_loss",
    "train/objective/orthogonality",
    "train/weight/orthogonality",
    "train/reg_to_ce_ratio",
    "eval/loss",
    "eval/perplexity",
    *(f"eval/{metric}/layer_{layer}" for metric in ("sparsity", "polysemanticity") for layer in (0, 1)),
]


def run_of(path: Path):
    return expand_sweep(load_recipe(path, ()))[0]


@pytest.fixture(scope="module", params=sorted(READERS))
def tracker(request) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture(scope="module")
def run_dir(tracker, tmp_path_factory) -> Path:
    """The folder of a run that was interrupted at step 4 and resumed, and evaluated last after its training."""
    folder = tmp_path_factory.mktemp(tracker)
    recipe = run_of(write_recipe(folder, tracking={"tracker": tracker}, training={"eval_steps": 4}))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**OFFLINE, **SECRETS, "HF_TTI_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        forget_trackio(patch)
        with pytest.MonkeyPatch.context() as crash, pytest.raises(KeyboardInterrupt):
            crash_at(crash, step=4)
            train_run(recipe, folder / "run")
        train_run(recipe, folder / "run", resume=True)
        if tracker == "wandb":
            sys.modules["wandb"].teardown()
    return folder / "run"


def forget_trackio(patch: pytest.MonkeyPatch) -> None:
    """As in a new process: trackio reads TRACKIO_DIR once, when it is imported."""
    patch.delenv("TRACKIO_DIR", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        patch.delitem(sys.modules, name)


def crash_at(patch: pytest.MonkeyPatch, step: int) -> None:
    stock = InterpTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return stock(self, *args, **kwargs)

    patch.setattr(InterpTrainer, "training_step", training_step)


@pytest.fixture(scope="module")
def recorded(tracker, run_dir) -> Recorded:
    return READERS[tracker](run_dir)


def test_no_tracker_reports_nowhere(tmp_path):
    with tracked(TrackingSection(), run_dir=tmp_path, **RUN) as callbacks:
        assert callbacks == []
    assert not list(tmp_path.iterdir())


def test_tensorboard_writes_into_the_run_folder(tmp_path):
    before = dict(os.environ)
    section = TrackingSection(tracker="tensorboard")
    with tracked(section, run_dir=tmp_path, **RUN) as callbacks:
        assert len(callbacks) == 1
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    assert dict(os.environ) == before


@pytest.mark.parametrize("tracker", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_one_line(tracker, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    section = TrackingSection(tracker=tracker)
    with pytest.raises(UserError, match=f"{tracker}.*pip install {tracker}"):
        with tracked(section, run_dir=tmp_path, **RUN):
            pass


def test_run_ids_belong_to_a_recipe_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = {tracker_run_id(digest, Path(folder)) for digest in "ab" for folder in ("runs/x", "runs/y")}
    assert len(ids) == 4
    assert tracker_run_id("a", Path("runs/x")) == tracker_run_id("a", tmp_path / "runs" / "x")


@pytest.mark.parametrize("key", KEYS)
def test_every_curve_is_recorded(recorded, key):
    steps = (4, 6) if key.startswith("eval/") else (1, 2, 3, 4, 5, 6)
    assert tuple(sorted(recorded.curves[key])) == steps


def test_curves_are_those_of_the_log_file(recorded, run_dir):
    for line in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines()):
        for key in ("ce_loss", "objective/orthogonality", "eval_loss", "eval_sparsity/layer_1"):
            if key in line:
                name = f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}"
                assert recorded.curves[name][line["step"]] == pytest.approx(line[key], rel=1e-5)


def test_a_resumed_run_is_one_run_in_its_project_and_group(recorded, tracker, run_dir):
    if tracker == "tensorboard":
        assert not recorded.runs  # it knows no runs beside the folder
        return
    ((run_id, *rest),) = recorded.runs
    assert rest == ["tiny-seed7", "training-time-interpretability", "tiny_runs"]
    if tracker == "wandb":
        assert run_id == json.loads((run_dir / "run.json").read_text())["tracker_run_id"]


def test_the_recipe_is_in_the_configuration_without_local_folders(tracker, run_dir):
    if tracker != "trackio":
        pytest.skip("W&B's is asked of its server, in tests/tracking; TensorBoard has none")
    (path,) = (run_dir / "trackio").glob("*.db")
    with closing(sqlite3.connect(path)) as store:
        config = json.loads(store.execute("SELECT config FROM configs").fetchone()[0])
    assert config["recipe"]["objectives"] == {"orthogonality": {"sites": ["mlp.out"], "weight": 0.1}}
    assert config["recipe"]["data"]["train"] == "stories.jsonl"


def test_a_run_of_two_sessions_was_recorded_by_both(tracker, run_dir):
    pattern = {
        "wandb": "wandb/offline-run-*/*.wandb",
        "tensorboard": "tensorboard/events.*",
        "trackio": "trackio/*.db",
    }[tracker]
    assert len(list(run_dir.glob(pattern))) == (1 if tracker == "trackio" else 2)


def files_with_a_secret(run_dir: Path) -> list[Path]:
    return files_with(run_dir, [secret.encode() for secret in SECRETS.values()])


def test_no_secret_of_the_environment_is_written(run_dir, tracker):
    assert any(path.is_file() for path in (run_dir / tracker).rglob("*"))
    assert not files_with_a_secret(run_dir)


def test_a_second_folder_in_one_process_is_told_where_trackio_writes(tmp_path, monkeypatch, capsys):
    pytest.importorskip("trackio")
    forget_trackio(monkeypatch)
    for name in ("first", "second"):
        with tracked(TrackingSection(tracker="trackio"), run_dir=tmp_path / name, **RUN):
            assert os.environ["TRACKIO_DIR"] == str(tmp_path / name / "trackio")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "already writes" in line]
    assert f"{tmp_path}/first/trackio" in line


def test_trackio_connects_nowhere(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    forget_trackio(monkeypatch)
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    addresses, stock = [], socket.socket.connect

    def connect(self, address):
        addresses.append(address)
        return stock(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *arguments, **options: addresses.append(host) or [])
    with tracked(TrackingSection(tracker="trackio"), run_dir=tmp_path, **RUN) as (callback,):
        event = (arguments(tmp_path, project="tiny", run_name="a"), TrainerState(), TrainerControl())
        event[1].is_world_process_zero = True
        callback.on_train_begin(*event, model=tiny_model())
        callback.on_log(*event, logs={"loss": 1.0})
        callback.on_train_end(*event)
    assert list((tmp_path / "trackio").glob("tiny*.db")) and not addresses


def test_a_run_whose_wandb_server_is_down_is_recorded_offline(tmp_path, monkeypatch, capsys):
    import wandb

    for name, value in {**OFFLINE, **SECRETS, "HF_TTI_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("hf_tti.tracking.wandb_run.INIT_S", 1)
    recipe = run_of(write_recipe(tmp_path, tracking={"tracker": "wandb"}))
    try:
        assert train_run(recipe, tmp_path / "run").num_steps == 6
    finally:
        wandb.teardown()
    said = capsys.readouterr().err
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert "W&B cannot be reached" in said
    assert f"to upload it: wandb sync {folder}\n" in said
    assert sorted(read_wandb(tmp_path / "run").curves["eval/loss"]) == [2, 4, 6]
    assert not files_with_a_secret(tmp_path / "run")
