"""Laws of what a run notes of itself: damage is named in one line, and what resuming would do is said as it is."""

import errno
import json
import shutil
from pathlib import Path

import pytest

from hf_tti import cli, run_folder
from hf_tti.callbacks.metrics_jsonl import truncate_metrics
from hf_tti.errors import UserError
from hf_tti.hub.ledger import Ledger
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder, resolve_paths
from tiny_runs import write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        yield expand_sweep(load_recipe(write_recipe(folder, callbacks={"generate_stories": {"num_stories": 1}})))[0]


@pytest.fixture(scope="module")
def finished(recipe) -> RunFolder:
    run = RunFolder(recipe.path.parent / "run")
    train_run(recipe, run.path)
    return run


@pytest.fixture
def run(finished, tmp_path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "run")))


@pytest.fixture
def unfinished(run) -> RunFolder:
    return interrupted(run)


def interrupted(run: RunFolder) -> RunFolder:
    """As a kill after step 4 leaves it."""
    for name in ("checkpoint-6", "final"):
        shutil.rmtree(run.path / name)
    (run.path / "result.json").unlink()
    return run


# ---- metrics.jsonl -----------------------------------------------------------------------------

LINES = [b'{"step": 1, "loss": 3.0}', b'{"step": 2, "loss": 2.0}', b'{"step": 3, "loss": 1.0}']
NO_LINES = {
    "not UTF-8": b'{"step": 1, "l\xefss": 3.0}',
    "another key": b'{"stfp": 1, "loss": 3.0}',
    "a number": b"12",
    "null": b"null",
    "no step": b'{"step": null}',
    "half a step": b'{"step": 1.5}',
    "a step of words": b'{"step": "1"}',
    "cut": b'{"step": 1, "lo',
    "too deep": b"[" * 100_000,
    "UTF-16": '{"step": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("damage", NO_LINES)
def test_lines_that_no_run_wrote_are_dropped_with_one_warning(tmp_path, capsys, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([LINES[0], NO_LINES[damage].replace(b"\n", b""), *LINES[1:], b""]))
    truncate_metrics(path, 2)
    assert path.read_bytes().splitlines() == LINES[:2]
    assert capsys.readouterr().err == f"{path}: dropped 1 damaged line\n"


def test_a_torn_last_line_is_no_damage(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*LINES[:2], LINES[2][:9]]))
    truncate_metrics(path, 3)
    assert path.read_bytes().splitlines() == LINES[:2] and capsys.readouterr().err == ""


