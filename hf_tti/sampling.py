"""Which rows a process sees: the order of rows that are grouped by length, and streams that are dealt out.

The stock sampler draws that order from the global generator at the epoch's start: a run that resumes in a later epoch
would see other rows than one that nothing stopped, and each process its own order. Here it is the seed's and epoch's.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from hf_tti.errors import UserError


class SeededLengthSampler(LengthGroupedSampler):
    """Stock, with a generator of its own for each epoch.

    Args:
        stock: whose lengths and batch it takes.
        seed: of the order.
        world_size: rows of one step over all processes are of a length, so that their number does not matter.
        epoch: says which one it is; asked whenever an order begins.
    """

    def __init__(self, stock: LengthGroupedSampler, seed: int, world_size: int, epoch: Callable[[], int]):
        super().__init__(stock.batch_size * world_size, lengths=stock.lengths)
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}/{self._epoch()}".encode()))
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=drawn))


@contextmanager
def streams_dealt_out() -> Iterator[None]:
    """One line where accelerate, on the rank that reads a stream for all of them, cannot put their batches together.

    Raises:
        UserError: batches of a stream are padded to unequal lengths.
    """
    try:
        yield
    except RuntimeError as error:
        if "dispatch_batches" not in str(error):
            raise
        raise UserError(
            "a stream (IterableDataset) is dealt out to several processes in batches of one length: pack its rows or "
            "pad them to one length"
        ) from error
