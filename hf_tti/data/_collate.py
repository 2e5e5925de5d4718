"""Rows of token ids to a right-padded batch with labels.

A batch without padding carries no `attention_mask`: an all-ones mask says nothing and keeps
attention kernels off their causal fast path.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IGNORED_LABEL = -100


@dataclass(frozen=True, kw_only=True)
class CausalLMCollator:
    """Rows of `input_ids` [t], optional `attention_mask` [t] and `labels` [t] -> `input_ids`, `labels` [B, T] int64.

    `attention_mask` [B, T] (int64, 1 = real token) is there only when some position is masked or padded. `labels` are
    the row's own where it brings some, else the input ids; -100 where masked or padded. The model shifts them.
    The pad id may equal a real token's: nothing here or downstream reads masks off ids.
    """

    pad_token_id: int = 0
    pad_to_multiple_of: int = 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        step = self.pad_to_multiple_of
        lengths = [len(row["input_ids"]) for row in rows]
        width = -(-max(lengths) // step) * step
        input_ids = np.full((len(rows), width), self.pad_token_id, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            input_ids[i, :length] = row["input_ids"]
            row_mask = row.get("attention_mask")
            mask[i, :length] = 1 if row_mask is None else row_mask
        labels = np.where(mask == 1, input_ids, IGNORED_LABEL)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            if row.get("labels") is not None:
                labels[i, :length] = row["labels"]
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if not mask.all():
            batch["attention_mask"] = torch.from_numpy(mask)
        return batch
