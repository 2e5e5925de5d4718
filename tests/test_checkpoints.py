"""Laws of checkpoints: whole or not there, whatever stops the writing; and nothing else is taken for one."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

import hf_tti.checkpoints as checkpoints
from hf_tti.checkpoints import (
    MANIFEST,
    NoValidCheckpoint,
    check_space,
    checkpoints_of,
    newest_valid,
    problems_of,
    publish,
    read_manifest,
    resumable,
    rotate,
    staging_folder,
)
from hf_tti.errors import UserError

FILES = {"model.safetensors": b"weights", "state.json": b"{}", "empty": b"", "below/it/deep.bin": bytes(5000)}


class Stopped(BaseException):
    """Stands for a process that ends here."""


def save(run_dir: Path, step: int, files=FILES, facts=None) -> Path:
    """A checkpoint as the Trainer writes it."""
    staged = staging_folder(run_dir, step) / f"checkpoint-{step}"
    for name, content in files.items():
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).write_bytes(content + str(step).encode())
    publish(staged, run_dir / f"checkpoint-{step}", step=step, facts=facts or {"seed": 1})
    staged.parent.rmdir()
    return run_dir / f"checkpoint-{step}"


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


def valid_steps(run_dir: Path) -> list[int]:
    return [read_manifest(path).step for path in checkpoints_of(run_dir) if not problems_of(path)]


def rewrite(folder: Path, **changes) -> None:
    """The manifest with other content and the digest that fits it: what somebody who means harm would write."""
    content = json.loads((folder / MANIFEST).read_text())
    content = {**content, **changes}
    content.pop("sha256")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({**content, "sha256": digest}))


# ---- Manifests ----


def test_a_published_folder_says_what_it_holds(tmp_path):
    folder = save(tmp_path, 3, facts={"world_size": 2, "data_seed": None})
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.facts) == (3, {"world_size": 2, "data_seed": None})
    assert manifest.files.keys() == FILES.keys()
    for name, (sha256, size) in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (sha256, size) == (hashlib.sha256(content).hexdigest(), len(content))
    assert problems_of(folder) == []
    assert names(tmp_path) == ["checkpoint-3"]


def test_a_folder_may_be_moved_and_may_hold_more_files(tmp_path):
    folder = save(tmp_path, 3)
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    (moved / "report.json").write_text("{}")
    assert problems_of(moved) == []


def test_a_folder_under_another_steps_name_is_none(tmp_path):
    folder = save(tmp_path, 3)
    moved = Path(shutil.move(folder, tmp_path / "checkpoint-4"))
    assert "is of step 3" in problems_of(moved)[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes,"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes,"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"#"), "has changed since"),
        (lambda path: (path.unlink(), path.mkdir()), "missing"),
        (lambda path: (path.rename(path.with_name("moved")), path.symlink_to("moved")), "missing"),
    ],
)
def test_every_damage_to_a_file_is_named(tmp_path, name, damage, said):
    folder = save(tmp_path, 3)
    damage(folder / name)
    (problem,) = problems_of(folder)
    assert problem.startswith(str(folder / name)) and said in problem and "\n" not in problem


def test_every_truncation_and_every_changed_character_of_a_manifest_is_noticed(tmp_path):
    folder = save(tmp_path, 3)
    whole = (folder / MANIFEST).read_bytes()
    for length in range(len(whole) - 1):
        (folder / MANIFEST).write_bytes(whole[:length])
        assert problems_of(folder), length
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / MANIFEST).write_bytes(changed)
        try:
            same = json.loads(changed) == json.loads(whole)
        except ValueError:
            same = False
        assert bool(problems_of(folder)) != same, place


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "3", "[]", "{}", "[" * 100_000, '{"sha256": 1}', "\x00", '{"sha256": "x", "files": []}'),
        '{"sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}',  # of an empty mapping
    ],
)
def test_other_content_of_a_manifest_is_one_line(tmp_path, content):
    folder = save(tmp_path, 3)
    (folder / MANIFEST).write_text(content)
    (problem,) = problems_of(folder)
    assert "manifest.json: damaged" in problem and "\n" not in problem


@pytest.mark.parametrize(
    "changes",
    [
        *({"step": "three"}, {"step": None}, {"files": 3}, {"files": {"a": 3}}, {"files": {"a": [1]}}, {"facts": 3}),
        *({"files": {"empty": ["x", "large"]}}, {"step": float("inf")}, {"format_version": 99}, {"step": [3]}),
    ],
)
def test_a_manifest_of_other_types_is_one_line(tmp_path, changes):
    folder = save(tmp_path, 3)
    rewrite(folder, **changes)
    (problem,) = problems_of(folder)
    assert "manifest.json: damaged" in problem and "\n" not in problem


@pytest.mark.parametrize("name", ["../outside", "below/../../outside", "{}/outside", "/etc/hostname"])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path, name):
    folder = save(tmp_path / "run", 3)
    outside = tmp_path / "run" / "outside"
    outside.write_bytes(b"elsewhere")
    name = name.format(tmp_path / "run")
    path = folder / name
    content = path.read_bytes() if path.is_file() else b""
    entry = [hashlib.sha256(content).hexdigest(), len(content)]
    rewrite(folder, files={**read_manifest(folder).files, name: entry})
    assert problems_of(folder) == [f"{folder / name}: missing"]


def test_links_are_no_checkpoints(tmp_path):
    folder = save(tmp_path / "other", 3)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "checkpoint-3").symlink_to(folder)
    assert newest_valid(run_dir)[0] is None
    assert "not a folder of its own" in problems_of(run_dir / "checkpoint-3")[0]
    shutil.copytree(folder, run_dir / "checkpoint-4")
    (run_dir / "checkpoint-4" / MANIFEST).unlink()
    (run_dir / "checkpoint-4" / MANIFEST).symlink_to(folder / MANIFEST)
    assert "a link" in problems_of(run_dir / "checkpoint-4")[0]


def test_a_link_below_that_leaves_the_folder_is_noticed(tmp_path):
    folder = save(tmp_path / "run", 3)
    shutil.move(folder / "below", tmp_path / "below")
    (folder / "below").symlink_to(tmp_path / "below")
    assert problems_of(folder) == [f"{folder / 'below/it/deep.bin'}: missing"]


def test_a_file_by_that_name_is_no_checkpoint(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "checkpoint-9").write_text("not a folder")
    (tmp_path / "checkpoint-x").mkdir()
    valid, problems = newest_valid(tmp_path)
    assert valid == tmp_path / "checkpoint-3" and "not a folder" in problems[0] and len(problems) == 1


def test_checkpoints_are_in_the_order_of_steps(tmp_path):
    for step in (9, 100, 20):
        save(tmp_path, step)
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-9", "checkpoint-20", "checkpoint-100"]
    assert checkpoints_of(tmp_path / "none") == [] and newest_valid(tmp_path / "none") == (None, [])


# ---- Publishing, stopped anywhere ----


def points_of(work) -> list[str]:
    """Every point that `work` reaches, in order."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "reached", seen.append)
        work()
    return seen


