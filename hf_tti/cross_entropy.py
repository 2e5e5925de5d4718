"""Exact cross-entropy of a causal LM from its logits, a block of tokens at a time.

    loss = Σ_t −ln p(x_t | x_<t) / num_tokens,   perplexity = exp(loss)

Per-token values in float32, their sum in float64. Token-weighted: never a mean of batches' means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100
_LOGITS_PER_CHUNK = 1 << 24  # 64 MiB in float32


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """−log p of each predicted token at the token's own place, float32 [B, T] and 0 elsewhere, and where that is, bool.

    Args:
        logits: [B, T, V], any floating type; a block of them at a time is brought to float32.
        labels: [B, T], unshifted; -100 is ignored. A row's first token is not predicted.
    """
    assert logits.shape[:2] == labels.shape, (logits.shape, labels.shape)
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL).to(logits.device)  # what each place predicts
    size = max(1, _LOGITS_PER_CHUNK // logits.shape[-1])
    chunks = zip(logits.flatten(0, 1).split(size), targets.flatten().split(size), strict=True)
    losses = [
        F.cross_entropy(chunk.float(), target, ignore_index=IGNORED_LABEL, reduction="none") for chunk, target in chunks
    ]
    by_place = torch.cat(losses).view_as(targets) if losses else torch.zeros_like(targets, dtype=torch.float32)
    return F.pad(by_place[:, :-1], (1, 0)), F.pad(targets[:, :-1] != IGNORED_LABEL, (1, 0))


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over predicted tokens of −log p, float64 scalar, and their number, int64 scalar; see `token_losses`."""
    losses, predicted = token_losses(logits, labels)
    wide = device_of_float64(logits.device)
    return losses.to(wide).double().sum(), predicted.sum().to(wide)


class DocumentShards:
    """Cross-entropy by shard of whole documents: document number modulo the number of shards.

    Rows have to come in the order of the corpus.

    Args:
        eos_token_id: ends a document. None: every row is one.
        rows_continue: a document may go on in the next row (packed rows); else each row begins one.
        num_shards: 20 is usual for a grouped jackknife.
    """

    def __init__(self, eos_token_id: int | None, *, rows_continue: bool, num_shards: int = 20):
        self._eos = eos_token_id if rows_continue else None
        self._num_documents = 0
        self.loss_sums = torch.zeros(num_shards, dtype=torch.float64)
        self.num_tokens = torch.zeros(num_shards, dtype=torch.int64)

    def add(self, input_ids: Tensor, losses: Tensor, predicted: Tensor) -> None:
        """One batch: ids [B, T] and what `token_losses` gave."""
        shards = (self._documents(input_ids.cpu()) % len(self.num_tokens)).flatten()
        self.loss_sums.index_add_(0, shards, losses.cpu().double().flatten())
        self.num_tokens.index_add_(0, shards, predicted.cpu().long().flatten())

    def _documents(self, ids: Tensor) -> Tensor:
        if self._eos is None:
            numbers = torch.arange(len(ids)).unsqueeze(1).expand_as(ids) + self._num_documents
            self._num_documents += len(ids)
            return numbers
        ends = (ids == self._eos).long().flatten()
        numbers = (ends.cumsum(0) - ends + self._num_documents).view_as(ids)  # EOS belongs to what it ends
        self._num_documents += int(ends.sum())
        return numbers


def device_of_float64(device: torch.device) -> torch.device:
    """The device itself, the CPU for Apple's GPUs, which have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def labels_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """[B, T] `labels` of a batch, or where there are none its real tokens: -100 at padding."""
    labels = inputs.get("labels")
    if labels is not None:
        return labels
    mask = inputs.get("attention_mask")
    return inputs["input_ids"] if mask is None else inputs["input_ids"].masked_fill(mask == 0, IGNORED_LABEL)


def perplexity(loss: float) -> float:
    """exp(loss); infinity where that is more than a float holds."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
