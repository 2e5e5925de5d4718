"""prepare_data: what it promises about rows, bounds, caching and errors."""

import json
import logging
import os
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from transformers import AutoTokenizer

from hf_tti.data import DataConfig, prepare_data, prepare_validation
from hf_tti.data._packing import tokenize
from hf_tti.data._tokenizers import load_tokenizer, tokenizer_fingerprint, train_tokenizer
from hf_tti.data.synthetic_stories import generate_stories
from hf_tti.errors import UserError

SMALL = dict(vocab_size=300, block_size=32, max_tokens=3000, max_validation_tokens=1000)
STORIES = [f"Once there was a fox called F{i}. The fox saw {i} owls by the lake." for i in range(120)]


def prepare(cache, **options):
    return prepare_data(DataConfig(**{**SMALL, **options}), cache_dir=cache, progress=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Tokenizers trained by one test serve the next."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in STORIES))
    return path


def flat(dataset):
    return [i for ids in dataset["input_ids"] for i in ids]


def test_training_blocks_are_full_and_are_the_stories_in_order(cache):
    data = prepare(cache)
    assert {len(row["input_ids"]) for row in data.train} == {32}
    assert data.train.column_names == ["input_ids"]
    ids = flat(data.train)
    texts = (story.text for story in generate_stories(0, "train"))
    expected = (i for document in tokenize(texts, data.tokenizer) for i in document)
    assert ids == list(islice(expected, len(ids)))


def test_bounds_are_reached_and_not_passed_by_a_block(cache):
    data = prepare(cache, max_tokens=3000, max_validation_tokens=1025)
    assert data.num_train_tokens == len(flat(data.train)) == 3008
    assert data.num_validation_tokens == len(flat(data.validation)) == 1056


def test_token_counts_are_those_of_the_training_rows(cache):
    data = prepare(cache)
    assert data.token_counts.dtype == np.int64
    assert data.token_counts.shape == (len(data.tokenizer),)
    assert np.array_equal(data.token_counts, np.bincount(flat(data.train), minlength=300))


def test_evaluation_keeps_the_tail_that_training_drops(cache, corpus):
    options = dict(name="text_files", train=str(corpus), validation=str(corpus))
    data = prepare(cache, max_tokens=None, max_validation_tokens=None, **options)
    total = sum(map(len, tokenize(STORIES, data.tokenizer)))
    assert total % 32 != 0
    assert data.num_train_tokens == total - total % 32
    assert data.num_validation_tokens == total
    assert len(data.validation[-1]["input_ids"]) == total % 32
    eos = data.tokenizer.eos_token
    assert data.tokenizer.decode(flat(data.validation)) == "".join(text + eos for text in STORIES)


def test_unpacked_rows_are_one_story_each(cache, corpus):
    options = dict(name="text_files", train=str(corpus), validation=str(corpus), packing=False)
    data = prepare(cache, block_size=16, max_tokens=None, **options)
    assert len(data.train) == len(STORIES)
    for row, document in zip(data.train, tokenize(STORIES, data.tokenizer), strict=True):
        assert row == {"input_ids": document[:16], "attention_mask": [1] * len(document[:16])}


def test_a_second_call_reads_the_same_rows_and_writes_nothing(cache, monkeypatch):
    first = prepare(cache, seed=5)
    monkeypatch.setattr("hf_tti.data._prepare.make_rows", None)
    monkeypatch.setattr("hf_tti.data._prepare.train_tokenizer", None)
    second = prepare(cache, seed=5)
    assert second.fingerprint == first.fingerprint
    assert second.train[:] == first.train[:]
    assert second.validation[:] == first.validation[:]
    assert np.array_equal(second.token_counts, first.token_counts)
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_another_process_with_its_own_cache_prepares_the_same(cache, tmp_path, hash_seed):
    here = prepare(cache)
    code = (
        "import sys; from hf_tti.data import DataConfig, prepare_data\n"
        f"data = prepare_data(DataConfig(**{SMALL!r}), cache_dir=sys.argv[1], progress=False)\n"
        "print(data.fingerprint, [i for ids in data.train['input_ids'] for i in ids])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stdout.strip() == f"{here.fingerprint} {flat(here.train)}"


@pytest.mark.parametrize(
    "change",
    [
        dict(seed=1),
        dict(block_size=33),
        dict(max_tokens=4000),
        dict(max_validation_tokens=900),
        dict(vocab_size=310),
        dict(packing=False),
    ],
)
def test_whatever_changes_the_rows_changes_the_fingerprint(cache, change):
    assert prepare(cache, **change).fingerprint != prepare(cache).fingerprint


def test_one_changed_letter_changes_fingerprint_and_rows(cache, corpus):
    options = dict(name="text_files", train=str(corpus), max_tokens=None)
    before = prepare(cache, **options)
    corpus.write_text(corpus.read_text().replace("F7.", "F8."))
    after = prepare(cache, **options)
    assert after.fingerprint != before.fingerprint
    assert flat(after.train) + flat(after.validation) != flat(before.train) + flat(before.validation)


def test_a_copy_elsewhere_is_the_same_data(cache, corpus):
    options = dict(name="text_files", max_tokens=None)
    copy = corpus.with_name("copy.jsonl")
    copy.write_bytes(corpus.read_bytes())
    one, other = (prepare(cache, train=str(path), **options) for path in (corpus, copy))
    assert one.fingerprint == other.fingerprint


def test_damaged_data_is_prepared_again_with_a_warning(tmp_path, caplog):
    first = prepare(tmp_path)
    rows = first.train[:]
    [folder] = (tmp_path / "prepared").iterdir()
    [arrow] = (folder / "train").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        again = prepare(tmp_path)
    assert again.train[:] == rows
    assert "damaged" in caplog.text
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [folder.name]


def test_a_failed_preparation_leaves_nothing_behind(tmp_path, corpus):
    with corpus.open("a") as file:
        file.write("not json\n")
    tokenizer = train_tokenizer(STORIES, 300)
    tokenizer.save_pretrained(tmp_path / "tok")
    options = dict(name="text_files", train=str(corpus), tokenizer=str(tmp_path / "tok"))
    with pytest.raises(UserError, match="stories.jsonl:121"):
        prepare(tmp_path / "c", vocab_size=None, max_tokens=None, **options)
    assert list((tmp_path / "c").rglob("*.*")) == []


def test_the_default_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "mine"))
    prepare(None)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"prepared", "tokenizers"}