def stop_at(monkeypatch, index: int) -> None:
    left = [index]

    def reached(point):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    monkeypatch.setattr(checkpoints, "reached", reached)


def test_stopped_anywhere_a_new_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, step)
    points = points_of(lambda: save(Path(shutil.copytree(before, tmp_path / "whole")), 3))
    assert {"staging made", "manifest written", "staging flushed", "renamed", "published"} <= set(points)
    seen = set()
    for index, point in enumerate(points):
        run_dir = Path(shutil.copytree(before, tmp_path / str(index)))
        with monkeypatch.context() as patch:
            stop_at(patch, index)
            with pytest.raises(Stopped):
                save(run_dir, 3)
        steps = valid_steps(run_dir)
        seen.add(tuple(steps))
        assert steps == ([1, 2, 3] if points.index("renamed") <= index else [1, 2]), point
        assert len(checkpoints_of(run_dir)) == len(steps), f"{point}: half a checkpoint has a checkpoint's name"
        assert resumable(run_dir) == (run_dir / f"checkpoint-{steps[-1]}", [])
        save(run_dir, 4)
        assert names(run_dir) == [f"checkpoint-{step}" for step in [*steps, 4]]
    assert seen == {(1, 2), (1, 2, 3)}


def test_stopped_anywhere_a_replaced_checkpoint_is_the_old_or_the_new_one(tmp_path, monkeypatch):
    before = tmp_path / "before"
    for step in (1, 2):
        save(before, step)
    new = {"model.safetensors": b"other weights"}
    points = points_of(lambda: save(Path(shutil.copytree(before, tmp_path / "whole")), 2, new))
    assert "old moved away" in points
    contents = set()
    for index, point in enumerate(points):
        run_dir = Path(shutil.copytree(before, tmp_path / str(index)))
        with monkeypatch.context() as patch:
            stop_at(patch, index)
            with pytest.raises(Stopped):
                save(run_dir, 2, new)
        assert resumable(run_dir) == (run_dir / "checkpoint-2", []), point
        assert valid_steps(run_dir) == [1, 2]
        contents.add((run_dir / "checkpoint-2" / "model.safetensors").read_bytes())
        assert names(run_dir) == ["checkpoint-1", "checkpoint-2"]
    assert contents == {b"weights2", b"other weights2"}


