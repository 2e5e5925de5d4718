"""Labels of tokens against a look-up by brute force, for three kinds of tokenizer and every source of labels."""

import json
import sys
import time
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_tti.data import DataConfig
from hf_tti.data._tokenizers import train_tokenizer
from hf_tti.data.synthetic_stories import LABELS, generate_stories, token_labels
from hf_tti.errors import UserError
from hf_tti.labels import build_sample, words_of_tokens

STORIES = [story.text for story in islice(generate_stories(0), 60)]


def byte_level(trim_offsets: bool) -> PreTrainedTokenizerFast:
    """Spaces lead tokens; with trimmed offsets (RoBERTa's) they are not inside them."""
    tokenizer = train_tokenizer(STORIES, 400)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return tokenizer


def metaspace() -> PreTrainedTokenizerFast:
    """As SentencePiece's: a space is put before the text as well."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(STORIES, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "</s>"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


KINDS = {"byte_level": lambda: byte_level(False), "trimmed": lambda: byte_level(True), "metaspace": metaspace}


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def plain():
    return byte_level(False)


def offsets_of(tokenizer, text: str):
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]


def by_brute_force(text, spans, offsets):
    """For each token its first non-blank character, and the word that holds it."""
    owner = {place: i for i, (start, end) in enumerate(spans) for place in range(start, end)}
    first = [next((place for place in range(a, b) if not text[place].isspace()), None) for a, b in offsets]
    return [owner.get(place) for place in first]


def column(sample, field: str) -> list[str | None]:
    labels = sample.labels[field]
    return [None if code < 0 else labels.names[code] for code in labels.codes]


def write_lines(path: Path, *lines) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


DOCUMENTS = [
    {"words": ["The", "ca", "t", "é😀", "New York", "."], "pos": ["DET", "X", None, "X", "NOUN", "."]},
    {"words": ["Unbelievable", "things", "!"], "pos": ["ADJ", "NOUN", "."], "id": "b", "length": 3},
]


def test_every_token_has_the_label_of_brute_force(tokenizer, tmp_path):
    path = write_lines(tmp_path / "a.jsonl", *DOCUMENTS)
    sample = build_sample(tokenizer, data=DataConfig(), labels=str(path))
    expected = []
    for document in DOCUMENTS:
        text = " ".join(document["words"])
        starts = [len(" ".join(document["words"][:i])) + (i > 0) for i in range(len(document["words"]))]
        spans = [(start, start + len(word)) for start, word in zip(starts, document["words"], strict=True)]
        words = by_brute_force(text, spans, offsets_of(tokenizer, text))
        expected += [None if word is None else document["pos"][word] for word in words]
    assert column(sample, "pos") == expected
    assert sample.num_tokens == len(expected) > 15 and sample.source == str(path)
    assert set(sample.labels) == {"pos"}


def test_stories_bring_gold_labels(tokenizer):
    sample = build_sample(tokenizer, data=DataConfig(seed=3), max_tokens=4000, max_length=10_000)
    expected = {name: [] for name in LABELS}
    for story in islice(generate_stories(3, "validation"), len(sample.rows)):
        offsets = offsets_of(tokenizer, story.text)
        for name, labels in token_labels(story, offsets).items():
            if name in expected:
                expected[name] += labels
        spans = [(word.start, word.end) for word in story.words]
        assert words_of_tokens(story.text, spans, offsets) == by_brute_force(story.text, spans, offsets)
    assert {name: column(sample, name) for name in sample.labels} == expected
    assert sample.source == "synthetic_stories" and len(sample.rows) > 5


def test_rows_are_end_of_text_and_the_ids_of_training(plain):
    sample = build_sample(plain, data=DataConfig(), max_tokens=3000, max_length=10_000)
    stories = islice(generate_stories(0, "validation"), len(sample.rows))
    assert sample.rows == [[0, *plain(story.text, add_special_tokens=False)["input_ids"]] for story in stories]
    assert set(sample.texts) == {token for row in sample.rows for token in row}
    assert "".join(sample.texts[token] for token in sample.rows[1][1:]) == plain.decode(sample.rows[1][1:])
    assert sample.vocab_size == len(plain)


@pytest.mark.parametrize(("max_tokens", "max_length"), [(500, 512), (2000, 64), (2000, 512)])
def test_documents_are_whole_up_to_the_length_and_fill_the_room(plain, max_tokens, max_length):
    sample = build_sample(plain, data=DataConfig(), max_tokens=max_tokens, max_length=max_length)
    lengths = [
        min(len(plain(story.text, add_special_tokens=False)["input_ids"]), max_length - 1)
        for story in islice(generate_stories(0, "validation"), len(sample.rows) + 1)
    ]
    assert [len(row) - 1 for row in sample.rows] == lengths[:-1]
    assert sum(lengths[:-1]) == sample.num_tokens <= max_tokens < sum(lengths)


def test_other_corpora_have_texts_and_no_labels(plain, tmp_path):
    texts = ["One day.", "Two days.", "   ", "Three days and a night."]
    path = write_lines(tmp_path / "validation.jsonl", *[{"text": text} for text in texts])
    config = DataConfig(name="text_files", train=path.name, validation=path.name)
    sample = build_sample(plain, data=config, base_dir=tmp_path)
    assert [plain.decode(row[1:]) for row in sample.rows] == [text for text in texts if text.strip()]
    assert sample.labels == {} and sample.source is None


def test_alignment_takes_linear_time():
    words = 200_000
    spans = [(3 * i, 3 * i + 2) for i in range(words)]
    text = "ab " * words
    started = time.process_time()
    assert words_of_tokens(text, spans, [(max(0, 3 * i - 1), 3 * i + 2) for i in range(words)]) == list(range(words))
    assert time.process_time() - started < 5  # a look-up that starts over would take hours


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"words": ["a", "b"], "pos": ["X"]}, "1 labels in 'pos' for 2 words"),
        ({"words": ["a"]}, "no list of labels beside 'words'"),
        ({"words": ["a"], "tag": ["X"]}, r"fields \['tag'\] differ from \['pos'\]"),
        ({"words": ["a", " "], "pos": ["X", "X"]}, r"words\[1\] is ' '"),
        ({"words": ["a"], "pos": [1.5]}, r"pos\[0\] is 1.5"),
        ({"text": "a", "labels": ["X"]}, "an object such as"),
        ("[1, 2]", "an object such as"),
        ('{"words": ', "not JSON"),
    ],
)
def test_a_damaged_line_is_named(plain, tmp_path, line, message):
    path = write_lines(tmp_path / "a.jsonl", {"words": ["a"], "pos": ["DET"]}, line)
    with pytest.raises(UserError, match=f"a.jsonl:2: .*{message}") as error:
        build_sample(plain, data=DataConfig(), labels=path.name, base_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_are_named(plain, tmp_path):
    write_lines(tmp_path / "brown.jsonl", "")
    (tmp_path / "latin.jsonl").write_bytes(b'{"words": ["\xe9"]}\n')
    for labels, message in [
        ("brwn.jsonl", "did you mean 'brown.jsonl'"),
        ("spcy", "did you mean 'spacy'"),
        ("latin.jsonl", "not UTF-8"),
        ("brown.jsonl", "no whole document of at most 16384 tokens in brown.jsonl"),
    ]:
        with pytest.raises(UserError, match=message):
            build_sample(plain, data=DataConfig(), labels=labels, base_dir=tmp_path)


def test_a_tokenizer_without_offsets_or_end_is_refused(plain, monkeypatch):
    class Slow:
        eos_token_id, is_fast = 0, False

    with pytest.raises(UserError, match="Slow gives no offsets"):
        build_sample(Slow(), data=DataConfig())
    with pytest.raises(UserError, match="no end-of-text"):
        build_sample(SimpleNamespace(eos_token_id=None), data=DataConfig())


def fake_spacy(tags: dict[str, str], installed: tuple[str, ...] = ("en_core_web_sm", "de_x")) -> ModuleType:
    """The part of spaCy's interface that is used, splitting at single spaces."""
    module, read = ModuleType("spacy"), []

    def load(name, *, exclude=()):
        if name not in installed:
            raise OSError(f"[E050] Can't find model '{name}'. It doesn't seem to be a Python package.\nMore.")

        def pipeline(text):
            read.append(text)
            words, start = [], 0
            for word in text.split(" "):
                words.append(SimpleNamespace(idx=start, text=word, pos_=tags.get(word, "X" if tags else "")))
                start += len(word) + 1
            return words

        return pipeline

    module.load, module.read = load, read
    return module


