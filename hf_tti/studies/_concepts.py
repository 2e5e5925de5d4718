"""The bank of binary concepts that a program can read off a sample, for comparison with single units.

token     one of the frequent token types: `token=" the"`
spelling  leading_space, capitalised, digit, punctuation, quotation_mark, newline; word_continuation: no space since the
          last token's letter
place     position=0, 1-3, 4-15, ... in the document; sentence_start; in_quotes: a double quote is open after the token
next      one of the frequent types to come: `next=" the"`, and how the next token is spelled: next_capitalised
label     every class of every field of labels: pos=NOUN; all other tokens are without it
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_tti.studies.sample import Sample

_OPENING, _CLOSING, _STRAIGHT = "“«", "”»", '"'
_SENTENCE_ENDS = frozenset(".!?…\n")


@dataclass(frozen=True)
class ConceptBank:
    """K concepts of N tokens.

    Attributes:
        names: [K], one line each; text of tokens is quoted as JSON.
        holds: [N, K] bool.
    """

    names: tuple[str, ...]
    holds: np.ndarray

    @property
    def of_one_type(self) -> np.ndarray:
        """[K] bool: concepts that are a single type of token, of this place or of the next."""
        return np.array([name.startswith(('token="', 'next="')) for name in self.names], dtype=bool)

    @property
    def names_array(self) -> np.ndarray:
        """[bytes] uint8: the names as UTF-8, one a line. `bytes(array).decode().split("\\n")` reads them again."""
        return np.frombuffer("\n".join(self.names).encode("utf-8", errors="replace"), dtype=np.uint8)


def concept_bank(sample: Sample, *, num_types: int = 32, min_count: int = 20) -> ConceptBank:
    """The concepts of a sample that at least `min_count` tokens have, and as many lack, in each half of its documents.
    Of concepts that hold of the same tokens the first stays.

    Args:
        num_types: how many frequent types are concepts, as token and as next token; smaller id first among equals.
    """
    found: dict[bytes, tuple[str, np.ndarray]] = {}
    for name, column in _read(sample, num_types):
        column = column[sample.order]
        if _is_common(column, sample.for_scoring, min_count):
            found.setdefault(np.packbits(column).tobytes(), (name, column))
    columns = [column for _, column in found.values()]
    holds = np.stack(columns, axis=1) if columns else np.zeros((sample.num_tokens, 0), dtype=bool)
    return ConceptBank(tuple(name for name, _ in found.values()), holds)


def _is_common(column: np.ndarray, for_scoring: np.ndarray, min_count: int) -> bool:
    sizes = [column[half] for half in (for_scoring, ~for_scoring)]
    return all(min(half.sum(), len(half) - half.sum()) >= min_count for half in sizes)


def _read(sample: Sample, num_types: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and [N] bool of every concept, tokens in the order of `rows`."""
    ids = np.array([token for row in sample.rows for token in row[1:]], dtype=np.int64)
    texts = [[sample.texts[token] for token in row[1:]] for row in sample.rows]
    has_next = np.array([i + 1 < len(document) for document in texts for i in range(len(document))], dtype=bool)
    spelling = _spelling([text for document in texts for text in document])

    def of_next(column: np.ndarray) -> np.ndarray:
        return np.append(column[1:], False) & has_next

    frequent = _frequent(ids, num_types)
    for token in frequent:
        yield f"token={_quoted(sample.texts[token])}", ids == token
    yield from spelling.items()
    yield from _places(texts).items()
    for token in frequent:
        yield f"next={_quoted(sample.texts[token])}", of_next(ids == token)
    for name, column in spelling.items():
        yield f"next_{name}", of_next(column)
    for field, labels in sorted(sample.labels.items()):
        for code, name in enumerate(labels.names):
            yield f"{field}={_quoted(name)[1:-1]}", labels.codes == code


def _frequent(ids: np.ndarray, num_types: int) -> list[int]:
    types, counts = np.unique(ids, return_counts=True)
    return types[np.argsort(-counts, kind="stable")[:num_types]].tolist()


def _spelling(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """[N] bool by name: what a token's own text tells."""
    words = [text.strip() for text in texts]
    columns = {
        "leading_space": [text[:1] == " " for text in texts],
        "capitalised": [word[:1].isupper() for word in words],
        "digit": [any(map(str.isdigit, word)) for word in words],
        "punctuation": [bool(word) and not any(map(str.isalnum, word)) for word in words],
        "quotation_mark": [any(mark in word for mark in _STRAIGHT + _OPENING + _CLOSING) for word in words],
        "newline": ["\n" in text for text in texts],
    }
    return {name: np.array(column, dtype=bool) for name, column in columns.items()}


def _places(texts: Sequence[Sequence[str]]) -> Mapping[str, np.ndarray]:
    """[N] bool by name: where in its word, sentence, quotation and document a token stands."""
    position = np.array([i for document in texts for i in range(len(document))], dtype=np.int64)
    columns = {"position=0": position == 0}
    low = 1
    while len(position) and low <= position.max():
        columns[f"position={low}-{4 * low - 1}"] = (low <= position) & (position < 4 * low)
        low *= 4
    for name, scan in (
        ("word_continuation", _word_continuations),
        ("sentence_start", _sentence_starts),
        ("in_quotes", _in_quotes),
    ):
        columns[name] = np.array([value for document in texts for value in scan(document)], dtype=bool)
    return columns


def _word_continuations(document: Sequence[str]) -> Iterator[bool]:
    before = " "
    for text in document:
        yield before[-1:].isalnum() and text[:1].isalnum()
        before = text


def _sentence_starts(document: Sequence[str]) -> Iterator[bool]:
    """First words after the start, a full stop or a new line, unless in lower case: `"Oh!" she said` goes on."""
    awaited = True
    for text in document:
        first = next(filter(str.isalnum, text), "")
        yield awaited and bool(first) and not first.islower()
        ended = not _SENTENCE_ENDS.isdisjoint(text[_last_word(text) :])
        awaited = ended or (awaited and not first)


def _last_word(text: str) -> int:
    """Where what follows a token's last letter or digit begins."""
    return max((i + 1 for i, character in enumerate(text) if character.isalnum()), default=0)


def _in_quotes(document: Sequence[str]) -> Iterator[bool]:
    """A paragraph's end closes what was left open, so that one missing mark does not turn the rest around."""
    is_open = False
    for text in document:
        for character in text:
            if character == _STRAIGHT:
                is_open = not is_open
            elif character in _OPENING + _CLOSING + "\n":
                is_open = character in _OPENING
        yield is_open


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
