"""Laws of reading runs from the Hub: a revision is a commit, the cache answers without a network, and nothing that a
repository holds is run, unpickled, read beyond its bound or taken as a path.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from fakes.hub import fake_hub, status
from fakes.hub_client import go_offline, point_client_at
from hf_tti import published
from hf_tti.cli import main
from hf_tti.errors import UserError
from hf_tti.evaluate import evaluate_checkpoint
from hf_tti.hub.card import card_files
from hf_tti.hub.files import model_files
from hf_tti.loading import find_checkpoint
from hf_tti.published import NotOnHub, hub_name, open_repo, published_recipe, published_report
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.report import Report
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from tiny_runs import write_recipe

REPO = "me/tiny-seed7"
DATA = {
    "name": "synthetic_stories",
    "vocab_size": 280,
    "block_size": 32,
    "max_tokens": 6000,
    "max_validation_tokens": 900,
}
REPORT = "report/report.json"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    training = {"max_steps": 4, "save_steps": 2, "eval_steps": 2}
    path = write_recipe(folder, data=DATA, training=training, metrics={"l0": {}})
    train_run(expand_sweep(load_recipe(path))[0], folder / "tiny-seed7")
    evaluate_checkpoint(folder / "tiny-seed7", metrics=["l0"], nulls=[]).save(folder / "tiny-seed7" / "report")
    return folder / "tiny-seed7"


@pytest.fixture(scope="module")
def branches(trained) -> dict[str, dict[str, bytes]]:
    """What a push of the run leaves on the Hub: `main` and `step2`."""
    run, found = RunFolder(trained), {}
    for revision, folder in (("main", run.final), ("step2", run.path / "checkpoint-2")):
        files = {**model_files(folder), **card_files(run, REPO, revision=revision)}
        found[revision] = {path: c if isinstance(c, bytes) else c.read_bytes() for path, c in files.items()}
    return found


@pytest.fixture
def hub(monkeypatch, tmp_path, branches):
    with fake_hub() as hub:
        point_client_at(hub, monkeypatch, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        repo = hub.store.create(REPO)
        for revision, files in branches.items():
            repo.add(revision, "push", files)
        yield hub


def put(hub, path: str, content: bytes, *, branch: str = "main") -> None:
    """Somebody else's commit."""
    repo = hub.repos[REPO]
    repo.add(branch, "theirs", {**repo.branches[branch], path: content})


def one_line(capsys, *argv: str) -> str:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# ---- Which commit ----


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("me/tiny", ("me/tiny", None)),
        ("me/tiny@step2", ("me/tiny", "step2")),
        ("me/tiny@refs/pr/1", ("me/tiny", "refs/pr/1")),
        ("tiny", None),
        ("runs/x/tiny", None),
        ("../tiny", None),
        ("me/..", None),
        ("/me/tiny", None),
        ("me/tiny@", None),
        ("me/tiny@../x", None),
        ("me/tiny@-x", None),
    ],
)
def test_names_of_the_hub_are_owner_and_name(given, found):
    assert hub_name(given) == found


def test_a_revision_is_pinned_to_the_commit_that_it_was(hub):
    repo = open_repo(REPO, "step2", first="config.json")
    assert repo.commit == hub.repos[REPO].heads["step2"]
    put(hub, "recipe.yaml", b"changed: since", branch="step2")
    assert b"changed" not in repo.fetch("recipe.yaml").read_bytes()


def test_a_revision_that_is_not_there_names_those_that_are(hub, capsys):
    line = one_line(capsys, "evaluate", REPO, "--revision", "step3")
    assert line == f"{REPO}: has no revision step3 (did you mean 'step2'?); it has main, step2"


def test_a_repository_that_is_not_there_is_one_line(hub, capsys):
    line = one_line(capsys, "evaluate", "me/tyni")
    assert line.startswith("me/tyni: no such folder, and not on the Hub either: no such repository on the Hub")


def test_without_a_network_the_cache_answers_and_nothing_else(hub, monkeypatch):
    online = open_repo(REPO, "step2", first="config.json")
    online.fetch("recipe.yaml")
    go_offline(monkeypatch)
    offline = open_repo(REPO, "step2", first="config.json")
    assert (offline.commit, offline.is_cached) == (online.commit, True)
    assert offline.fetch("recipe.yaml") == online.fetch("recipe.yaml")
    assert offline.fetch(REPORT) is None
    with pytest.raises(NotOnHub, match="not in the cache at main, and the Hub gives no answer"):
        open_repo(REPO, "main", first="config.json")


