"""The sample that studies look at: documents as token ids, with the labels of words carried over to tokens.

A token takes the label of the word in which its first non-blank character lies; white space alone has none. Labels are
those that generated stories come with (gold), those of a JSONL file of `{"words": [...], "pos": [...]}` a document, or
part-of-speech tags of spaCy (UPOS, universaldependencies.org/u/pos) or NLTK (Petrov et al. 2012, arXiv:1104.2086),
whose mistakes then count as truth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from hf_tti.components import load_component
from hf_tti.data import DataConfig
from hf_tti.data.synthetic_stories import LABELS, generate_stories
from hf_tti.errors import UserError, did_you_mean
from hf_tti.redaction import masked_forms
from hf_tti.studies.sample import Labels, Sample

SPACY_MODEL = "en_core_web_sm"
NLTK_DATA = ("punkt_tab", "averaged_perceptron_tagger_eng", "universal_tagset")
WORDS = "words"


class Annotated(NamedTuple):
    """A text and its words.

    spans: (start, end) of each word in the text, in order, without overlap.
    labels: field -> a label for each word, None where it has none.
    """

    text: str
    spans: Sequence[tuple[int, int]]
    labels: Mapping[str, Sequence[str | None]]


def build_sample(
    tokenizer: PreTrainedTokenizerBase,
    *,
    data: DataConfig,
    labels: str | None = None,
    max_tokens: int = 16_384,
    max_length: int = 512,
    base_dir: Path | None = None,
) -> Sample:
    """The first documents, whole, that together have at most `max_tokens` tokens.

    Args:
        tokenizer: fast, unless there are no labels to carry over.
        data: the corpus whose validation texts are read; `synthetic_stories` bring gold labels of their own.
        labels: None for those; `spacy`, `spacy:MODEL` or `nltk` to tag the validation texts; or a JSONL file, whose
            documents then take the place of the corpus.
        max_tokens: of the sample, end-of-text tokens apart.
        max_length: longest row, its end-of-text token included; a longer document is cut off there.
        base_dir: where relative paths start; default the current directory.

    Raises:
        UserError: a tagger or its model that is not installed, a damaged file (file:line), no text, a tokenizer without
            offsets or end-of-text token.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("tokenizer: no end-of-text (eos) token to put before documents")
    documents, tag, source = _source(labels, data, Path.cwd() if base_dir is None else Path(base_dir))
    if source is not None and not tokenizer.is_fast:
        raise UserError(f"tokenizer: {type(tokenizer).__name__} gives no offsets; labels need a fast tokenizer")
    rows: list[list[int]] = []
    columns: dict[str, list[str | None]] = {}
    room = max_tokens
    for document in documents:
        ids, offsets = _encode(tokenizer, document.text, max_length - 1, with_offsets=source is not None)
        if len(ids) > room:
            break
        if not ids:
            continue
        if tag is not None:
            document = tag(document.text[: offsets[-1][1]])
        words = words_of_tokens(document.text, document.spans, offsets)
        for name, values in document.labels.items():
            columns.setdefault(name, []).extend(None if word is None else values[word] for word in words)
        rows.append([tokenizer.eos_token_id, *ids])
        room -= len(ids)
    if not rows:
        raise UserError(f"labels: no whole document of at most {max_tokens} tokens in {source or data.name}")
    return Sample(
        rows=rows,
        texts={token: tokenizer.decode([token]) for token in sorted(set().union(*rows))},
        vocab_size=len(tokenizer),
        labels={name: Labels.of(column) for name, column in columns.items() if any(column)},
        source=source,
    )


def words_of_tokens(
    text: str, spans: Sequence[tuple[int, int]], offsets: Iterable[tuple[int, int]]
) -> list[int | None]:
    """The index of each token's word, None for tokens in no word. Linear in words and tokens.

    Args:
        spans: (start, end) of the words, in order, without overlap.
        offsets: (start, end) of the tokens, by rising start. A token may start with white space, as GPT-2's do.
    """
    word, found = 0, []
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        while word < len(spans) and spans[word][1] <= start:
            word += 1
        inside = start < end and word < len(spans) and spans[word][0] <= start
        found.append(word if inside else None)
    return found


def _source(
    labels: str | None, data: DataConfig, base_dir: Path
) -> tuple[Iterator[Annotated], Callable[[str], Annotated] | None, str | None]:
    """The documents, what tags them where they bring no labels, and a name for where labels come from."""
    if labels is None and data.name == "synthetic_stories":
        return _gold_stories(data.seed), None, data.name
    name, _, model = (labels or "").partition(":")
    tag: Callable[[str], Annotated] | None = None
    if name == "spacy":
        labels = f"spacy:{model or SPACY_MODEL}"
        tag = _spacy_tagger(model or SPACY_MODEL)
    elif labels == "nltk":
        tag = _nltk_tagger()
    elif labels is not None:
        return _labelled_file(base_dir / labels, labels), None, labels
    texts = load_component("data", data.name)(data, base_dir).stories("validation")
    return (Annotated(text, (), {}) for text in texts), tag, labels


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, max_length: int, *, with_offsets: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=with_offsets,
        return_attention_mask=False,
        verbose=False,
    )
    return encoded["input_ids"][:max_length], encoded["offset_mapping"][:max_length] if with_offsets else []