def test_relative_paths_start_at_the_base_folder(cache, corpus, monkeypatch):
    config = DataConfig(**{**SMALL, "name": "text_files", "train": corpus.name, "max_tokens": None})
    there = prepare_data(config, cache_dir=cache, base_dir=corpus.parent, progress=False)
    monkeypatch.chdir(corpus.parent)
    assert prepare_data(config, cache_dir=cache, progress=False).fingerprint == there.fingerprint


def test_a_stream_gives_the_rows_that_preparing_would(cache):
    prepared, stream = prepare(cache), prepare(cache, streaming=True)
    rows = [list(row["input_ids"]) for row in stream.train]
    assert rows == list(prepared.train["input_ids"])
    assert rows == [list(row["input_ids"]) for row in stream.train]
    assert stream.num_train_tokens is None
    assert np.array_equal(stream.token_counts, prepared.token_counts)
    assert stream.validation[:] == prepared.validation[:]


def test_progress_is_silent_on_request(tmp_path, capfd):
    prepare(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_trained_tokenizer_reads_back_any_text(cache):
    tokenizer = prepare(cache).tokenizer
    assert len(tokenizer) == 300
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token is None  # rows are packed or masked; a pad id would claim EOS for padding
    for text in ("The fox.\n\n\"Hi!\" 'quoted'", "ÄÖ 漢字 🦊\t x  y", " both ends "):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_trained_tokenizer_survives_saving(tmp_path):
    trained = train_tokenizer(STORIES, 300)
    trained.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(STORIES)["input_ids"] == trained(STORIES)["input_ids"]
    assert loaded.eos_token_id == trained.eos_token_id == 0
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(trained)
    assert tokenizer_fingerprint(train_tokenizer(STORIES, 299)) != tokenizer_fingerprint(trained)


def test_a_tokenizer_folder_is_used_as_it_is(cache, tmp_path, corpus):
    train_tokenizer(STORIES[:60], 280).save_pretrained(tmp_path / "tok")
    options = dict(name="text_files", train=str(corpus), vocab_size=None, max_tokens=None)
    data = prepare(cache, tokenizer=str(tmp_path / "tok"), **options)
    assert data.tokenizer.get_vocab() == load_tokenizer(str(tmp_path / "tok"), tmp_path).get_vocab()


@pytest.mark.parametrize("packing", [True, False])
def test_validation_alone_is_the_validation_of_both(cache, tmp_path, packing):
    whole = prepare(cache, packing=packing)
    config = DataConfig(**{**SMALL, "packing": packing})
    alone = prepare_validation(config, whole.tokenizer, cache_dir=tmp_path, progress=False)
    assert alone.rows[:] == whole.validation[:]
    assert alone.num_tokens == whole.num_validation_tokens
    assert {path.name for path in tmp_path.rglob("train*")} == set()
    again = prepare_validation(config, whole.tokenizer, cache_dir=tmp_path, progress=False)
    assert (again.rows[:], again.fingerprint) == (alone.rows[:], alone.fingerprint)


def test_validation_alone_does_not_depend_on_what_only_training_reads(cache, corpus):
    tokenizer = prepare(cache).tokenizer
    other = corpus.with_name("train.txt")
    other.write_text("A fox.")

    def fingerprint(**options):
        config = DataConfig(**{**SMALL, "name": "text_files", "validation": str(corpus), **options})
        return prepare_validation(config, tokenizer, cache_dir=cache, progress=False).fingerprint

    before = fingerprint(train=str(corpus))
    assert fingerprint(train=str(other)) == before
    assert fingerprint(train=str(corpus), max_tokens=77, vocab_size=400) == before
    assert fingerprint(train=str(corpus), max_validation_tokens=500) != before
    corpus.write_text(corpus.read_text().replace("F7.", "F8."))
    assert fingerprint(train=str(other)) != before


def test_validation_alone_without_text_is_one_line(cache, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    config = DataConfig(name="text_files", train="empty.txt", validation="empty.txt")
    with pytest.raises(UserError, match="data.validation: no text in 'empty.txt'") as caught:
        prepare_validation(config, prepare(cache).tokenizer, cache_dir=cache, base_dir=tmp_path, progress=False)
    assert "\n" not in str(caught.value)


MISTAKES = {
    "corpus": (
        dict(name="tinystory"),
        "data: unknown name 'tinystory'.*did you mean 'tinystories'",
    ),
    "tokenizer folder": (dict(tokenizer="./nowhere"), "data.tokenizer: no folder .*nowhere"),
    "tokenizer id": (
        dict(tokenizer="no-such/tokenizer"),
        "data.tokenizer: cannot load 'no-such/tok",
    ),
    "no text": (dict(name="text_files", train="empty.txt"), "data.train: no text in 'empty.txt'"),
    "one document": (
        dict(name="text_files", train="one.txt"),
        "data.validation: no text in 'one.txt' held out of it .*give data.validation",
    ),
    "short": (
        dict(name="text_files", train="one.txt", validation="one.txt", block_size=512),
        "data.block_size: the train text of 'text_files' has .* fewer than one block of 512",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
@pytest.mark.parametrize("streaming", [False, True])
def test_mistakes_are_one_line(tmp_path, monkeypatch, case, streaming):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n<|endoftext|>\n")
    (tmp_path / "one.txt").write_text("A fox. " * 30)
    options, message = MISTAKES[case]
    if "tokenizer" in options:
        options = {**options, "vocab_size": None}
    with pytest.raises(UserError, match=message) as caught:
        prepare(tmp_path / "cache", streaming=streaming, **options)
    assert "\n" not in str(caught.value)


def test_a_class_of_your_own_is_a_corpus(cache, tmp_path, monkeypatch):
    (tmp_path / "my_corpus.py").write_text(
        "from hf_tti.data.base import StoryBuilder\n"
        "class Foxes(StoryBuilder):\n"
        "    def stories(self, split):\n"
        "        return (f'{split} fox number {i}.' for i in range(200))\n"
        "    def fingerprint(self, split):\n"
        "        return f'foxes {split}'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = prepare(cache, name="my_corpus:Foxes", max_validation_tokens=None)
    assert data.tokenizer.decode(data.validation[0]["input_ids"]).startswith("validation fox number 0.")


def test_real_stories_with_the_real_gpt2_tokenizer(real_data, tmp_path):
    folder = real_data / "tinystories"
    tokenizer = str(real_data / "gpt2-tokenizer")
    config = DataConfig(name="tinystories", train=str(folder), tokenizer=tokenizer)
    data = prepare_data(config, cache_dir=tmp_path, progress=False)
    assert len(data.tokenizer) == 50257
    texts = [json.loads(line)["text"].strip() for line in (folder / "train.jsonl").open()]
    decoded = data.tokenizer.decode(flat(data.train)).split("<|endoftext|>")
    assert decoded[:-1] == texts[: len(decoded) - 1]
    assert data.token_counts[data.tokenizer.eos_token_id] == len(decoded) - 1
    validation = [json.loads(line)["text"].strip() for line in (folder / "validation.jsonl").open()]
    joined = data.tokenizer.decode(flat(data.validation)).split("<|endoftext|>")
    assert joined == [*validation, ""]