def test_spacy_tags_what_the_rows_hold(plain, monkeypatch):
    spacy = fake_spacy({"a": "DET", "was": "AUX"})
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    sample = build_sample(plain, data=DataConfig(), labels="spacy", max_tokens=2000, max_length=40)
    stories = islice(generate_stories(0, "validation"), len(sample.rows))
    expected = []
    for story, seen in zip(stories, spacy.read, strict=False):
        offsets = offsets_of(plain, story.text)[:39]
        assert seen == story.text[: offsets[-1][1]]
        starts = np.cumsum([0, *[len(word) + 1 for word in seen.split(" ")]])
        spans = [(a, a + len(word)) for a, word in zip(starts, seen.split(" "), strict=False)]
        words = by_brute_force(seen, spans, offsets)
        tags = {"a": "DET", "was": "AUX"}
        expected += [None if w is None else tags.get(seen[slice(*spans[w])], "X") for w in words]
    assert column(sample, "pos") == expected
    assert sample.source == "spacy:en_core_web_sm" and sample.labels["pos"].names == ("AUX", "DET", "X")


def test_spacy_that_cannot_help_says_what_would(plain, monkeypatch):
    def complaint(labels):
        with pytest.raises(UserError) as error:
            build_sample(plain, data=DataConfig(), labels=labels)
        assert "\n" not in str(error.value)
        return str(error.value)

    monkeypatch.setitem(sys.modules, "spacy", None)
    assert complaint("spacy").endswith("pip install spacy && python -m spacy download en_core_web_sm")
    monkeypatch.setitem(sys.modules, "spacy", fake_spacy({}))  # a pipeline without a tagger
    assert complaint("spacy:fr_x").endswith("python -m spacy download fr_x") and "[E050]" in complaint("spacy:fr_x")
    assert "'de_x' gives no part-of-speech tags" in complaint("spacy:de_x")


