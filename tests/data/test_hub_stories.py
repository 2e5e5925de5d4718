"""Hub corpora, loaded by the real client from folders that stand for the Hub's repositories."""

import json

import pytest

from hf_tti.data import DataConfig
from hf_tti.data.simplestories import SimpleStories
from hf_tti.data.tinystories import TinyStories
from hf_tti.errors import UserError

STORIES = {name: [f"A {name} story about {i} owls." for i in range(30)] for name in ("train", "held")}
CORPORA = {
    TinyStories: ("validation", "text", "tinystories"),
    SimpleStories: ("test", "story", "simplestories"),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))


@pytest.fixture
def repository(request, tmp_path, monkeypatch):
    """A folder with the layout of the corpus's repository, put in place of its Hub id."""
    corpus = request.param
    held, column, _ = CORPORA[corpus]
    folder = tmp_path / "repository"
    folder.mkdir()
    for split, name in (("train", "train"), (held, "held")):
        rows = [{column: text, "n": i} for i, text in enumerate(STORIES[name])]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines)
    monkeypatch.setattr(corpus, "hub_id", str(folder))
    return corpus, folder


both = pytest.mark.parametrize("repository", CORPORA, indirect=True)


@both
@pytest.mark.parametrize("streaming", [False, True])
def test_both_splits_come_in_order(repository, tmp_path, streaming):
    corpus, _ = repository
    builder = corpus(DataConfig(name=CORPORA[corpus][2], streaming=streaming), tmp_path)
    assert list(builder.stories("train")) == STORIES["train"]
    assert list(builder.stories("validation")) == STORIES["held"]


@both
def test_a_local_copy_reads_the_same(repository, tmp_path):
    corpus, folder = repository
    builder = corpus(DataConfig(name=CORPORA[corpus][2], train=folder.name), folder.parent)
    assert builder.local is not None
    assert list(builder.stories("train")) == STORIES["train"]
    assert list(builder.stories("validation")) == STORIES["held"]


@both
def test_the_fingerprint_names_the_revision(repository, tmp_path):
    corpus, folder = repository
    config = DataConfig(name=CORPORA[corpus][2])
    before = corpus(config, tmp_path)
    assert before.fingerprint("train") == corpus(config, tmp_path).fingerprint("train")
    assert before.fingerprint("train") != before.fingerprint("validation")
    path = folder / "train.jsonl"
    path.write_text(path.read_text() + path.read_text())
    assert corpus(config, tmp_path).fingerprint("train") != before.fingerprint("train")


@both
def test_a_missing_column_lists_the_columns(repository, tmp_path):
    corpus, _ = repository
    builder = corpus(DataConfig(name=CORPORA[corpus][2], text_field="body"), tmp_path)
    with pytest.raises(UserError, match=f"no column 'body'; columns there: {CORPORA[corpus][1]}, n"):
        list(builder.stories("train"))


@pytest.mark.parametrize("streaming", [False, True])
def test_an_unreachable_hub_is_one_line_with_a_way_out(tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(TinyStories, "hub_id", "no-such-owner/no-such-corpus")
    builder = TinyStories(DataConfig(name="tinystories", streaming=streaming), tmp_path)
    with pytest.raises(UserError, match="cannot load 'no-such-owner/no-such-corpus'.*data.train") as caught:
        builder.fingerprint("train")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="split 'validation'"):
        list(builder.stories("validation"))


def test_validation_without_a_local_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="data.validation: 'val.jsonl' goes with a local data.train"):
        TinyStories(DataConfig(name="tinystories", validation="val.jsonl"), tmp_path)
