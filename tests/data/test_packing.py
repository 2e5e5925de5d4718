"""Stories to rows: nothing lost but the stated tail, nothing added but the end-of-text token."""

import pytest

from hf_tti.data._packing import one_per_row, pack, until

DOCUMENTS = [[1, 2, 3, 0], [4, 0], [5, 6, 7, 8, 9, 10, 11, 0], [12, 0]]
JOINED = [i for document in DOCUMENTS for i in document]


def ids_of(rows):
    return [i for row in rows for i in row["input_ids"]]


@pytest.mark.parametrize("block_size", [2, 3, 4, 5, 7, 16, 17])
def test_blocks_in_order_are_the_stories_joined(block_size):
    with_tail = list(pack(DOCUMENTS, block_size, keep_tail=True))
    without = list(pack(DOCUMENTS, block_size, keep_tail=False))
    assert ids_of(with_tail) == JOINED
    assert all(len(row["input_ids"]) == block_size for row in without)
    assert without == with_tail[: len(JOINED) // block_size]
    assert all(set(row) == {"input_ids"} for row in with_tail)


def test_a_row_never_shares_its_list_with_another():
    rows = list(pack([[1, 2, 3, 4]], 2, keep_tail=False))
    rows[0]["input_ids"].append(99)
    assert rows[1]["input_ids"] == [3, 4]


def test_unpacked_rows_are_the_stories_cut_off_at_the_block():
    rows = list(one_per_row(DOCUMENTS, 4))
    assert [row["input_ids"] for row in rows] == [document[:4] for document in DOCUMENTS]
    assert [row["attention_mask"] for row in rows] == [[1] * len(document[:4]) for document in DOCUMENTS]


@pytest.mark.parametrize(("max_tokens", "num_rows"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (99, 4), (None, 4)])
def test_the_row_that_reaches_the_bound_is_the_last(max_tokens, num_rows):
    rows = list(pack(DOCUMENTS, 4, keep_tail=False))
    assert list(until(rows, max_tokens)) == rows[:num_rows]


def test_a_bound_reads_no_further_than_it_must():
    def documents():
        yield [1] * 10
        raise AssertionError("read on")

    assert len(list(until(pack(documents(), 5, keep_tail=True), 10))) == 2
