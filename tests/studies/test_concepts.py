"""The bank of concepts against what a reader of the same text would say."""

import numpy as np
import pytest

from hf_tti.studies._concepts import concept_bank
from hf_tti.studies.sample import Labels, Sample
from study_samples import tiny_sample

STORY = 'Tom|my| saw| 3| cats|.| "|Oh|!"| he| said|ly|.| Mum|\n\n|he| ran| to| Ted'.split("|")


def sample_of(*documents: list[str], labels=None) -> Sample:
    """Each document twice, so that both halves have it."""
    twice = [document for document in documents for _ in range(2)]
    ids = {text: i for i, text in enumerate(dict.fromkeys(text for document in twice for text in document), start=1)}
    texts = {0: "<|endoftext|>", **{i: text for text, i in ids.items()}}
    return Sample([[0, *(ids[text] for text in document)] for document in twice], texts, len(texts), labels or {})


def tokens_with(sample: Sample, concept: str) -> list[str]:
    """Texts of the tokens of the first document that have a concept."""
    bank = concept_bank(sample, min_count=1)
    column = bank.holds[:, bank.names.index(concept)]
    return [sample.texts[sample.token_ids[i]] for i in np.flatnonzero(column) if sample.documents[i] == 0]


@pytest.mark.parametrize(
    ("concept", "tokens"),
    [
        ('token=" saw"', [" saw"]),
        ("leading_space", [" saw", " 3", " cats", ' "', " he", " said", " Mum", " ran", " to", " Ted"]),
        ("capitalised", ["Tom", "Oh", " Mum", " Ted"]),
        ("punctuation", [".", ' "', '!"', "."]),
        ("quotation_mark", [' "', '!"']),
        ("word_continuation", ["my", "ly"]),
        ("position=1-3", ["my", " saw", " 3"]),
        ("sentence_start", ["Tom", "Oh", " Mum"]),
        ("in_quotes", [' "', "Oh"]),
        ("next_punctuation", [" cats", ".", "Oh", "ly"]),
        ("next_capitalised", [' "', ".", " to"]),
    ],
)
def test_what_holds_of_a_story(concept, tokens):
    assert tokens_with(sample_of(STORY), concept) == tokens


def test_of_concepts_that_hold_of_the_same_tokens_the_first_stays():
    names = concept_bank(sample_of(STORY), min_count=1).names
    assert 'token=" 3"' in names and "digit" not in names  # " 3" is the only digit
    assert 'token="\\n\\n"' in names and "newline" not in names
    bank = concept_bank(tiny_sample(), min_count=1)
    assert len(np.unique(bank.holds, axis=1).T) == len(bank.names) == len(set(bank.names))


def test_an_open_quotation_ends_with_its_paragraph_and_its_document():
    story = ["\u201c", "Hi", "\u201d", ' "', "Ho", "\n\n", "Hm", ' "', "Ha"]
    assert tokens_with(sample_of(story, ["He", " ran"]), "in_quotes") == ["\u201c", "Hi", ' "', "Ho", ' "', "Ha"]


def test_the_last_token_of_a_document_has_no_next_one():
    sample = sample_of(["a", "b"], ["b", "a"])
    bank = concept_bank(sample, min_count=1)
    assert bank.holds[:, bank.names.index('next="b"')].tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("min_count", [1, 5, 40])
def test_enough_tokens_of_both_halves_have_a_concept_and_lack_it(min_count):
    sample = tiny_sample(documents=60)
    bank = concept_bank(sample, min_count=min_count)
    assert bank.names
    for half in (sample.for_scoring, ~sample.for_scoring):
        counts = bank.holds[half].sum(axis=0)
        assert counts.min() >= min_count and (half.sum() - counts).min() >= min_count


def test_every_class_of_labels_is_a_concept_and_tokens_without_a_label_lack_it():
    sample = tiny_sample()
    bank = concept_bank(sample, num_types=0, min_count=1)
    for field, labels in sample.labels.items():
        for code, name in enumerate(labels.names):
            np.testing.assert_array_equal(bank.holds[:, bank.names.index(f"{field}={name}")], labels.codes == code)


def test_the_most_frequent_types_are_concepts():
    sample = tiny_sample(documents=60)
    names = concept_bank(sample, num_types=3, min_count=1).names
    assert [name for name in names if name.startswith("token=")] == ['token="."', 'token=","', 'token=" \\""']
    assert [name for name in names if name.startswith("next=")] == ['next="."', 'next=","', 'next=" \\""']
    assert concept_bank(sample, num_types=0, min_count=1).names[0] == "leading_space"


def test_shuffled_labels_move_concepts_as_a_whole_within_each_half():
    sample = tiny_sample(labelled=False)
    shuffled = sample.with_shuffled_labels(3)
    bank, moved = concept_bank(sample, min_count=1), concept_bank(shuffled, min_count=1)
    assert moved.names == bank.names
    np.testing.assert_array_equal(moved.holds, bank.holds[shuffled.order])
    assert (sample.for_scoring[shuffled.order] == sample.for_scoring).all()


def test_shuffled_labels_leave_nothing_of_where_labels_were():
    sample = tiny_sample(documents=200)
    has_label = sample.labels["pos"].codes >= 0
    moved = concept_bank(sample.with_shuffled_labels(), num_types=0, min_count=1)
    noun = moved.holds[:, moved.names.index("pos=NOUN")]
    assert noun.sum() == (sample.labels["pos"].codes == sample.labels["pos"].names.index("NOUN")).sum()
    assert abs(noun[has_label].mean() - noun[~has_label].mean()) < 0.05


def test_names_survive_their_array():
    labels = {"tag\nset": Labels.of(["a\nb", None] * 2)}
    bank = concept_bank(sample_of(["\u00e9\n", '"\t'], labels=labels), min_count=1)
    assert tuple(bytes(bank.names_array).decode().split("\n")) == bank.names
    assert 'token="\u00e9\\n"' in bank.names


def test_a_sample_without_enough_of_anything_has_no_concepts():
    for sample in (tiny_sample(documents=1), tiny_sample(documents=0, labelled=False)):
        bank = concept_bank(sample)
        assert bank.names == () and bank.holds.shape == (sample.num_tokens, 0) and not len(bank.names_array)


def test_a_label_may_be_called_like_another_concept():
    labels = {"position": Labels.of(["0", "1"] * 4), "next": Labels.of(["a", "a", None, "a", None, None, "a", None])}
    sample = sample_of(["a", "b"], ["b", "a"], labels=labels)
    bank = concept_bank(sample, min_count=1)
    assert len(bank.names) == len(np.unique(bank.holds, axis=1).T)
    assert bank.holds[:, bank.names.index("next=a")].tolist() == [True, True, False, True, False, False, True, False]
    assert not bank.of_one_type[bank.names.index("next=a")]
    assert bank.of_one_type[bank.names.index('token="a"')]
