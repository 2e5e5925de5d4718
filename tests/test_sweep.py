"""Laws of a sweep: every run once, finished ones skipped, a failed one stops no other, the table
has what finished.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_tti import cli
from hf_tti.errors import UserError
from hf_tti.run_folder import write_json
from hf_tti.sweep import LOG_FILE, PlannedRun, Sweep, last_line, plan
from tiny_runs import write_recipe

_TRAINER = """
import json, pathlib, sys
folder, digest, step = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
print("starting")
if step == "fail":
    sys.exit("training.learning_rate: this run is told to fail")
(folder / "run.json").write_text(json.dumps({"name": folder.name, "digest": digest}))
metrics = {"eval_loss": 1.0, "eval_perplexity": float(len(folder.name)), "eval_sparsity/mean": 0.25}
(folder / "result.json").write_text(json.dumps({"metrics": metrics}))
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    grid = {"objectives.orthogonality.weight": [0, 0.1]}
    return write_recipe(tmp_path, sweep={"seeds": [1, 2], "grid": grid})


@pytest.fixture
def quick(monkeypatch):
    """Runs that write a result at once; those named in the returned set fail."""
    failing: set[str] = set()

    def command(run: PlannedRun) -> list[str]:
        how = "fail" if run.recipe.run_name in failing else "train"
        return [sys.executable, "-c", _TRAINER, str(run.folder.path), run.digest, how]

    monkeypatch.setattr(PlannedRun, "command", property(command))
    return failing


NAMES = ["tiny-weight0-seed1", "tiny-weight0-seed2", "tiny-weight0.1-seed1", "tiny-weight0.1-seed2"]


def test_plan_is_the_grid_times_the_seeds_in_folders_of_their_own(recipe, tmp_path):
    runs = plan([recipe], [], tmp_path / "runs")
    assert [run.recipe.run_name for run in runs] == NAMES
    assert [run.folder.path for run in runs] == [tmp_path / "runs" / "tiny_runs" / name for name in NAMES]


def test_plan_says_everything_that_is_wrong_before_anything_runs(recipe, tmp_path):
    write_recipe(tmp_path, "worse", training={"max_stepz": 1})
    write_recipe(tmp_path, "worst", training={"learning_rate": -1})
    with pytest.raises(UserError) as caught:
        plan([tmp_path], [], tmp_path / "runs")
    assert len(str(caught.value).splitlines()) == 2