def fake_nltk(missing: str | None = None) -> dict[str, ModuleType]:
    """The part of NLTK's interface that is used: sentences end at '.', words at spaces."""
    nltk, tokenize = ModuleType("nltk"), ModuleType("nltk.tokenize")

    def spans(text, mark):
        start = 0
        for piece in text.split(mark):
            if piece:
                yield start, start + len(piece)
            start += len(piece) + 1

    def pos_tag_sents(sentences, tagset=None):
        if missing:
            raise LookupError(f"\n*****\n  Resource '{missing}' not found.\n  >>> nltk.download('{missing}')\n*****")
        assert tagset == "universal"
        return [[(word, f"{len(sentence)}:{word}") for word in sentence] for sentence in sentences]

    nltk.pos_tag_sents = pos_tag_sents
    nltk.pos_tag = lambda words, tagset=None: pos_tag_sents([words], tagset)[0]
    tokenize.PunktTokenizer = lambda: SimpleNamespace(span_tokenize=lambda text: spans(text, "."))
    tokenize.NLTKWordTokenizer = lambda: SimpleNamespace(span_tokenize=lambda text: spans(text, " "))
    nltk.tokenize = tokenize
    return {"nltk": nltk, "nltk.tokenize": tokenize}


def test_nltk_tags_sentence_by_sentence(plain, monkeypatch, tmp_path):
    for name, module in fake_nltk().items():
        monkeypatch.setitem(sys.modules, name, module)
    path = write_lines(tmp_path / "v.jsonl", {"text": "A cat saw. It ran"})
    config = DataConfig(name="text_files", train=str(path), validation=str(path))
    sample = build_sample(plain, data=config, labels="nltk")
    tags = {word: f"3:{word}" for word in ("A", "cat", "saw")} | {word: f"2:{word}" for word in ("It", "ran")}
    text, offsets = "A cat saw. It ran", offsets_of(plain, "A cat saw. It ran")
    spans = [(0, 1), (2, 5), (6, 9), (11, 13), (14, 17)]
    words = by_brute_force(text, spans, offsets)
    assert column(sample, "pos") == [None if w is None else tags[text[slice(*spans[w])]] for w in words]
    assert sample.source == "nltk" and None in column(sample, "pos")


def test_nltk_that_cannot_help_says_what_would(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(UserError, match="pip install nltk && python -m nltk.downloader punkt_tab"):
        build_sample(plain, data=DataConfig(), labels="nltk")
    for name, module in fake_nltk(missing="universal_tagset").items():
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(UserError, match="lacks its data universal_tagset: python -m nltk.downloader") as error:
        build_sample(plain, data=DataConfig(), labels="nltk")
    assert "\n" not in str(error.value)


def test_brown_fiction_is_read_within_seconds(real_data):
    path = real_data / "pos" / "brown_fiction.validation.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(real_data / "gpt2-tokenizer")
    started = time.process_time()
    sample = build_sample(tokenizer, data=DataConfig(), labels=str(path))
    assert time.process_time() - started < 10
    assert len(sample.rows) == 23 and max(map(len, sample.rows)) == 512
    assert len(sample.labels["pos"].names) == 12 and (sample.labels["pos"].codes >= 0).mean() > 0.99
    first = json.loads(path.read_text().splitlines()[0])
    assert column(sample, "pos")[0] == first["pos"][0]
    assert {sample.texts[i].strip().lower() for i, p in zip(sample.token_ids, column(sample, "pos"), strict=True)
            if p == "DET"} > {"the", "a", "this"}  # fmt: skip
