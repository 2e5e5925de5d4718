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


def cross_entropy_sum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over predicted tokens of −log p, float64 scalar, and their number, int64 scalar.

    Args:
        logits: [B, T, V], any floating type; a block of them at a time is brought to float32.
        labels: [B, T], unshifted; -100 is ignored.
    """
    assert logits.shape[:2] == labels.shape, (logits.shape, labels.shape)
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL).to(logits.device)
    flat_targets, flat_logits = targets.flatten(), logits.flatten(0, 1)
    wide = device_of_float64(logits.device)
    total = torch.zeros((), dtype=torch.float64, device=wide)
    size = max(1, _LOGITS_PER_CHUNK // logits.shape[-1])
    for chunk, target in zip(flat_logits.split(size), flat_targets.split(size), strict=True):
        losses = F.cross_entropy(chunk.float(), target, ignore_index=IGNORED_LABEL, reduction="none")
        total += losses.to(wide).double().sum()
    return total, (flat_targets != IGNORED_LABEL).sum().to(wide)


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
