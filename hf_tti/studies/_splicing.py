"""What a model says when something takes the place of its activations.

    ΔCE = CE(spliced) − CE(clean),   KL = mean over tokens of KL(p_clean ‖ p_spliced),   both in nats

Replaced are the activations of a document's own tokens, not of the end-of-text token before it. CE is over predictions
made at those tokens of the next one; KL over all of those tokens. Losses of a token in float32, their sums in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_tti.cross_entropy import IGNORED_LABEL, cross_entropy_sum, device_of_float64
from hf_tti.studies.sample import Sample
from hf_tti.studies.subject import Intervention, Subject

_LOGITS_PER_CHUNK = 1 << 23


@dataclass(frozen=True)
class Splice:
    """What takes the place of the activations at one hookpoint: [n, D] float32 -> [n, D]."""

    path: str
    change: Intervention


@dataclass(frozen=True)
class Effect:
    """Of one splice, in nats a token."""

    delta_ce: float
    kl: float


@torch.no_grad()
def effects(subject: Subject, sample: Sample, splices: Mapping[str, Splice]) -> dict[str, Effect]:
    """Name -> what that splice alone does to the model on a sample; NaN where no token has a next one."""
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in splices}
    clean_sum, num_predicted, num_tokens = 0.0, 0, 0
    for batch in sample.batches():
        batch = {key: value.to(subject.device) for key, value in batch.items()}
        tokens = batch["attention_mask"].bool()
        tokens[:, 0] = False
        labels = batch["input_ids"].masked_fill(~tokens, IGNORED_LABEL)
        labels[:, 1:2] = IGNORED_LABEL  # predicted at the end-of-text token
        clean = subject.forward(batch)[0].logits
        loss, predicted = cross_entropy_sum(clean, labels)
        clean_sum, num_predicted = clean_sum + float(loss), num_predicted + int(predicted)
        num_tokens += int(tokens.sum())
        for name, splice in splices.items():
            change = {splice.path: _at(tokens, splice.change)}
            logits = subject.forward(batch, interventions=change)[0].logits
            loss, _ = cross_entropy_sum(logits, labels)
            sums[name] += torch.tensor([float(loss), _kl_sum(clean[tokens], logits[tokens])], dtype=torch.float64)
    return {
        name: Effect(_ratio(float(loss) - clean_sum, num_predicted), _ratio(float(kl), num_tokens))
        for name, (loss, kl) in sums.items()
    }


def _at(tokens: Tensor, change: Intervention) -> Intervention:
    """The change at these places [B, T] bool, nothing elsewhere."""

    def intervention(activations: Tensor) -> Tensor:
        changed = activations.clone()
        changed[tokens] = change(activations[tokens].float()).to(activations)
        return changed

    return intervention


def _kl_sum(clean: Tensor, spliced: Tensor) -> float:
    """Of [n, V] logits each."""
    size = max(1, _LOGITS_PER_CHUNK // clean.shape[-1])
    total = 0.0
    for ours, theirs in zip(clean.split(size), spliced.split(size), strict=True):
        log_p, log_q = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
        total += float(divergence.to(device_of_float64(divergence.device)).double().sum())
    return total


def _ratio(numerator: float, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