def test_stopped_while_putting_back_nothing_is_lost(tmp_path, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step)
    for point in ("old moved away", "replaced one seen to"):

        def reached(name, point=point):
            if name == point:
                raise Stopped

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "reached", reached)
            with pytest.raises(Stopped):
                save(tmp_path, 2) if point == "old moved away" else resumable(tmp_path)
    assert resumable(tmp_path) == (tmp_path / "checkpoint-2", [])


def test_stopped_anywhere_rotation_leaves_whole_checkpoints_only(tmp_path, monkeypatch):
    before = tmp_path / "before"
    for step in (1, 2, 3, 4):
        save(before, step)
    points = points_of(lambda: rotate(Path(shutil.copytree(before, tmp_path / "whole")), limit=2))
    assert points == ["rotation began", "rotated"] * 2
    for index in range(len(points)):
        run_dir = Path(shutil.copytree(before, tmp_path / str(index)))
        with monkeypatch.context() as patch:
            stop_at(patch, index)
            with pytest.raises(Stopped):
                rotate(run_dir, limit=2)
        assert len(valid_steps(run_dir)) == len(checkpoints_of(run_dir)) >= 2
        assert {3, 4} <= set(valid_steps(run_dir))
        save(run_dir, 5)
        rotate(run_dir, limit=2)
        assert names(run_dir) == ["checkpoint-4", "checkpoint-5"]