def test_a_hub_that_is_down_is_as_no_network(hub):
    commit = open_repo(REPO, first="config.json").commit
    hub.decide = lambda request: status(503)
    again = open_repo(REPO, first="config.json")
    assert (again.commit, again.is_cached) == (commit, True)


# ---- Evaluating ----


def test_a_checkpoint_of_the_hub_measures_as_the_local_one_on_the_runs_own_data(hub, trained, monkeypatch):
    theirs = evaluate_checkpoint(REPO, revision="step2", metrics=["l0"], nulls=[])
    ours = evaluate_checkpoint(trained / "checkpoint-2", metrics=["l0"], nulls=[])
    assert theirs.metrics == ours.metrics and theirs.loss_shards == ours.loss_shards
    assert (theirs.data.fingerprint, theirs.model.weights_sha256) == (
        ours.data.fingerprint,
        ours.model.weights_sha256,
    )
    assert (theirs.model.revision, theirs.model.commit, theirs.step) == ("step2", hub.repos[REPO].heads["step2"], 2)
    assert not hub.unknown
    go_offline(monkeypatch)
    assert evaluate_checkpoint(REPO, revision="step2", metrics=["l0"], nulls=[]).metrics == ours.metrics


def test_the_command_writes_a_report_named_after_the_revision(hub, capsys):
    assert main(["evaluate", REPO, "--revision", "step2", "--metrics", "l0", "--nulls", "none"]) == 0
    assert "report in reports/me-tiny-seed7-step2" in capsys.readouterr().out
    assert Report.load("reports/me-tiny-seed7-step2").seed == 7


