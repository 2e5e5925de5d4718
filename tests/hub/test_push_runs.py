"""Laws of pushing the runs of a sweep: a repository each, one collection; one that fails keeps none of the others."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from fakes.hub import fake_hub, status
from fakes.hub_client import point_client_at
from hf_tti.cli import main
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RESULT_FILE, RunFolder
from tiny_runs import write_recipe

NAMES = ("tiny-seed1", "tiny-seed2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    training = {"max_steps": 2, "save_strategy": "no", "eval_strategy": "no"}
    path = write_recipe(folder, training=training, objectives={}, sweep={"seeds": [1, 2]})
    for run in expand_sweep(load_recipe(path)):
        train_run(run, folder / "runs" / run.run_name)
    return folder / "runs"


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [])
    return [f"runs/{name}" for name in NAMES]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path / "cache")
        yield hub


def push(runs, *options: str) -> int:
    return main(["push", *runs, "--repo", "me/{run}", *options])


def test_each_run_has_a_repository_and_all_are_in_the_collection(hub, runs, capsys):
    assert push(runs, "--collection", "A sweep") == 0
    assert sorted(hub.repos) == [f"me/{name}" for name in NAMES]
    for name in NAMES:
        card = hub.repos[f"me/{name}"].branches["main"]["README.md"].decode()
        assert f"# {name}\n" in card and f'"me/{name}"' in card
    ((slug, collection),) = hub.store.collections.items()
    assert [item["id"] for item in collection["items"]] == [f"me/{name}" for name in NAMES]
    assert collection["private"] and capsys.readouterr().out.endswith(f"/collections/{slug}\n")
    commits = {name: len(repo.commits) for name, repo in hub.repos.items()}
    assert push(runs, "--collection", "A sweep") == 0
    assert {name: len(repo.commits) for name, repo in hub.repos.items()} == commits
    assert len(hub.store.collections) == 1 and not hub.unknown


def test_one_that_fails_keeps_none_of_the_others(hub, runs, capsys):
    hub.decide = lambda request: status(403) if "tiny-seed1/commit" in request.path else None
    assert push(runs, "--collection", "A sweep") == 4
    assert "model.safetensors" in hub.repos["me/tiny-seed2"].branches["main"]
    (collection,) = hub.store.collections.values()
    assert [item["id"] for item in collection["items"]] == ["me/tiny-seed2"]
    assert "hf-tti push runs/tiny-seed1 --repo me/tiny-seed1" in capsys.readouterr().err
    hub.heal()
    assert push(runs, "--collection", "A sweep") == 0
    assert len(collection["items"]) == 2


def test_one_that_is_busy_or_has_nothing_keeps_none_of_the_others(hub, runs, capsys):
    with RunFolder(Path(runs[0])).lock():
        assert push(runs, "--collection", "A sweep") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "another process is training in this folder" in lines[0]
    assert lines[-1] == "1 of 2 runs are not all on the Hub"
    (collection,) = hub.store.collections.values()
    assert [item["id"] for item in collection["items"]] == ["me/tiny-seed2"]


def test_a_mistake_after_a_failed_push_does_not_hide_it(hub, runs, capsys):
    hub.decide = lambda request: status(403) if "tiny-seed1/commit" in request.path else None
    (Path(runs[1]) / RESULT_FILE).unlink()
    assert push(runs) == 4
    lines = capsys.readouterr().err.splitlines()
    assert any("not on the Hub in me/tiny-seed1: main" in line for line in lines)
    assert any(line.startswith(f"{runs[1]}: is not finished") for line in lines)
    assert lines[-1] == "2 of 2 runs are not all on the Hub"


def test_two_runs_do_not_share_a_repository(hub, runs, capsys):
    assert main(["push", *runs, "--repo", "me/tiny"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("write {run} in it, as in --repo owner/{run}")
    assert not hub.repos


def test_a_folder_without_a_reports_pictures_is_a_mistake(hub, runs, capsys):
    assert push(runs, "--report", "runs") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("--report runs: holds no figures/frontier-*.png") and not hub.requests


def test_a_dry_run_lists_every_run_and_asks_nobody(hub, runs, capsys):
    assert push(runs, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" main: ")[0] for line in lines] == [f"me/{name}" for name in NAMES]
    assert all("recipe.yaml" in line for line in lines) and not hub.requests
