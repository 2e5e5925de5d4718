"""Sums of per-token values by token type over a whole pass, for the types that occurred.

A record is the sorted types [U], their token counts [U] and sums [K, U, D] in float64; adding two
merges the rows. A vocabulary of V costs nothing for types that never occur. State: 8·K·U·D bytes a
layer, U ≤ V whatever the corpus.

Null rows pair a token's values with the type of the token half a row further on, cyclically:
values keep their distribution and autocorrelation and lose the token. Rows stay whole, so it does
not depend on how they were batched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import Record, real_rows

_CPU_ROWS = 256  # keeps a block of 1536 units in the cache


def type_sums(forward: ForwardPass, path: str, values: Callable[[Tensor], list[Tensor]], *, shuffled: bool) -> Record:
    """`types` [U] and `counts` [U] on the CPU, `sums` [K, U, D] float64 on the
    activations' device.

    Args:
        values: activations [n, D] of real tokens -> K tensors [n, D] to be summed by type.
        shuffled: by the type of another token, see the module's docstring.
    """
    types, index, counts = forward.once(("types", shuffled), lambda: _index_types(forward, shuffled))
    rows = real_rows(forward, forward.sites[path])
    index = index.to(rows.device)
    sums: Tensor | None = None
    size = _CPU_ROWS if rows.device.type == "cpu" else 1 << 16
    for block, block_index in zip(rows.split(size), index.split(size), strict=True):
        parts = values(block)
        if sums is None:
            shape = (len(parts), len(types), rows.shape[1])
            sums = rows.new_zeros(shape, dtype=torch.float64)
        for total, part in zip(sums, parts, strict=True):
            total.index_add_(0, block_index, part.double())
    return {"types": types, "counts": counts, "sums": sums}


def add_type_sums(record: Record | None, observation: Record) -> Record:
    """The sum of both; changes `record` in place where no new type occurs."""
    if record is None:
        return {key: tensor.clone() for key, tensor in observation.items()}
    types = torch.unique(torch.cat((record["types"], observation["types"])))
    if len(types) > len(record["types"]):
        record = _with_types(record, types)
    position = torch.searchsorted(types, observation["types"])
    record["counts"].index_add_(0, position, observation["counts"])
    record["sums"].index_add_(1, position.to(record["sums"].device), observation["sums"])
    return record


def _index_types(forward: ForwardPass, shuffled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted types [U], each real token's row in them [N], and counts [U], on the CPU."""
    ids, mask = forward.input_ids.cpu(), forward.token_mask.cpu()
    if shuffled:
        ids = _half_a_row_on(ids, mask)
    types, index, counts = torch.unique(ids[mask], return_inverse=True, return_counts=True)
    return types, index, counts


def _half_a_row_on(ids: Tensor, mask: Tensor) -> Tensor:
    """[B, T]: at each real token the id of the real token half as many on as the row has, from its
    start again.
    """
    length = mask.sum(dim=1, keepdim=True)
    rank = mask.long().cumsum(dim=1) - 1
    packed = ids.gather(1, (~mask).to(torch.uint8).argsort(dim=1, stable=True))
    return packed.gather(1, ((rank + length // 2) % length.clamp_min(1)).clamp_min(0))


def _with_types(record: Record, types: Tensor) -> Record:
    position = torch.searchsorted(types, record["types"])
    sums, old = record["sums"], record["counts"]
    grown = sums.new_zeros(sums.shape[0], len(types), sums.shape[2])
    grown[:, position.to(sums.device)] = sums
    return {
        "types": types,
        "counts": old.new_zeros(len(types)).index_copy_(0, position, old),
        "sums": grown,
    }


def add_tables(record: dict[str, Any] | None, observation: dict[str, Any]) -> dict[str, Any]:
    """`add_type_sums` for a dict of tables."""
    return {name: add_type_sums(record[name] if record else None, table) for name, table in observation.items()}
