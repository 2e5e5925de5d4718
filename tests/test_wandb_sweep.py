"""Laws of sweeps for W&B's agents: they train the runs of `hf-tti sweep`, in the same folders, with the same commands;
a run that an agent began keeps the agent's id. Commands are expanded by the agent's own code; no network.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from fakes.wandb import fake_wandb
from fakes.wandb_answers import grid
from hf_tti import wandb_sweep
from hf_tti.cli import main
from hf_tti.errors import UserError
from hf_tti.sweep import plan
from hf_tti.wandb_sweep import sweep_definition
from test_tracking import SECRETS, crash_at
from tiny_runs import write_recipe

RUNS_DIR = Path("runs")
TRACKED = "tracking.tracker=wandb"


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Two recipes, three runs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    return [write_recipe(tmp_path, "a", sweep={"seeds": [1, 2]}), write_recipe(tmp_path, "b")]


def expanded(definition: str) -> list[list[str]]:
    """The commands that an agent starts, without the interpreter, as its own code makes them."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    content, found = yaml.safe_load(definition), []
    for point in grid(content["parameters"]):
        variables = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
        parts = []
        for part in utils.create_sweep_command(list(content["command"])):
            if part not in ("${env}", "${interpreter}"):
                parts += variables[part[2:-1]] if part.startswith("${") else [part]
        found.append(parts)
    return found


def become(arguments: list[str], monkeypatch) -> list[str]:
    """The command that the agent's process becomes."""

    class Became(Exception):
        pass

    def execv(program, command):
        raise Became(program, command)

    with monkeypatch.context() as patch, pytest.raises(Became) as became:
        patch.setattr(os, "execv", execv)
        wandb_sweep.main(arguments)
    program, command = became.value.args
    assert program == command[0] == sys.executable
    return command


def test_agents_run_the_commands_of_the_sweep(recipes, monkeypatch):
    overrides = ["training.learning_rate=0.02", "data.block_size=16"]
    commands = expanded(sweep_definition(recipes, overrides, RUNS_DIR))
    assert [command[:2] for command in commands] == [["-m", "hf_tti.wandb_sweep"]] * 3
    wanted = [run.command for run in plan(recipes, [*overrides, TRACKED], RUNS_DIR)]
    assert [become(command[2:], monkeypatch) for command in commands] == wanted


def test_the_folders_are_those_of_a_sweep_without_agents(recipes):
    names = yaml.safe_load(sweep_definition(recipes, [], RUNS_DIR))["parameters"]["run"]["values"]
    assert [RUNS_DIR / name for name in names] == [run.folder.path for run in plan(recipes, [], RUNS_DIR)]


def test_a_sweep_is_one_grid_in_the_recipes_project(recipes):
    definition = yaml.safe_load(sweep_definition(recipes, [], RUNS_DIR))
    assert (definition["method"], definition["project"], definition["name"]) == (
        "grid",
        "training-time-interpretability",
        "tiny_runs",
    )
    assert definition["metric"] == {"name": "eval/loss", "goal": "minimize"}
    assert set(definition) <= {"name", "project", "method", "metric", "parameters", "command"}


def test_finished_runs_are_left_out(recipes):
    runs = plan(recipes, [TRACKED], RUNS_DIR)
    for run in runs:
        run.folder.path.mkdir(parents=True)
        (run.folder.path / "run.json").write_text(json.dumps({"name": run.recipe.run_name, "digest": run.digest}))
        (run.folder.path / "result.json").write_text(json.dumps({"metrics": {}}))
        if run is runs[1]:
            names = yaml.safe_load(sweep_definition(recipes, [], RUNS_DIR))["parameters"]["run"]["values"]
            assert [RUNS_DIR / name for name in names] == [run.folder.path for run in runs[2:]]
    with pytest.raises(UserError, match="all 3 runs are finished"):
        sweep_definition(recipes, [], RUNS_DIR)


def test_no_secret_of_the_environment_is_in_a_definition(recipes):
    definition = sweep_definition(recipes, [], RUNS_DIR)
    assert not [secret for secret in SECRETS.values() if secret in definition]


def test_what_agents_would_read_otherwise_is_refused(recipes):
    with pytest.raises(UserError, match="in place of"):
        sweep_definition(recipes, ["experiment=${envvar:HF_TOKEN}"], RUNS_DIR)
    write_recipe(recipes[0].parent, "c", tracking={"project": "other"})
    with pytest.raises(UserError, match="a sweep has one: --set tracking.project=NAME"):
        sweep_definition([*recipes, Path("c.yaml")], [], RUNS_DIR)


def test_a_run_that_is_no_part_of_the_sweep_is_one_line(recipes, capsys):
    assert wandb_sweep.main([*map(str, recipes), "--run", "tiny_runs/a-seed3"]) == 2
    assert "(did you mean 'tiny_runs/a-seed2'?)" in capsys.readouterr().err


def test_a_run_that_an_agent_began_keeps_its_id_when_it_is_resumed(recipes, monkeypatch):
    wandb = pytest.importorskip("wandb")
    command = become(expanded(sweep_definition(recipes, [], RUNS_DIR))[0][2:], monkeypatch)
    with fake_wandb() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as agent:
            agent.setenv("WANDB_SWEEP_ID", "sweep0")
            agent.setenv("WANDB_RUN_ID", "agent000")
            crash_at(agent, step=4)
            assert main(command[3:]) == 130
            wandb.teardown()
        assert main(["resume", command[-2]]) == 0
        wandb.teardown()
    (run,) = server.runs.values()
    assert (run.name, run.last("sweep"), run.is_complete) == ("agent000", "sweep0", True)
    assert {row["train/global_step"] for row in run.history} == {1, 2, 3, 4, 5, 6}
    assert json.loads(Path(command[-2], "run.json").read_text())["tracker_run_id"] == "agent000"
