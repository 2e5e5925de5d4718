"""What a splice does, against the same forward done by hand."""

import math

import pytest
import torch
from torch.nn.functional import kl_div

from hf_tti.studies._splicing import Splice, effects
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Subject
from tiny import VOCAB, rows, tiny_model

SITES = ("resid",)


def sample(count=6, *, ragged=True) -> Sample:
    documents = [[0, *row["input_ids"]] for row in rows(count, 12, ragged=ragged)]
    return Sample(rows=documents, texts={}, vocab_size=VOCAB)


@pytest.fixture
def subject() -> Subject:
    return Subject(tiny_model(initializer_range=0.3), SITES)


def test_the_activations_themselves_change_nothing(subject):
    points = subject.hookpoints(SITES)
    found = effects(subject, sample(), {p.path: Splice(p.path, lambda x: x) for p in points})
    assert [(effect.delta_ce, effect.kl) for effect in found.values()] == [(0.0, 0.0)] * len(points)


def test_zero_is_what_zeroing_by_hand_gives(subject):
    """Row by row, without padding; the end-of-text token keeps its activations and its prediction is not counted."""
    data, model = sample(), subject.model
    deltas, divergences = [], []
    for row in data.rows:
        ids = torch.tensor([row])

        def zeroed(_module, _args, output):
            output = output.clone()
            output[:, 1:] = 0
            return output

        with torch.no_grad():
            clean = model(ids).logits[0].double().log_softmax(-1)
            handle = model.transformer.h[0].register_forward_hook(zeroed)
            spliced = model(ids).logits[0].double().log_softmax(-1)
            handle.remove()
        target = ids[0, 2:]
        deltas += (clean - spliced)[1:-1].gather(1, target[:, None]).squeeze(1).tolist()
        divergences += kl_div(spliced[1:], clean[1:], reduction="none", log_target=True).sum(-1).tolist()
    found = effects(subject, data, {"zero": Splice("h.0", torch.zeros_like)})["zero"]
    assert found.delta_ce == pytest.approx(sum(deltas) / len(deltas), abs=1e-6)
    assert found.kl == pytest.approx(sum(divergences) / len(divergences), rel=1e-5)
    assert found.kl > 0.1


def test_padding_changes_nothing(subject):
    data = sample()
    splices = {"flipped": Splice("h.0", lambda x: x.flip(-1))}
    together = effects(subject, data, splices)["flipped"]
    kl = sum(
        effects(subject, Sample(rows=[row], texts={}, vocab_size=VOCAB), splices)["flipped"].kl * (len(row) - 1)
        for row in data.rows
    )
    assert together.kl == pytest.approx(kl / data.num_tokens, rel=1e-5)


def test_a_token_without_a_next_one_gives_no_cross_entropy(subject):
    one = Sample(rows=[[0, 5]], texts={}, vocab_size=VOCAB)
    found = effects(subject, one, {"zero": Splice("h.0", torch.zeros_like)})["zero"]
    assert math.isnan(found.delta_ce) and found.kl > 0
