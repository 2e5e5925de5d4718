"""What the same measures say where there is nothing to find; without it a number has no zero.

    random_init      the architecture with fresh weights (`studies.subject.random_init`)
    rotated          every site in a random basis: the same writes by other units
    shuffled_labels  tokens permuted over the places of a batch, activations as they were; labels permuted in a sample
Source: Heap et al. 2025, Sparse autoencoders can interpret randomly initialized transformers (arXiv:2501.17727);
Hewitt & Liang 2019 (control tasks).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from hf_tti.activations import ForwardPass
from hf_tti.studies.subject import rotated


def rotated_forward(forward: ForwardPass) -> ForwardPass:
    """The forward with every site turned by its own fixed random rotation."""
    return replace(forward, sites={path: rotated(path, site) for path, site in forward.sites.items()})


class ShuffledTokens:
    """Forwards whose real tokens are permuted over the batch; draws from its own generator."""

    def __init__(self, seed: int = 0):
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, forward: ForwardPass) -> ForwardPass:
        """The forward with other tokens beside the same activations."""
        ids, mask = forward.input_ids.clone(), forward.token_mask
        real = ids[mask]
        order = torch.randperm(len(real), generator=self._generator)
        ids[mask] = real[order.to(real.device)]
        return replace(forward, input_ids=ids)
