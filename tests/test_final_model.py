"""Laws of `final/`: whole or not there, and a run is finished only while it is as it was written."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_tti import checkpoints, cli
from hf_tti.checkpoints import MANIFEST, NoValidCheckpoint, clear_leftovers
from hf_tti.errors import UserError
from hf_tti.hub.files import model_files
from hf_tti.loading import find_checkpoint
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_end import save_final
from hf_tti.run_folder import RunFolder
from tiny_runs import write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("final")
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


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a bit flipped": flip_a_bit,
}


def without_manifest(run: RunFolder) -> None:
    """As an earlier version wrote it."""
    (run.final / MANIFEST).unlink()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_every_damaged_file_is_named_and_the_run_is_not_finished(run, recipe, capsys, name, damage):
    DAMAGES[damage](run.final / name)
    assert run.finished() is None and run.result() is not None
    assert cli.main(["verify", str(run.path)]) == 3
    said = capsys.readouterr().out
    assert f"\nfinal: {run.final / name}: " in said and "would go on from checkpoint-6 and write final/ anew" in said
    for refuses in (lambda: train_run(recipe, run.path), lambda: find_checkpoint(run.path), run.check_final):
        with pytest.raises(UserError, match=f"^{run.final / name}: .*; hf-tti resume {run.path} writes it anew$"):
            refuses()


def test_all_damaged_files_are_named(run, capsys):
    for name in ("model.safetensors", "tokenizer_config.json"):
        flip_a_bit(run.final / name)
    assert cli.main(["verify", str(run.path)]) == 3
    assert capsys.readouterr().out.count("\nfinal: ") == 2


@pytest.mark.parametrize("what", ["model.safetensors", MANIFEST, "all of it"])
def test_resume_writes_a_damaged_final_model_anew(run, finished, capsys, what):
    if what == "all of it":
        shutil.rmtree(run.final)
    else:
        flip_a_bit(run.final / what)
    assert cli.main(["resume", str(run.path)]) == 0
    assert "it is written anew" in capsys.readouterr().err
    assert contents(run.final) == contents(finished.final)
    assert run.finished()["metrics"] == finished.result()["metrics"]
    assert cli.main(["verify", str(run.path)]) == 0
    assert "\nfinal: whole\n" in capsys.readouterr().out


def test_stopped_while_it_is_written_anew_the_run_is_unfinished_and_nothing_is_left_behind(
    run, finished, recipe, monkeypatch
):
    flip_a_bit(run.final / "model.safetensors")

    def reached(point):
        if point == "renamed":
            raise Stopped

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(checkpoints, "reached", reached)
        train_run(recipe, run.path, resume=True)
    assert run.finished() is None
    train_run(recipe, run.path, resume=True)
    assert contents(run.final) == contents(finished.final) and run.finished() is not None
    assert {path.name for path in run.path.iterdir()} == {path.name for path in finished.path.iterdir()}


@pytest.mark.parametrize("are_there", [True, False])
def test_without_a_whole_checkpoint_a_damaged_final_model_ends_with_3_and_nothing_changes(run, recipe, are_there):
    for checkpoint in run.path.glob("checkpoint-*"):
        flip_a_bit(checkpoint / "model.safetensors") if are_there else shutil.rmtree(checkpoint)
    flip_a_bit(run.final / "model.safetensors")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(NoValidCheckpoint, match="model.safetensors: its content has changed .* no checkpoint is whole"):
        train_run(recipe, run.path, resume=True)
    assert cli.main(["resume", str(run.path)]) == cli.main(["verify", str(run.path)]) == 3
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_final_model_of_an_earlier_version_is_finished_and_loads(run, recipe, capsys):
    without_manifest(run)
    assert train_run(recipe, run.path).num_steps == 6 and find_checkpoint(run.path).step == 6
    assert cli.main(["verify", str(run.path)]) == 0
    assert "\nfinal: whole, by headers and sizes\n" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_of_an_earlier_version_sizes_and_headers_are_looked_at(run, name, damage):
    without_manifest(run)
    DAMAGES[damage](run.final / name)
    (problem,) = run.final_problems()
    assert problem.startswith(f"{run.final / name}: ") and run.finished() is None


def test_of_an_earlier_version_a_lost_shard_is_missing(run):
    without_manifest(run)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (run.final / "model.safetensors").rename(run.final / shards["a"])
    (run.final / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert run.final_problems() == [f"{run.final / shards['b']}: missing"]


def test_the_manifest_is_never_pushed(finished):
    assert (finished.final / MANIFEST).is_file() and MANIFEST not in model_files(finished.final)


# ---- Writing -----------------------------------------------------------------------------------


class Stopped(BaseException):
    """A kill."""


def trainer_of(weights: bytes) -> SimpleNamespace:
    """What `save_final` asks of a trainer, on one process."""

    def save_model(folder: str) -> None:
        for name in ("config.json", "model.safetensors"):
            (Path(folder) / name).write_bytes(weights)

    return SimpleNamespace(
        save_model=save_model,
        state=SimpleNamespace(global_step=6),
        args=SimpleNamespace(process_index=0),
        _on_main=lambda work: work(),
        _everywhere=lambda work: work(),
    )


def test_all_of_it_is_flushed_before_the_rename(tmp_path, monkeypatch):
    events, replace = [], os.replace
    monkeypatch.setattr(checkpoints, "_flush", lambda path: events.append(Path(path).name))
    monkeypatch.setattr(checkpoints.os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    save_final(trainer_of(b"new"), tmp_path / "final")
    at = events.index("rename")
    assert {"config.json", "model.safetensors", MANIFEST, ".saving-final"} <= set(events[:at])
    assert events[at + 1 :] == [tmp_path.name]


@pytest.mark.parametrize("before", [None, b"old"])
def test_stopped_anywhere_it_is_the_old_one_the_new_one_or_not_there(tmp_path, monkeypatch, before):
    points, found = [], set()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "reached", points.append)
        if before:
            save_final(trainer_of(before), tmp_path / "whole" / "final")
            points.clear()
        save_final(trainer_of(b"new"), tmp_path / "whole" / "final")
    assert ("old moved away" in points) == (before is not None)
    for index in range(len(points)):
        place, left = tmp_path / str(index) / "final", [index]
        if before:
            save_final(trainer_of(before), place)

        def reached(point, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(checkpoints, "reached", reached)
            save_final(trainer_of(b"new"), place)
        clear_leftovers(place.parent)
        assert not place.exists() or checkpoints.problems_of(place) == []
        found.add((place / "model.safetensors").read_bytes() if place.exists() else None)
        assert [path.name for path in place.parent.iterdir()] == ["final"] * place.exists()
    assert found == {before, b"new"}


def test_a_disk_that_refuses_leaves_the_old_one(tmp_path):
    place = tmp_path / "final"
    save_final(trainer_of(b"old"), place)
    full = trainer_of(b"new")

    def refuses(folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    full.save_model = refuses
    with pytest.raises(UserError, match=f"^{place} could not be written: No space left"):
        save_final(full, place)
    assert (place / "model.safetensors").read_bytes() == b"old" and checkpoints.problems_of(place) == []
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
