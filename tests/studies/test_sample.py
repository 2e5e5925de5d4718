"""Samples: what is read off the rows, batches that lose nothing, and labels that a shuffle makes chance."""

from collections import Counter

import numpy as np
import pytest
import torch

from hf_tti.studies.sample import NO_LABEL, Labels, Sample
from study_samples import TEXTS, tiny_sample
from tiny import VOCAB

SAMPLES = {
    "labelled": lambda: tiny_sample(),
    "plain": lambda: tiny_sample(labelled=False),
    "one document": lambda: tiny_sample(documents=1),
    "no document": lambda: Sample([], TEXTS, VOCAB),
    "empty documents": lambda: Sample([[0], [0, 5, 6], [0], [0, 7]], TEXTS, VOCAB),
}


@pytest.fixture(params=SAMPLES)
def sample(request):
    return SAMPLES[request.param]()


def test_a_token_has_its_id_its_next_one_its_place_and_its_document(sample):
    want = [
        (token, row[place + 2] if place + 2 < len(row) else -1, place, number)
        for number, row in enumerate(sample.rows)
        for place, token in enumerate(row[1:])
    ]
    columns = [sample.token_ids, sample.next_ids, sample.positions, sample.documents]
    assert list(zip(*map(np.ndarray.tolist, columns), strict=True)) == want
    assert all(column.dtype == np.int64 and column.shape == (sample.num_tokens,) for column in columns)


def test_halves_are_whole_documents(sample):
    halves = {number: set(sample.for_scoring[sample.documents == number].tolist()) for number in set(sample.documents)}
    assert all(half == {number % 2 == 1} for number, half in halves.items())


@pytest.mark.parametrize("max_tokens", [1, 40, 64, 4096])
def test_batches_cover_every_document_once_and_in_order(sample, max_tokens):
    rows = []
    for batch in sample.batches(max_tokens):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert ids.shape == mask.shape and (len(ids) == 1 or ids.numel() <= max_tokens)
        assert (mask.diff(dim=1) <= 0).all() and mask[:, 0].all()  # padding on the right
        assert (ids[mask == 0] == 0).all()
        rows += [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    assert rows == [list(row) for row in sample.rows]


def test_batches_hold_as_many_documents_as_fit():
    sample = Sample([[0, 1, 2, 3]] * 10, TEXTS, VOCAB)
    assert [batch["input_ids"].shape for batch in sample.batches(12)] == [(3, 4), (3, 4), (3, 4), (1, 4)]


def test_a_shuffle_keeps_what_each_half_holds(sample):
    shuffled = sample.with_shuffled_labels(1)
    for half in (sample.for_scoring, ~sample.for_scoring):
        joint = [
            Counter(zip(*(column[half].tolist() for column in columns), strict=True))
            for columns in ((s.token_ids, s.next_ids, s.positions) for s in (sample, shuffled))
        ]
        assert joint[0] == joint[1]  # a token takes its next one and its position along
        for name, labels in sample.labels.items():
            assert Counter(shuffled.labels[name].codes[half].tolist()) == Counter(labels.codes[half].tolist())


def test_a_shuffle_leaves_rows_documents_and_the_tokens_that_have_labels():
    sample = tiny_sample()
    shuffled = sample.with_shuffled_labels(1)
    assert shuffled.rows is sample.rows  # so that a subject keeps its activations
    np.testing.assert_array_equal(shuffled.documents, sample.documents)
    for name, labels in sample.labels.items():
        assert shuffled.labels[name].names == labels.names
        np.testing.assert_array_equal(shuffled.labels[name].codes == NO_LABEL, labels.codes == NO_LABEL)
        assert (shuffled.labels[name].codes != labels.codes).any()
    assert (shuffled.token_ids != sample.token_ids).any()


def test_a_shuffle_makes_chance_of_a_label_that_its_token_decides():
    sample = tiny_sample(documents=300)
    shuffled = sample.with_shuffled_labels()
    codes, tokens = shuffled.labels["pos"].codes, sample.token_ids
    labelled = codes != NO_LABEL
    base = np.bincount(codes[labelled], minlength=4) / labelled.sum()
    for token in (1, 2, 3):
        share = np.bincount(codes[tokens == token], minlength=4) / (tokens == token).sum()
        np.testing.assert_allclose(share, base, atol=0.07)


def test_a_shuffle_is_its_seed_s_and_no_global_generator_s(sample):
    np.random.seed(1)
    state = np.random.get_state()[1].copy(), torch.random.get_rng_state()
    first = sample.with_shuffled_labels(4)
    assert (np.random.get_state()[1] == state[0]).all() and torch.equal(torch.random.get_rng_state(), state[1])
    assert first.fingerprint == sample.with_shuffled_labels(4).fingerprint
    np.testing.assert_array_equal(first.order, sample.with_shuffled_labels(4).order)
    if sample.num_tokens > 10:
        assert first.fingerprint != sample.with_shuffled_labels(5).fingerprint


def test_shuffling_twice_is_a_shuffle():
    sample = tiny_sample()
    twice = sample.with_shuffled_labels(1).with_shuffled_labels(2)
    assert sorted(twice.order.tolist()) == list(range(sample.num_tokens))
    np.testing.assert_array_equal(twice.token_ids, sample.token_ids[twice.order])
    np.testing.assert_array_equal(sample.for_scoring[twice.order], sample.for_scoring)


def test_the_fingerprint_is_of_tokens_documents_and_labels():
    prints = [
        tiny_sample().fingerprint,
        tiny_sample(labelled=False).fingerprint,
        tiny_sample(seed=1).fingerprint,
        tiny_sample().with_shuffled_labels().fingerprint,
        Sample([[0, 1, 2, 3]], TEXTS, VOCAB).fingerprint,
        Sample([[0, 1], [0, 2, 3]], TEXTS, VOCAB).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert tiny_sample().fingerprint == prints[0]


def test_labels_are_coded_by_their_sorted_names():
    labels = Labels.of(["b", None, "a", "b", "c"])
    assert labels.names == ("a", "b", "c") and labels.codes.tolist() == [1, -1, 0, 1, 2]
    assert Labels.of([None]).names == () and Labels.of([]).codes.dtype == np.int64


def test_labels_of_another_length_are_refused():
    with pytest.raises(AssertionError, match="pos"):
        Sample([[0, 1, 2]], TEXTS, VOCAB, {"pos": Labels.of(["x"])})
