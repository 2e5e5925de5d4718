"""The collator: masks come from lengths and given masks, never from ids."""

import torch

from hf_tti.data import CausalLMCollator

COLLATE = CausalLMCollator(pad_token_id=7)


def test_a_rows_own_labels_are_kept_and_padded():
    batch = COLLATE([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4, 5]}])
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, 5, -100]]


def test_full_blocks_carry_no_mask():
    batch = COLLATE([{"input_ids": [1, 7, 3]}, {"input_ids": [4, 5, 7]}])
    assert set(batch) == {"input_ids", "labels"}
    assert torch.equal(batch["labels"], batch["input_ids"])
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def test_padding_is_masked_and_real_pad_ids_are_not():
    batch = COLLATE([{"input_ids": [1, 7, 7]}, {"input_ids": [4]}])
    assert batch["input_ids"].tolist() == [[1, 7, 7], [4, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 7, 7], [4, -100, -100]]


def test_a_masked_position_of_a_row_has_no_label():
    batch = COLLATE([{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}])
    assert batch["attention_mask"].tolist() == [[1, 0, 1]]
    assert batch["labels"].tolist() == [[1, -100, 3]]


def test_all_ones_masks_say_nothing():
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3, 4]}]
    masked = [{**row, "attention_mask": [1, 1]} for row in rows]
    assert {k: v.tolist() for k, v in COLLATE(masked).items()} == {k: v.tolist() for k, v in COLLATE(rows).items()}


def test_labels_do_not_share_memory_with_ids():
    batch = COLLATE([{"input_ids": [1, 2]}])
    batch["labels"][0, 0] = -100
    assert batch["input_ids"].tolist() == [[1, 2]]


def test_width_is_rounded_up_on_request():
    batch = CausalLMCollator(pad_token_id=0, pad_to_multiple_of=4)([{"input_ids": [1, 2, 3, 4, 5]}])
    assert batch["input_ids"].shape == (1, 8)
    assert batch["attention_mask"].sum() == 5