def _gold_stories(seed: int) -> Iterator[Annotated]:
    for story in generate_stories(seed, "validation"):
        spans = [(word.start, word.end) for word in story.words]
        yield Annotated(story.text, spans, {name: [getattr(word, name) for word in story.words] for name in LABELS})


def _labelled_file(path: Path, given: str) -> Iterator[Annotated]:
    """The documents of a file, words joined by single spaces."""
    if not path.is_file():
        choices = ["spacy", "nltk", *(p.name for p in path.parent.glob("*.jsonl"))]
        raise UserError(
            f"labels: no file {str(path)!r}{did_you_mean(Path(given).name, choices)}; "
            "choices: spacy, spacy:MODEL, nltk or a JSONL file"
        )
    return _read_labelled(path)


def _read_labelled(path: Path) -> Iterator[Annotated]:
    names: list[str] | None = None
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                words, labels = _read_line(line, f"{path}:{number}")
                if names is not None and sorted(labels) != names:
                    raise UserError(f"{path}:{number}: fields {sorted(labels)} differ from {names} above")
                names = sorted(labels)
                ends = accumulate(words, lambda end, word: end + 1 + len(word), initial=-1)
                spans = [(end + 1, end + 1 + len(word)) for end, word in zip(ends, words, strict=False)]
                yield Annotated(" ".join(words), spans, labels)
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _read_line(line: str, where: str) -> tuple[list[str], dict[str, list[str | None]]]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, too deep
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(WORDS), list):
        raise UserError(f'{where}: an object such as {{"words": ["The", "cat"], "pos": ["DET", "NOUN"]}} is wanted')
    words = row.pop(WORDS)
    for place, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            raise UserError(f"{where}: words[{place}] is {word!r}, not a word")
    words = [masked_forms(word) for word in words]
    labels = {name: values for name, values in row.items() if isinstance(values, list)}  # others speak of the document
    if not labels:
        raise UserError(f"{where}: no list of labels beside {WORDS!r}; keys there: {', '.join(row) or 'none'}")
    for name, values in labels.items():
        if len(values) != len(words):
            raise UserError(f"{where}: {len(values)} labels in {name!r} for {len(words)} words")
        labels[name] = [_label(value, f"{where}: {name}[{place}]") for place, value in enumerate(values)]
    return words, labels


def _label(value: Any, where: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if isinstance(value, int):
        return str(value)
    raise UserError(f"{where} is {value!r}; a label is a text, an integer, or null for none")


def _spacy_tagger(model: str) -> Callable[[str], Annotated]:
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"labels: spacy is not installed: pip install spacy && {_spacy_download(model)}") from error
    try:
        pipeline = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
    except OSError as error:
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"labels: spacy cannot load {model!r}: {reason[:200].rstrip('.')}; {_spacy_download(model)}"
        ) from error

    def tag(text: str) -> Annotated:
        words = pipeline(text)
        tags = [word.pos_ or None for word in words]
        if words and not any(tags):
            raise UserError(f"labels: the spacy model {model!r} gives no part-of-speech tags; try {SPACY_MODEL!r}")
        return Annotated(text, [(word.idx, word.idx + len(word.text)) for word in words], {"pos": tags})

    return tag


def _spacy_download(model: str) -> str:
    return f"python -m spacy download {model}"


def _nltk_tagger() -> Callable[[str], Annotated]:
    install = f"python -m nltk.downloader {' '.join(NLTK_DATA)}"
    try:
        import nltk
        from nltk.tokenize import NLTKWordTokenizer, PunktTokenizer
    except ImportError as error:
        raise UserError(f"labels: nltk 3.9 or later is not installed: pip install nltk && {install}") from error
    try:
        sentences, words = PunktTokenizer(), NLTKWordTokenizer()
        nltk.pos_tag(["word"], tagset="universal")
    except LookupError as error:  # many lines, with a frame of asterisks
        missing = re.search(r"download\('(\w+)'\)", str(error))
        raise UserError(f"labels: nltk lacks its data {missing[1] if missing else NLTK_DATA}: {install}") from error

    def tag(text: str) -> Annotated:
        spans = [
            [(start + first, start + last) for first, last in words.span_tokenize(text[start:end])]
            for start, end in sentences.span_tokenize(text)
        ]
        tagged = nltk.pos_tag_sents([[text[a:b] for a, b in sentence] for sentence in spans], tagset="universal")
        return Annotated(text, list(chain(*spans)), {"pos": [tag for _, tag in chain(*tagged)]})

    return tag
