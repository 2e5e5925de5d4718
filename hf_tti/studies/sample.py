"""The tokens that studies look at: whole documents, one a row, with labels where somebody gave them.

Every document follows an end-of-text token, as in training; that token is context and not part of the sample. Documents
are numbered from 0; even ones are for fitting and choosing, odd ones for scoring, so that no split cuts a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -1


@dataclass(frozen=True)
class Labels:
    """One field of labels, such as `pos`.

    Attributes:
        names: of the classes, sorted.
        codes: [N] int64, index into `names`; -1 where a token has none.
    """

    names: tuple[str, ...]
    codes: np.ndarray

    @classmethod
    def of(cls, values: Sequence[str | None]) -> Labels:
        """From one label a token."""
        names = tuple(sorted({value for value in values if value is not None}))
        index = {name: code for code, name in enumerate(names)}
        return cls(names, np.array([NO_LABEL if value is None else index[value] for value in values], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class Sample:
    """N tokens of whole documents.

    Attributes:
        rows: the documents as the model reads them: end-of-text, then their ids.
        texts: token id -> text, for every id in `rows`.
        labels: field -> Labels.
        source: where labels came from: `synthetic_stories`, a file, `spacy`, `nltk`; None without labels.
        vocab_size: of the tokenizer.
    """

    rows: Sequence[Sequence[int]]
    texts: Mapping[int, str]
    vocab_size: int
    labels: Mapping[str, Labels] = field(default_factory=dict)
    source: str | None = None

    def __post_init__(self):
        for name, labels in self.labels.items():
            assert len(labels.codes) == self.num_tokens, (name, len(labels.codes), self.num_tokens)

    @cached_property
    def num_tokens(self) -> int:
        """N."""
        return sum(len(row) - 1 for row in self.rows)

    @cached_property
    def order(self) -> np.ndarray:
        """[N] int64: which token of `rows`, counted from 0, lends each place its id, its next id, its position and
        whatever else is read from the text; every place its own, unless labels are shuffled.
        """
        return np.arange(self.num_tokens)

    @cached_property
    def token_ids(self) -> np.ndarray:
        """[N] int64."""
        return self._joined(row[1:] for row in self.rows)[self.order]

    @cached_property
    def next_ids(self) -> np.ndarray:
        """[N] int64: the token that follows in the document, -1 for its last."""
        return self._joined([*row[2:], -1][: len(row) - 1] for row in self.rows)[self.order]

    @cached_property
    def documents(self) -> np.ndarray:
        """[N] int64: the number of each token's document."""
        return self._joined(np.full(len(row) - 1, number) for number, row in enumerate(self.rows))

    @cached_property
    def positions(self) -> np.ndarray:
        """[N] int64: place in the document, from 0."""
        return self._joined(np.arange(len(row) - 1) for row in self.rows)[self.order]

    @cached_property
    def for_scoring(self) -> np.ndarray:
        """[N] bool: tokens of odd documents."""
        return self.documents % 2 == 1

    @cached_property
    def fingerprint(self) -> str:
        """Hex sha256 of tokens and labels."""
        digest = hashlib.sha256(self.token_ids.tobytes() + self.documents.tobytes())
        for name in sorted(self.labels):
            digest.update(f"{name}{self.labels[name].names}".encode() + self.labels[name].codes.tobytes())
        return digest.hexdigest()

    def batches(self, max_tokens: int = 4096) -> Iterator[dict[str, Tensor]]:
        """`input_ids` and `attention_mask` [B, T], padded on the right, in order; at most so many places a batch."""
        batch: list[Sequence[int]] = []
        for row in self.rows:
            if batch and (len(batch) + 1) * max(len(row), *map(len, batch)) > max_tokens:
                yield _padded(batch)
                batch = []
            batch.append(row)
        if batch:
            yield _padded(batch)

    def with_shuffled_labels(self, seed: int = 0) -> Sample:
        """The same tokens with each field's labels permuted over the labelled tokens of each half, so that chance is
        all that is left to find; what is read from tokens themselves (`order`) is permuted over all tokens of a half.
        """
        generator = np.random.default_rng(seed)
        order = self.order.copy()
        for half in (self.for_scoring, ~self.for_scoring):
            places = np.flatnonzero(half)
            order[places] = order[generator.permutation(places)]
        labels = {name: _permuted(labels, self.for_scoring, generator) for name, labels in self.labels.items()}
        shuffled = replace(self, labels=labels)
        shuffled.__dict__["order"] = order  # where cached_property looks first
        return shuffled

    @staticmethod
    def _joined(documents: Iterable[Sequence[int] | np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(d, dtype=np.int64) for d in documents)])


def _permuted(labels: Labels, for_scoring: np.ndarray, generator: np.random.Generator) -> Labels:
    codes = labels.codes.copy()
    for half in (for_scoring, ~for_scoring):
        places = np.flatnonzero(half & (codes != NO_LABEL))
        codes[places] = codes[generator.permutation(places)]
    return Labels(labels.names, codes)


def _padded(rows: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    length = max(map(len, rows))
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.as_tensor(row)
        mask[i, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