def steps_of(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_run_with_damaged_lines_is_resumed(unfinished, finished, capsys):
    path = unfinished.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(NO_LINES["not UTF-8"] + b"\n12\n" + whole)
    assert cli.main(["resume", str(unfinished.path)]) == 0
    assert f"{path}: dropped 2 damaged lines\n" in capsys.readouterr().err
    assert steps_of(path) == steps_of(finished.path / path.name)


# ---- run.json, result.json ---------------------------------------------------------------------


def changed(path: Path, **values) -> None:
    """The JSON file with other values; `...` takes the key out."""
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


BAD_VALUES = [
    *(("run.json", key, value) for key, value in [("name", 3), ("digest", None), ("data_fingerprint", 3)]),
    *(
        ("run.json", key, value)
        for key, value in [("versions", "1"), ("tracker_run_id", []), ("data_fingerprint", ...)]
    ),
    *(("result.json", key, value) for key, value in [("metrics", [1]), ("metrics", {"eval_loss": "x"})]),
    *(("result.json", key, value) for key, value in [("num_steps", "6"), ("wall_seconds", None), ("num_steps", True)]),
    *(("result.json", key, ...) for key in ("num_steps", "num_train_tokens", "num_parameters", "wall_seconds")),
]


@pytest.mark.parametrize(("name", "key", "value"), BAD_VALUES)
def test_a_value_that_no_run_writes_is_one_line_with_file_and_key(run, capsys, name, key, value):
    if name == "run.json":
        interrupted(run)
    changed(run.path / name, **{key: value})
    for words in (["verify"], ["resume", "--dry-run"], ["resume"]):
        assert cli.main([words[0], str(run.path), *words[1:]]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"{run.path / name}: {key}")


def test_a_result_without_its_loss_is_none(run, recipe):
    changed(run.path / "result.json", metrics={})
    with pytest.raises(UserError, match=r"result.json: eval_loss: missing; remove it and go on with --resume$"):
        train_run(recipe, run.path)
    (run.path / "result.json").unlink()
    assert train_run(recipe, run.path, resume=True).metrics["eval_loss"] > 0


# ---- A folder that cannot be written -----------------------------------------------------------


def test_a_read_only_file_system_is_said_with_the_path(unfinished, recipe, monkeypatch):
    def refuses(path, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(run_folder, "open", refuses, raising=False)
    with pytest.raises(UserError, match=f"^{unfinished.path / '.lock'}: read-only file system$"):
        train_run(recipe, unfinished.path, resume=True)
    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(UserError, match=f"^{unfinished.path / 'new'}: read-only file system$"):
        train_run(recipe, unfinished.path / "new")


def test_a_file_that_cannot_be_written_is_no_checkpoint(unfinished, recipe, monkeypatch):
    def refuses(folder, *args):
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(folder.path / "run.json"))

    monkeypatch.setattr("hf_tti.run.record_run", refuses)
    with pytest.raises(UserError, match=f"^{unfinished.path / 'run.json'}: disk quota exceeded$"):
        train_run(recipe, unfinished.path, resume=True)


# ---- verify, resume --dry-run ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.nonsense=9", "--set training.nonsense: unknown key"),
        ("training.max_steps=9", "training.max_steps was 6, is 9"),
        ("training.per_device_train_batch_size=2", "training.per_device_train_batch_size was 4, is 2"),
    ],
)
def test_a_dry_run_refuses_what_resuming_would(unfinished, capsys, override, said):
    for more in (["--dry-run"], []):
        assert cli.main(["resume", str(unfinished.path), "--set", override, *more]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_takes_what_resuming_would(unfinished, capsys):
    elastic = ["--elastic", "--set", "training.per_device_train_batch_size=2"]
    for more in (["--set", "tracking.tags=[a]"], elastic):
        assert cli.main(["resume", str(unfinished.path), "--dry-run", *more]) == 0
        assert "would go on from checkpoint-4\n" in capsys.readouterr().out


def test_what_is_owed_to_the_hub_is_said(run, capsys):
    pushes = ["--set", "hub.push=steps", "--set", "hub.repo=me/{run}"]
    ours, other = Ledger(run.path, "me/tiny-seed7"), Ledger(run.path, "me/other")
    for branch in ("step10", "step2", "step4"):
        ours.promise(branch)
    ours.pushed("step4", "0" * 40)
    other.promise("main")
    assert cli.main(["resume", str(run.path), "--dry-run", *pushes]) == 0
    said = capsys.readouterr().out
    assert "tiny-seed7 is finished; resuming it pushes what is owed\n" in said
    assert "owed to me/tiny-seed7: step2, step10, main; resuming pushes it\n" in said
    assert f"owed to me/other: main; hf-tti push {run.path} --repo me/other pushes it\n" in said
    for branch in ("step10", "step2", "main"):
        ours.pushed(branch, "0" * 40)
    other.pushed("main", "0" * 40)
    assert cli.main(["resume", str(run.path), "--dry-run", *pushes]) == cli.main(["verify", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "owed" not in said and said.count("resuming it does nothing") == 2


def test_an_unfinished_run_says_what_it_has_promised(unfinished, capsys):
    Ledger(unfinished.path, "me/other").promise("step2")
    assert cli.main(["verify", str(unfinished.path)]) == 0
    assert (
        f"owed to me/other: step2; hf-tti push {unfinished.path} --repo me/other pushes it" in capsys.readouterr().out
    )


# ---- Secrets in paths --------------------------------------------------------------------------

TOKEN = "hf_" + "AbCd1234" * 4


def test_a_token_in_the_path_of_the_data_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    place = tmp_path / TOKEN
    place.mkdir()
    path = write_recipe(place)
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    with pytest.raises(UserError, match="^data.train: its absolute path holds a Hugging Face token, ") as caught:
        resolve_paths(load_recipe(path))
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)
    assert cli.main(["train", path.name, "--run-dir", "run"]) == 2
    assert capsys.readouterr().err.startswith("data.train: its absolute path holds a Hugging Face token, ")
    assert sorted(place.rglob("*")) == before
