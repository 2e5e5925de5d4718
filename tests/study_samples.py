"""Small samples for tests of studies, and a subject whose activations are given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from hf_tti.sites import Hookpoint
from hf_tti.studies.sample import Labels, Sample
from tiny import VOCAB

_MARKS = {0: "<|endoftext|>", 1: ".", 2: ",", 3: ' "', 4: '"', 5: "\n\n", 6: "!"}
TEXTS = {
    **_MARKS,
    **{i: (" Tom", " Lily", " saw", " the", "est", " 7", " cat")[i % 7] + "a" * (i // 7) for i in range(7, VOCAB)},
}


def tiny_sample(documents: int = 24, *, longest: int = 30, seed: int = 0, labelled: bool = True) -> Sample:
    """Documents of 2 to `longest` tokens; `pos` is a function of the token, `mood` of the document; some have none."""
    draw = np.random.RandomState(seed)
    zipf = 1 / np.arange(1, VOCAB)
    rows = [
        [0, *draw.choice(np.arange(1, VOCAB), size=draw.randint(2, longest + 1), p=zipf / zipf.sum()).tolist()]
        for _ in range(documents)
    ]
    tokens = [(token, document) for document, row in enumerate(rows) for token in row[1:]]
    labels = {
        "pos": Labels.of([None if token % 5 == 4 else ("NOUN", "VERB", "DET", ".")[token % 5] for token, _ in tokens]),
        "mood": Labels.of([("glad", "sad")[document // 2 % 2] if token % 3 else None for token, document in tokens]),
    }
    return Sample(rows, TEXTS, VOCAB, labels if labelled else {}, "made up" if labelled else None)


class GivenSubject:
    """Stands where a study wants a Subject: its activations were made by hand.

    Args:
        layers: site -> one [N, D] array a layer.
    """

    def __init__(self, layers: Mapping[str, list[np.ndarray]]):
        self._layers = layers

    def hookpoints(self, sites):
        return [
            Hookpoint(site, f"h.{i}.{site}", i, rows.shape[1])
            for site in sites
            for i, rows in enumerate(self._layers[site])
        ]

    def activations(self, sample, point):
        rows = self._layers[point.site][point.layer]
        assert len(rows) == sample.num_tokens
        return torch.as_tensor(np.asarray(rows, dtype=np.float32))
