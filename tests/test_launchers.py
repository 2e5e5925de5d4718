"""Laws of the launchers: the same run folders however a run is started, nothing started that cannot go on, and a job
whose time is up saves, is queued again and finishes.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fakes import slurm
from hf_tti import cli, launchers
from hf_tti.errors import UserError
from hf_tti.launchers import minutes, slurm_parameters
from hf_tti.sweep import LOG_FILE, PlannedRun, plan
from tiny_runs import write_recipe

# A run as its process behaves: finished where its result is there; told to stop, it saves and ends with 128 + SIGUSR1.
_RUN = """
import json, pathlib, signal, sys, time
folder, digest, how = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def stop(number, frame):
    (folder / "saved").write_text(signal.Signals(number).name)
    print("stopped by", signal.Signals(number).name)
    sys.exit(128 + number)
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, stop)
(folder / "run.json").write_text(json.dumps({"name": folder.name, "digest": digest}))
print("starting")
if how == "fail":
    sys.exit("training.learning_rate: this run is told to fail")
sys.stdout.flush()
if how == "long" and not (folder / "saved").exists():
    (folder / "training").touch()
    time.sleep(600)
(folder / "result.json").write_text(json.dumps({"metrics": {"eval_perplexity": 2.0}}))
"""
NAMES = ["tiny-seed1", "tiny-seed2"]
LOCAL_JOBS = ("--launcher", "submitit", "--cluster", "local")


@pytest.fixture
def recipe(tmp_path) -> Path:
    return write_recipe(tmp_path, sweep={"seeds": [1, 2]})


@pytest.fixture
def how(monkeypatch) -> dict[str, str]:
    """Stand-ins for runs; what each does, by name: `train` (default), `fail`, `long`."""
    chosen: dict[str, str] = {}

    def command(run: PlannedRun) -> list[str]:
        name = run.recipe.run_name
        return [sys.executable, "-c", _RUN, str(run.folder.path.absolute()), run.digest, chosen.get(name, "train")]

    monkeypatch.setattr(PlannedRun, "command", property(command))
    return chosen


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "slurm"
    monkeypatch.setenv("PATH", f"{slurm.install(folder)}{os.pathsep}{os.environ['PATH']}")
    return folder


def sweep(recipe: Path, *options: str) -> int:
    return cli.main(["sweep", str(recipe), "--runs-dir", str(recipe.parent / "runs"), *options])


def folder_of(recipe: Path, name: str) -> Path:
    return recipe.parent / "runs" / "tiny_runs" / name


def wait_for(path: Path, patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not path.exists():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.02)


# ---- Commands ----


def test_dry_run_with_a_launcher_is_a_shell_script_that_trains_the_same_runs(recipe, capsys, how):
    assert sweep(recipe, "--dry-run", "--launcher", "local") == 0
    script = capsys.readouterr().out
    assert not (recipe.parent / "runs").exists()
    for name in NAMES:
        folder_of(recipe, name).mkdir(parents=True)
    subprocess.run(["sh", "-e"], input=script, text=True, check=True, stdout=subprocess.DEVNULL)
    assert all((folder_of(recipe, name) / "result.json").is_file() for name in NAMES)
    assert sweep(recipe, "--dry-run", "--launcher", "local") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"# {folder_of(recipe, name)}  finished" for name in NAMES]


def test_print_commands_gives_one_line_for_each_unfinished_run(recipe, capsys):
    write_done(recipe, NAMES[0])
    assert sweep(recipe, "--print-commands", "--set", "question='two words'") == 0
    (line,) = capsys.readouterr().out.splitlines()
    words = shlex.split(line)
    assert words[1:4] == ["-m", "hf_tti", "train"] and words[-1] == "--resume"
    assert words[words.index("--run") + 1] == NAMES[1] and "question='two words'" in words


def write_done(recipe: Path, name: str) -> None:
    (run,) = [run for run in plan([recipe], [], recipe.parent / "runs") if run.recipe.run_name == name]
    run.folder.path.mkdir(parents=True)
    (run.folder.path / "run.json").write_text(json.dumps({"name": name, "digest": run.digest}))
    (run.folder.path / "result.json").write_text(json.dumps({"metrics": {"eval_perplexity": 2.0}}))


@pytest.mark.parametrize("flags", [["--num-processes", "2"], ["--num-processes", "2", "--accelerate-config", "FILE"]])
def test_several_processes_are_asked_for_in_the_command_of_the_run(recipe, tmp_path, capsys, flags):
    config = tmp_path / "accelerate.yaml"
    config.write_text("num_machines: 1\n")
    flags = [flag.replace("FILE", str(config)) for flag in flags]
    assert sweep(recipe, "--print-commands") == 0
    alone = capsys.readouterr().out.splitlines()
    assert sweep(recipe, "--print-commands", "--launcher", "accelerate", *flags) == 0
    assert capsys.readouterr().out.splitlines() == [f"{line} {shlex.join(flags)}" for line in alone]


@pytest.mark.parametrize("is_written", [False, True])
def test_accelerate_without_more_is_as_accelerate_is_configured(recipe, tmp_path, capsys, monkeypatch, is_written):
    config = tmp_path / "default_config.yaml"
    if is_written:
        config.write_text("num_machines: 1\n")
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(config))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert sweep(recipe, "--print-commands", "--launcher", "accelerate") == 0
    flags = f"--accelerate-config {config}" if is_written else "--num-processes 3"
    assert all(line.endswith(f"--resume {flags}") for line in capsys.readouterr().out.splitlines())


def test_wandb_prints_the_definition_and_starts_nothing(recipe, capsys):
    assert sweep(recipe, "--wandb", "--set", "training.max_steps=3") == 0
    definition = yaml.safe_load(capsys.readouterr().out)
    assert definition["parameters"] and "training.max_steps=3" in " ".join(map(str, definition["command"]))
    assert not (recipe.parent / "runs").exists()


# ---- What cannot be started ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--launcher", "submitit", "--slurm", "time=60"], "no sbatch and no srun here"),
        (["--launcher", "submitit", "--cluster", "local", "--slurm", "partitoin=gpu"], "did you mean 'partition'?"),
        (["--launcher", "submitit", "--cluster", "local", "--slurm", "gpu"], "expected KEY=VALUE"),
        (["--launcher", "submitit", "--cluster", "local", "--slurm", "time=soon"], "expected minutes, HH:MM:SS"),
        (["--launcher", "submitit", "--jobs", "2"], "--jobs: nothing to --launcher submitit"),
        ([*LOCAL_JOBS, "--slurm", "gpus=a100:2"], "gpus=a100:2: expected a whole number, and --slurm gres=gpu:"),
        ([*LOCAL_JOBS, "--slurm", "cpus_per_task=two"], "cpus_per_task=two: expected a whole number"),
        ([*LOCAL_JOBS, "--slurm", "mem_gb=much"], "mem_gb=much: expected GB"),
        (["--launcher", "submitit", "--dry-run", "--slurm", "nonsense=1"], "--slurm nonsense: unknown"),
        (["--launcher", "accelerate", "--num-processes", "4", "--wandb"], "--launcher accelerate: nothing to --wandb"),
        (["--jobs", "3", "--wandb"], "--jobs: nothing to --wandb"),
        (["--slurm", "time=60"], "--slurm: nothing to --launcher local"),
        (["--num-processes", "2"], "--num-processes: nothing to --launcher local"),
        (["--launcher", "accelerate", "--accelerate-config", "gone.yaml"], "gone.yaml: No such file"),
    ],
)
def test_what_cannot_be_started_is_one_line_and_nothing_is(recipe, capsys, monkeypatch, options, said):
    monkeypatch.setenv("PATH", str(recipe.parent))
    assert sweep(recipe, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (recipe.parent / "runs").exists()


def test_memory_is_in_gb_and_may_be_a_fraction():
    assert slurm_parameters(["mem_gb=16.5"], "local")["mem_gb"] == 16.5


def test_what_submitit_refuses_is_one_line_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="gpus_per_node"):
        launchers.submit({}, tmp_path / "jobs", cluster="local", parameters={"gpus_per_node": "two"})
    assert not (tmp_path / "jobs").exists()


@pytest.mark.parametrize("options", [["--print-commands"], ["--dry-run", "--launcher", "local"], ["--wandb"]])
def test_a_folder_with_another_recipes_run_is_complained_of(recipe, capsys, options):
    write_done(recipe, NAMES[0])
    assert sweep(recipe, *options, "--set", "training.max_steps=3") == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert f"{folder_of(recipe, NAMES[0])} holds a run of another recipe" in line
    assert NAMES[0] not in said.out and (NAMES[1] in said.out) == (options != ["--wandb"])


def test_without_submitit_one_line_says_what_to_install(recipe, capsys, monkeypatch):
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda name: None)
    assert sweep(recipe, "--launcher", "submitit", "--cluster", "local") == 2
    assert 'pip install "hf-tti[submitit]"' in capsys.readouterr().err


def test_slurm_needs_a_time_limit(cluster):
    with pytest.raises(UserError, match="time=LIMIT is missing"):
        slurm_parameters([], "slurm")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("30:00", 30), ("4:00:00", 240), ("0:00:01", 1), ("1-12", 2160), ("1-12:30", 2190), ("2-0:0:0", 2880)],
)
def test_times_are_read_as_sbatch_reads_them(text, expected):
    assert minutes(text) == expected


# ---- Processes ----


def test_two_processes_train_one_run_through_accelerate(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = write_recipe(tmp_path, training={"max_steps": 2, "eval_strategy": "no"})
    assert sweep(recipe, "--launcher", "accelerate", "--num-processes", "2") == 0
    result = json.loads((folder_of(recipe, "tiny-seed7") / "result.json").read_text())
    assert (result["world_size"], result["num_steps"]) == (2, 2)
    assert "1 of 1 runs finished" in capsys.readouterr().out
    assert sweep(recipe, "--launcher", "accelerate", "--num-processes", "2") == 0
    assert "already finished" in capsys.readouterr().out


def test_submitit_trains_in_the_same_folders_and_does_only_what_is_left(recipe, how, capsys):
    how[NAMES[1]] = "fail"
    options = ("--launcher", "submitit", "--cluster", "local", "--wait")
    assert sweep(recipe, *options) == 1
    said = capsys.readouterr()
    assert "0 finished, 0 already queued, 2 submitted" in said.out
    assert f"{NAMES[1]}: FAILED" in said.out and "told to fail" in said.out
    assert f"failed: {NAMES[1]}, see {folder_of(recipe, NAMES[1]) / LOG_FILE}" in said.err
    how.clear()
    assert sweep(recipe, *options) == 0
    said = capsys.readouterr().out
    assert "1 finished, 0 already queued, 1 submitted" in said and "2 of 2 runs finished" in said
    logs = [(folder_of(recipe, name) / LOG_FILE).read_text() for name in NAMES]
    assert [log.count("starting") for log in logs] == [1, 2]


def test_a_job_whose_run_fails_after_its_result_has_failed(recipe, how, capsys, monkeypatch):
    monkeypatch.setattr("test_launchers._RUN", f"{_RUN}\nif how == 'unpushed':\n    sys.exit(4)\n")
    how[NAMES[1]] = "unpushed"
    assert sweep(recipe, *LOCAL_JOBS, "--wait") == 1
    said = capsys.readouterr()
    assert f"{NAMES[0]}: finished" in said.out and f"{NAMES[1]}: FAILED with exit code 4, job" in said.out
    assert f"failed: {NAMES[1]}" in said.err


# ---- SLURM ----


def test_a_job_whose_time_is_up_saves_is_queued_again_and_finishes(recipe, how, cluster, capsys):
    how[NAMES[0]] = "long"
    asked = ["--slurm", "time=4:00:00", "--slurm", "partition=gpu", "--slurm", "gpus=2", "--slurm", "setup=true"]
    assert sweep(recipe, "--launcher", "submitit", *asked) == 0
    assert "2 submitted" in capsys.readouterr().out
    long, short = slurm.jobs(cluster)
    script = slurm.script(cluster, long).splitlines()
    expected = ("time=240", "partition=gpu", "gpus-per-node=2", f"job-name={folder_of(recipe, NAMES[0])}")
    assert {f"#SBATCH --{flag}" for flag in (*expected, "signal=USR1@90")} <= set(script) and "true" in script

    wait_for(folder_of(recipe, NAMES[0]) / "training")
    assert sweep(recipe, "--launcher", "submitit", *asked) == 0
    assert f"SLURM job {long} has it already" in capsys.readouterr().out
    subprocess.check_call(["scancel", long, "--signal", "USR1"])
    assert slurm.wait_for_state(cluster, long, "COMPLETED", "FAILED") == "COMPLETED"
    assert slurm.wait_for_state(cluster, short, "COMPLETED", "FAILED") == "COMPLETED"
    assert (folder_of(recipe, NAMES[0]) / "saved").read_text() == "SIGUSR1"
    assert (folder_of(recipe, NAMES[0]) / LOG_FILE).read_text().count("starting") == 2
    assert all((folder_of(recipe, name) / "result.json").is_file() for name in NAMES)


def test_a_terminated_job_lets_its_run_save_and_waits_for_slurm(recipe, how, cluster):
    how[NAMES[0]] = "long"
    assert sweep(recipe, "--launcher", "submitit", "--slurm", "time=60") == 0
    job = slurm.jobs(cluster)[0]
    wait_for(folder_of(recipe, NAMES[0]) / "training")
    subprocess.check_call(["scancel", job, "--signal", "TERM"])
    wait_for(folder_of(recipe, NAMES[0]) / "saved")
    assert (folder_of(recipe, NAMES[0]) / "saved").read_text() == "SIGTERM"
    assert slurm.state(cluster, job) == "RUNNING"  # SLURM takes back a job that still runs, not one that ended
    subprocess.check_call(["scancel", job, "--signal", "KILL"])
    assert slurm.wait_for_state(cluster, job, "COMPLETED", "FAILED") == "FAILED"
