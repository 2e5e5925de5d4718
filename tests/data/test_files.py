"""Corpora of files: what is read, and what is said when it cannot be."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_tti.data import DataConfig
from hf_tti.data.text_files import TextFiles
from hf_tti.errors import UserError

STORIES = [f"Story number {i} is about a cat.\n\nThe cat has {i} kittens." for i in range(200)]


def write_txt(path, stories):
    path.write_text("\n<|endoftext|>\n".join(stories) + "\n<|endoftext|>\n")


def write_jsonl(path, stories):
    path.write_text("".join(json.dumps({"text": s, "n": i}) + "\n" for i, s in enumerate(stories)))


def write_json(path, stories):
    path.write_text(json.dumps([{"text": s} for s in stories], indent=1))


def write_parquet(path, stories):
    pq.write_table(pa.table({"text": stories, "n": list(range(len(stories)))}), path)


WRITERS = {"txt": write_txt, "jsonl": write_jsonl, "json": write_json, "parquet": write_parquet}


def corpus(folder, **options):
    return TextFiles(DataConfig(name="text_files", **options), folder)


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"a.{suffix}", STORIES)
    WRITERS[suffix](tmp_path / f"b.{suffix}", STORIES[:3])
    config = {"train": f"a.{suffix}", "validation": f"b.{suffix}"}
    assert list(corpus(tmp_path, **config).stories("train")) == STORIES
    assert list(corpus(tmp_path, **config).stories("validation")) == STORIES[:3]


def test_a_folder_is_its_files_in_the_order_of_their_names(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", STORIES[:2])
    write_txt(tmp_path / "a.txt", STORIES[2:4])
    (tmp_path / "sub").mkdir()
    write_parquet(tmp_path / "sub" / "c.parquet", STORIES[4:6])
    (tmp_path / "README.md").write_text("not a story")
    builder = corpus(tmp_path.parent, train=tmp_path.name, validation=f"{tmp_path.name}/b.jsonl")
    assert list(builder.stories("train")) == STORIES[2:4] + STORIES[:2] + STORIES[4:6]


@pytest.mark.parametrize("name", ["validation", "val-00000-of-00001", "dev", "test"])
def test_a_folder_with_named_splits_is_not_mixed(tmp_path, name):
    write_jsonl(tmp_path / "train.jsonl", STORIES[:5])
    write_jsonl(tmp_path / f"{name}.jsonl", STORIES[5:])
    builder = corpus(tmp_path, train=".")
    assert list(builder.stories("train")) == STORIES[:5]
    assert list(builder.stories("validation")) == STORIES[5:]


def test_held_out_documents_depend_on_their_text_alone(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", STORIES + STORIES[:50])
    write_jsonl(tmp_path / "b.jsonl", STORIES[::-1])
    one, other = (corpus(tmp_path, train=name) for name in ("a.jsonl", "b.jsonl"))
    held_out = set(one.stories("validation"))
    assert held_out == set(other.stories("validation"))
    assert 0 < len(held_out) < 30
    assert held_out.isdisjoint(one.stories("train"))
    assert held_out | set(one.stories("train")) == set(STORIES)
    assert held_out != set(corpus(tmp_path, train="a.jsonl", seed=1).stories("validation"))


def test_the_fingerprint_follows_content_not_place(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / f"{name}.jsonl", STORIES[: 100 if name == "c" else 99] + STORIES[100:])
    a, b, c = (corpus(tmp_path / name, train=f"{name}.jsonl") for name in ("a", "b", "c"))
    for split in ("train", "validation"):
        assert a.fingerprint(split) == b.fingerprint(split) != c.fingerprint(split)
    assert a.fingerprint("train") != a.fingerprint("validation")
    assert corpus(tmp_path / "a", train="a.jsonl", seed=1).fingerprint("train") != a.fingerprint("train")


def test_blank_documents_are_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("<|endoftext|>\n\n  one<|endoftext|>  <|endoftext|>two\n")
    assert list(corpus(tmp_path, train="a.txt", validation="a.txt").stories("train")) == [
        "one",
        "two",
    ]


def test_windows_files_with_a_byte_order_mark_read_alike(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}\r\n')
    assert list(corpus(tmp_path, train="a.jsonl", validation="a.jsonl").stories("train")) == [
        "one",
        "two",
    ]


BROKEN = {
    "missing": ({}, dict(train="stories.jsonl"), "data.train: no file or folder .*stories.jsonl"),
    "typo": ({"stories.jsonl": ""}, dict(train="storys.jsonl"), "did you mean 'stories.jsonl'"),
    "no train": ({}, {}, "data.train: text_files needs"),
    "suffix": ({"a.csv": "x"}, dict(train="a.csv"), r"a.csv' is not one of .json, .jsonl"),
    "empty folder": ({}, dict(train="."), "no .json, .jsonl, .parquet, .txt file in the folder"),
    "field": (
        {"a.jsonl": '{"txt": "a", "n": 1}'},
        dict(train="a.jsonl"),
        "'text'.*did you mean 'txt'.*txt, n",
    ),
    "bad line": (
        {"a.jsonl": '{"text": "a"}\n{"text": \n'},
        dict(train="a.jsonl"),
        "a.jsonl:2: not JSON",
    ),
    "bad array": (
        {"a.json": '[\n{"text": "a"},\n{"text" "b"}]'},
        dict(train="a.json"),
        "a.json:3: not JSON",
    ),
    "not an object": ({"a.jsonl": '"a"'}, dict(train="a.jsonl"), "a.jsonl:1: an object .* not str"),
    "not text": (
        {"a.jsonl": '{"text": 3}'},
        dict(train="a.jsonl"),
        "field 'text' is not text but int",
    ),
    "bytes": ({"a.txt": b"caf\xe9"}, dict(train="a.txt"), "a.txt: not UTF-8"),
    "parquet": ({"a.parquet": b"PAR0"}, dict(train="a.parquet"), "not a readable parquet file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_line_that_says_where(tmp_path, case):
    files, options, message = BROKEN[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        list(corpus(tmp_path, validation=options.get("train"), **options).stories("train"))
    assert "\n" not in str(caught.value)


def test_a_missing_parquet_column_lists_the_columns(tmp_path):
    write_parquet(tmp_path / "a.parquet", STORIES)
    with pytest.raises(UserError, match="no field 'story'; fields there: text, n"):
        list(corpus(tmp_path, train="a.parquet", text_field="story").stories("train"))
