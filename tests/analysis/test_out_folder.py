"""Laws of a replaced folder: whole or not at all, and nobody's files go."""

import pytest

from analysis.out_folder import MARKER, replaced_folder
from hf_tti.errors import UserError


def write(out, **files):
    with replaced_folder(out) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def contents(out):
    return {path.name: path.read_text() for path in out.iterdir() if path.name != MARKER}


def test_a_new_folder_takes_the_old_ones_place_with_nothing_left_beside(tmp_path):
    out = tmp_path / "deep" / "out"
    write(out, a="1", b="2")
    write(out, a="3")
    assert contents(out) == {"a": "3"} and [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_one_as_it_was(tmp_path):
    out = tmp_path / "out"
    write(out, a="1")
    with pytest.raises(RuntimeError), replaced_folder(out) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert contents(out) == {"a": "1"} and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_makes_no_folder(tmp_path):
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "out"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_somebodys_folder_stays(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds thesis.tex, which no report wrote"):
        write(tmp_path, a="1")
    assert contents(tmp_path) == {"thesis.tex": "x"}


def test_a_file_that_somebody_put_into_a_report_stays(tmp_path):
    out = tmp_path / "out"
    write(out, a="1")
    (out / "notes").mkdir()
    (out / "notes" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"holds notes/mine\.txt"):
        write(out, a="2")
    assert (out / "a").read_text() == "1" and (out / "notes" / "mine.txt").is_file()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", a="1")
    assert contents(tmp_path / "out") == {"a": "1"}


def test_a_file_or_a_link_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name}: not a folder"):
            write(tmp_path / name, a="1")


def test_a_place_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "out", a="1")
