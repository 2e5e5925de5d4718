"""Stories to rows of token ids.

Packed: `story EOS story EOS ...` cut into blocks of exactly block_size, so that no row holds
padding and the model sees where stories end. The last, short block is dropped in training and kept
in evaluation.
Unpacked: `story EOS` a row, cut off at block_size, with an all-ones mask; the collator pads.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, list[int]]
_STORIES_PER_CALL = 512


def tokenize(texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[int]]:
    """Each text's ids followed by the end-of-text id, in order."""
    eos = tokenizer.eos_token_id
    texts = iter(texts)
    while batch := list(islice(texts, _STORIES_PER_CALL)):
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)
        for ids in encoded["input_ids"]:
            ids.append(eos)
            yield ids


def pack(documents: Iterable[list[int]], block_size: int, *, keep_tail: bool) -> Iterator[Row]:
    """The documents' ids, joined and cut into blocks; `keep_tail` keeps the last, short one."""
    buffer: list[int] = []
    for ids in documents:
        buffer.extend(ids)
        if len(buffer) >= block_size:
            full = len(buffer) - len(buffer) % block_size
            for start in range(0, full, block_size):
                yield {"input_ids": buffer[start : start + block_size]}
            buffer = buffer[full:]
    if buffer and keep_tail:
        yield {"input_ids": buffer}


def one_per_row(documents: Iterable[list[int]], block_size: int) -> Iterator[Row]:
    """One document a row, cut off at block_size."""
    for ids in documents:
        ids = ids[:block_size]
        yield {"input_ids": ids, "attention_mask": [1] * len(ids)}


def until(rows: Iterable[Row], max_tokens: int | None) -> Iterator[Row]:
    """Rows up to and including the one that reaches max_tokens; all of them when it is None."""
    num_tokens = 0
    for row in rows:
        yield row
        num_tokens += len(row["input_ids"])
        if max_tokens is not None and num_tokens >= max_tokens:
            return