def test_the_command_works_in_a_process_of_its_own(hub, tmp_path):
    environment = {**os.environ, **hub.environment, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "hf_tti",
        "evaluate",
        REPO,
        "--revision",
        "step2",
        "--metrics",
        "l0",
        "--nulls",
        "none",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report in reports/me-tiny-seed7-step2" in done.stdout and not hub.unknown


def test_files_of_another_machine_are_asked_for(hub, capsys):
    recipe = yaml.safe_load(hub.repos[REPO].branches["main"]["recipe.yaml"])
    recipe["data"] = {"name": "text_files", "train": "/etc/passwd", "vocab_size": 280, "block_size": 32}
    put(hub, "recipe.yaml", yaml.safe_dump(recipe).encode())
    line = one_line(capsys, "evaluate", REPO)
    assert "its data are files of another machine (train /etc/passwd); name what to measure it on with --data" in line
    assert "/etc/passwd" not in json.dumps(find_checkpoint(REPO).recipe.to_dict())


def test_a_recipe_decides_nothing_of_what_is_imported(hub, tmp_path, monkeypatch, capsys):
    (tmp_path / "canary.py").write_text("open('canary.txt', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = yaml.safe_load(hub.repos[REPO].branches["main"]["recipe.yaml"])
    recipe["metrics"] = {"mine": {"metric": "canary:Metric"}, "l0": {}}
    recipe["studies"] = {"yours": {"study": "canary:Study"}}
    put(hub, "recipe.yaml", yaml.safe_dump(recipe).encode())
    place = find_checkpoint(REPO)
    evaluate_checkpoint(place, metrics=["l0"], nulls=[])
    assert (list(place.recipe.metrics), place.recipe.studies) == (["l0"], {})
    assert "left out of its metrics, not built in: mine" in capsys.readouterr().err
    recipe["data"] = {"name": "canary:Stories", "block_size": 32}
    put(hub, "recipe.yaml", yaml.safe_dump(recipe).encode())
    with pytest.raises(UserError, match="its data are canary:Stories, which is not built in"):
        evaluate_checkpoint(find_checkpoint(REPO))
    assert not (tmp_path / "canary.txt").exists()


def test_somebody_elses_recipe_yaml_is_left_alone(hub, capsys):
    put(hub, "recipe.yaml", b"ingredients: [flour, water]\n")
    assert find_checkpoint(REPO).recipe is None
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "recipe.yaml is no recipe of this hf_tti, left alone" in line


# ---- Reports ----


def test_a_report_comes_back_as_it_was_with_its_log(hub, trained):
    repo = open_repo(REPO, first=REPORT)
    report, ours = published_report(repo), Report.load(trained)
    assert report.metrics == ours.metrics and set(report.arrays) == set(ours.arrays)
    assert (repo.fetch("metrics.jsonl")).read_bytes() == (trained / "metrics.jsonl").read_bytes()


def test_arrays_that_are_not_wanted_are_not_fetched(hub):
    assert published_report(open_repo(REPO, first=REPORT), arrays=False).arrays == {}
    assert not [request.path for request in hub.requests if "arrays" in request.path and request.method == "GET"]


def test_what_is_too_large_is_not_fetched(hub, monkeypatch):
    monkeypatch.setitem(published.MAX_BYTES, REPORT, 100)
    with pytest.raises(UserError, match=r"report/report.json is [\d,]+ bytes; at most 100 are fetched"):
        open_repo(REPO, first=REPORT)
    assert not [request for request in hub.requests if REPORT in request.path and request.method == "GET"]


HOSTILE = {
    "not JSON": b"{",
    "deep": b"[" * 100_000,
    "a number of 5000 digits": b'{"format_version": ' + b"1" * 5000 + b"}",
    "a list": b"[]",
    "a pickle": b"\x80\x04\x95",
}
WRONG = {
    "name": ("../../x", "no name of a run"),
    "step": ("later", "step: 'later' is not what a report has there"),
    "seed": (True, "seed"),
    "recipe": ({"training": "long"}, "the recipe in its report is none"),
    "metrics": ({"loss": 10**30}, "metrics"),
    "nulls": ({"rotated": [1]}, "nulls.rotated"),
    "loss_shards": ({"loss_sums": [1.0], "num_tokens": [1, 2]}, "loss_shards"),
    "metric_facts": ({"l0": {"greater_is_better": [], "summary": ""}}, "greater_is_better"),
    "metric_settings": ({"l0": {"metric": "l0", "sites": 3}}, "sites"),
    "evaluation": (None, "evaluation"),
    "versions": ({"torch": {}}, "versions"),
    "data": ({"name": "x"}, "data"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_report_is_one_line(hub, content):
    put(hub, REPORT, content)
    with pytest.raises(UserError) as error:
        published_report(open_repo(REPO, first=REPORT))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", WRONG)
def test_a_report_of_another_form_is_one_line_that_names_the_place(hub, field):
    value, words = WRONG[field]
    report = json.loads(hub.repos[REPO].branches["main"][REPORT])
    put(hub, REPORT, json.dumps({**report, field: value}).encode())
    with pytest.raises(UserError, match=words) as error:
        published_report(open_repo(REPO, first=REPORT), arrays=False)
    assert "\n" not in str(error.value)


def test_arrays_of_another_report_are_refused(hub):
    report = json.loads(hub.repos[REPO].branches["main"][REPORT])
    put(hub, REPORT, json.dumps({**report, "step": 5}).encode())
    with pytest.raises(UserError, match="of another evaluation"):
        published_report(open_repo(REPO, first=REPORT))


def test_a_pickle_of_weights_is_not_opened(hub, tmp_path):
    """`pytorch_model.bin` in place of model.safetensors."""

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "canary.txt",)

    files = hub.repos[REPO].branches["main"]
    torch.save({"x": Bomb()}, tmp_path / "bomb.bin")
    del files["model.safetensors"]
    hub.repos[REPO].add("main", "theirs", {**files, "pytorch_model.bin": (tmp_path / "bomb.bin").read_bytes()})
    with pytest.raises(UserError):
        evaluate_checkpoint(REPO, metrics=["l0"], nulls=[])
    assert not (tmp_path / "canary.txt").exists()


def test_recipes_of_the_hub_leave_their_owners_places_behind(hub):
    recipe, problem = published_recipe(open_repo(REPO, first="config.json"))
    assert (recipe.hub, recipe.tracking, problem) == ({}, {}, "")
    assert dataclasses.asdict(recipe)["training"]["max_steps"] == 4