def test_two_recipes_with_the_same_folder_are_refused(recipe, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(recipe, tmp_path / "other")
    shutil.copy(tmp_path / "stories.jsonl", tmp_path / "other")
    with pytest.raises(UserError, match="both have a run"):
        plan([recipe, tmp_path / "other"], [], tmp_path / "runs")


def test_dry_run_lists_and_makes_nothing(recipe, tmp_path, capsys):
    runs_dir = tmp_path / "runs"
    assert cli.main(["sweep", str(recipe), "--runs-dir", str(runs_dir), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{runs_dir / 'tiny_runs' / name}  new" for name in NAMES]
    assert not runs_dir.exists()


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_failed_run_stops_no_other_and_the_next_sweep_does_only_what_is_left(recipe, tmp_path, quick, capsys, jobs):
    quick.add(NAMES[1])
    command = ["sweep", str(recipe), "--runs-dir", str(tmp_path / "runs"), "--jobs", jobs]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    assert "3 of 4 runs finished" in said.out
    assert "told to fail" in said.out
    assert f"failed: {NAMES[1]}, see " in said.err
    table = [line.split() for line in said.out.splitlines() if line.startswith("tiny-weight")]
    assert [row[0] for row in table] == [name for name in NAMES if name != NAMES[1]]
    assert "perplexity" in said.out and "sparsity" in said.out

    quick.clear()
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert said.count("already finished") == 3
    assert "4 of 4 runs finished" in said
    logs = [tmp_path / "runs" / "tiny_runs" / name / LOG_FILE for name in NAMES]
    assert [log.read_text().count("starting") for log in logs] == [1, 2, 1, 1]


def test_a_run_is_finished_once_it_has_delivered_what_its_recipe_pushes(recipe, tmp_path, quick, capsys):
    """Its process is started again, whatever of it is missing, and no longer when nothing is."""
    pushing = ["--set", "hub.push=steps", "--set", "hub.repo=me/{run}"]
    command = ["sweep", str(recipe), "--runs-dir", str(tmp_path / "runs")]
    assert cli.main(command) == cli.main(command) == 0
    assert capsys.readouterr().out.count("already finished") == 4  # it pushes nothing

    for done, (event, branch) in enumerate([("promised", "step2"), ("promised", "main"), ("pushed", "main")]):
        for name in NAMES[: done + 1]:
            line = {"event": event, "branch": branch, "repo": f"me/{name}", "time": "2026-11-23T07:00:00+00:00"}
            with open(tmp_path / "runs" / "tiny_runs" / name / "pushes.jsonl", "a") as ledger:
                ledger.write(json.dumps(line) + "\n")
        assert cli.main([*command, *pushing]) == 0
        said = capsys.readouterr().out
        delivered = NAMES[1:3] if event == "pushed" else []
        assert [name for name in NAMES if f"{name}: already finished" in said] == delivered
        assert said.count("pushing what is left") == 4 - len(delivered)
        assert "4 of 4 runs finished" in said  # trained, all of them


_PLANNING = """
import pathlib, sys
from hf_tti.sweep import plan
(run,) = plan([pathlib.Path(sys.argv[1])], ["hub.push=final", "hub.repo=me/tiny"], pathlib.Path(sys.argv[2]))
assert not run.is_delivered and run.state == "new"
sys.exit(", ".join({"torch", "transformers", "huggingface_hub"} & set(sys.modules)) or None)
"""


def test_planning_loads_neither_torch_nor_the_hubs_client(tmp_path):
    command = [sys.executable, "-c", _PLANNING, str(write_recipe(tmp_path)), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_folder_with_another_recipe_fails_and_is_not_touched(recipe, tmp_path, quick, capsys):
    folder = tmp_path / "runs" / "tiny_runs" / NAMES[0]
    folder.mkdir(parents=True)
    write_json(folder / "run.json", {"name": "somebody", "digest": "0" * 64})
    write_json(folder / "result.json", {"metrics": {}})
    assert cli.main(["sweep", str(recipe), "--runs-dir", str(tmp_path / "runs")]) == 1
    assert "holds a run of another recipe (somebody" in capsys.readouterr().out
    assert sorted(entry.name for entry in folder.iterdir()) == ["result.json", "run.json"]


def test_parallel_runs_share_the_cores(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    runs = plan([recipe], [], tmp_path)
    assert Sweep(runs, jobs=3)._env()["OMP_NUM_THREADS"] == "2"


# What `accelerate launch` wrote of two processes of which one refused its recipe; shortened.
_LAUNCHER_LOG = """
training.max_steps: 0 trains nothing; leave it out to train num_train_epochs
W1123 07:26:51.375 8997 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 9073 SIGTERM
E1123 07:26:51.844 8997 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 2) local_rank: 0
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError: 
============================================================
hf_tti FAILED
  exitcode  : 2 (pid: 9071) 
============================================================
"""


def test_the_last_line_of_a_log_is_the_runs_own(tmp_path):
    log = tmp_path / LOG_FILE
    log.write_text("step 1\rstep 2\n\n")
    assert last_line(log) == "step 2"
    log.write_text(_LAUNCHER_LOG)
    assert last_line(log).startswith("training.max_steps: 0 trains nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_sweep_that_is_told_to_stop_stops_and_says_so(recipe, tmp_path, monkeypatch, capsys, number):
    before = signal.getsignal(number)
    monkeypatch.setattr(Sweep, "train", lambda self: signal.raise_signal(number))
    assert cli.main(["sweep", str(recipe), "--runs-dir", str(tmp_path / "runs")]) == 128 + number
    assert "the same command does the rest" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_an_interrupted_sweep_ends_its_processes(recipe, tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(PlannedRun, "command", property(lambda run: command))
    sweep = Sweep(plan([recipe], [], tmp_path / "runs"), jobs=2)
    started = []
    start = Sweep._start

    def recorded(self, number, run):
        started.append(start(self, number, run))
        return started[-1]

    def interrupt(self, running):
        if len(running) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "_start", recorded)
    monkeypatch.setattr(Sweep, "_show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sweep.train()
    assert len(started) == 2
    assert all(item.process.returncode is not None for item in started)


def test_a_real_sweep_trains_in_processes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = write_recipe(tmp_path, training={"max_steps": 2})
    assert cli.main(["sweep", str(recipe), "--runs-dir", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "runs" / "tiny_runs" / "tiny-seed7"
    assert (folder / "final" / "model.safetensors").is_file()
    assert "step 2/2" in (folder / LOG_FILE).read_text()
    assert "1 of 1 runs finished" in capsys.readouterr().out