def test_everything_is_flushed_before_the_rename(tmp_path, monkeypatch):
    """fsync of each file, of the manifest and of the folders that hold them, then the rename, then the run's folder."""
    events = []
    monkeypatch.setattr(checkpoints, "_flush", lambda path: events.append(Path(path).name))
    replace = os.replace
    monkeypatch.setattr(checkpoints.os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    save(tmp_path, 3)
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {*(Path(name).name for name in FILES), MANIFEST, "checkpoint-3", "below", "it"} <= set(before)
    assert before.index(MANIFEST) > before.index("deep.bin")
    assert after == [tmp_path.name]


def test_what_an_interrupted_save_left_is_cleared_and_nothing_else(tmp_path):
    save(tmp_path, 3)
    for name in (".saving-4", ".removing-checkpoint-1"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("half")
    (tmp_path / ".saving-5").symlink_to(tmp_path / "checkpoint-3")
    (tmp_path / ".saving-6").write_text("a file")
    (tmp_path / "metrics.jsonl").write_text("{}")
    staging_folder(tmp_path, 7)
    assert names(tmp_path) == [".saving-7", "checkpoint-3", "metrics.jsonl"]
    assert valid_steps(tmp_path) == [3]


# ---- Rotation ----


@pytest.mark.parametrize(("limit", "left"), [(None, [1, 2, 3, 4, 5]), (4, [2, 3, 4, 5]), (2, [4, 5]), (1, [4, 5])])
def test_rotation_keeps_the_newest_and_at_least_two(tmp_path, limit, left):
    for step in range(1, 6):
        save(tmp_path, step)
    rotate(tmp_path, limit=limit)
    assert valid_steps(tmp_path) == left


def test_rotation_counts_whole_checkpoints(tmp_path):
    for step in range(1, 6):
        save(tmp_path, step)
    for step in (4, 5):
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"damaged")
    rotate(tmp_path, limit=2)
    assert valid_steps(tmp_path) == [2, 3]
    assert len(checkpoints_of(tmp_path)) == 4  # damaged ones are not removed


def test_rotation_reads_again_only_what_was_touched(tmp_path, monkeypatch):
    for step in range(1, 4):
        save(tmp_path, step)
    with open(tmp_path / "checkpoint-2" / "model.safetensors", "r+b") as handle:
        handle.write(b"W")
    os.utime(tmp_path / "checkpoint-2" / "model.safetensors", ns=(0, 0))
    read = []
    sha256 = checkpoints.file_sha256

    def counted(path):
        read.append(path.relative_to(tmp_path).parts[0])
        return sha256(path)

    monkeypatch.setattr(checkpoints, "file_sha256", counted)
    rotate(tmp_path, limit=2)
    assert set(read) == {"checkpoint-2"}
    assert valid_steps(tmp_path) == [1, 3]


def test_rotation_keeps_the_best(tmp_path, monkeypatch):
    for step in range(1, 6):
        save(tmp_path, step)
    monkeypatch.chdir(tmp_path)
    rotate(tmp_path, limit=2, keep=Path("checkpoint-2"))
    assert valid_steps(tmp_path) == [2, 4, 5]


# ---- What to resume from ----


def test_damaged_newer_checkpoints_are_set_aside_and_numbered(tmp_path):
    for round_ in (1, 2, 3):
        for step in (1, 2, 3):
            if not (tmp_path / f"checkpoint-{step}").exists():
                save(tmp_path, step)
        for step in (2, 3):
            (tmp_path / f"checkpoint-{step}" / "model.safetensors").write_bytes(str(round_).encode())
        valid, problems = resumable(tmp_path)
        assert valid == tmp_path / "checkpoint-1"
        assert [problem.split(": ")[0] for problem in problems] == [
            str(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (3, 2)
        ]
        assert names(tmp_path) == [".damaged", "checkpoint-1"]
    set_aside = {path.parent.name: path.read_text() for path in (tmp_path / ".damaged").rglob("model.safetensors")}
    assert set_aside == {
        f"checkpoint-{step}{suffix}": text for step in (2, 3) for suffix, text in (("", "1"), (".2", "2"), (".3", "3"))
    }


def test_older_damaged_checkpoints_stay_where_they_are(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoint-1" / "model.safetensors").unlink()
    assert resumable(tmp_path) == (tmp_path / "checkpoint-2", [])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_links_and_files_are_set_aside_too(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "checkpoint-2").write_text("a file")
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "checkpoint-1")
    assert resumable(tmp_path)[0] == tmp_path / "checkpoint-1"
    assert names(tmp_path / ".damaged") == ["checkpoint-2", "checkpoint-3"]
    assert valid_steps(tmp_path) == [1]


def test_without_any_that_is_whole_it_stops_with_its_own_exit_code(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / MANIFEST).unlink()
    with pytest.raises(
        NoValidCheckpoint, match="none of its 2 checkpoints is whole; the newest: .*checkpoint-2"
    ) as caught:
        resumable(tmp_path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


def test_without_any_checkpoint_there_is_nothing_to_say(tmp_path):
    (tmp_path / ".saving-1").mkdir()
    assert resumable(tmp_path) == (None, [])
    assert resumable(tmp_path / "none") == (None, [])


def test_looking_moves_nothing(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "checkpoint-2" / "model.safetensors").unlink()
    (tmp_path / ".saving-3").mkdir()
    assert newest_valid(tmp_path)[0] == tmp_path / "checkpoint-1"
    assert names(tmp_path) == [".saving-3", "checkpoint-1", "checkpoint-2"]


def test_an_input_error_is_a_problem_and_no_exception(tmp_path, monkeypatch):
    folder = save(tmp_path, 1)

    def fails(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoints, "file_sha256", fails)
    assert problems_of(folder) == [f"{folder}: cannot be read: Input/output error"]


# ---- Room ----


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    check_space(tmp_path, 0)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(UserError, match="a checkpoint needs .* MB, the disk has .* MB left; earlier checkpoints are"):
        check_space(tmp_path, 2 * free + 1)
    assert names(tmp_path) == []
