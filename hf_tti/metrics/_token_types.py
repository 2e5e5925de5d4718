"""Sums of per-token values by token type over a whole pass, for the types that occurred.

A record is the types [U] as they came, `row_of` [≤V] (a type's row, -1 without), token counts [U], and sums [K, ≥U, D]
in float64 on the activations' device, of which the first U rows are in use: up to a quarter is room for the next.
State: 8·K·U·D bytes a layer and that quarter, 8 bytes a type of the vocabulary; U ≤ V whatever the corpus.

Null rows pair a token's values with the type of the token half a row further on, cyclically:
values keep their distribution and autocorrelation and lose the token. Rows stay whole, so it does
not depend on how they were batched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import Record, real_rows

_CPU_ROWS = 256  # keeps a block of 1536 units in the cache


def add_tokens(
    record: Record | None,
    forward: ForwardPass,
    path: str,
    values: Callable[[Tensor], list[Tensor]],
    *,
    shuffled: bool,
) -> Record:
    """The record with the tokens of one forward. Changes `record`.

    Args:
        values: activations [n, D] of real tokens -> K tensors [n, D] to be summed by type.
        shuffled: by the type of another token, see the module's docstring.
    """
    types, index, counts = forward.once(("types", shuffled), lambda: _index_types(forward, shuffled))
    rows = real_rows(forward, forward.sites[path])
    if record is None:
        none = torch.empty(0, dtype=torch.int64)
        empty = rows.new_empty(len(values(rows[:0])), 0, rows.shape[1], dtype=torch.float64)
        record = {"types": none, "row_of": none, "counts": none, "sums": empty}
    record, places = _with_places(record, types)
    record["counts"].index_add_(0, places, counts)
    index = places[index].to(rows.device)
    size = _CPU_ROWS if rows.device.type == "cpu" else 1 << 16
    for block, block_index in zip(rows.split(size), index.split(size), strict=True):
        for total, part in zip(record["sums"], values(block), strict=True):
            total.index_add_(0, block_index, part.double())
    return record


def add_type_sums(record: Record | None, observation: Record) -> Record:
    """The sum of both. Changes `record`."""
    if record is None:
        return {key: tensor.clone() for key, tensor in observation.items()}
    record, places = _with_places(record, observation["types"])
    record["counts"].index_add_(0, places, observation["counts"])
    record["sums"].index_add_(1, places.to(record["sums"].device), sums_by_type(observation))
    return record


def sums_by_type(record: Record) -> Tensor:
    """[K, U, D] float64, a view: the rows that are in use."""
    return record["sums"][:, : len(record["types"])]


def has_broken_sums(record: Record) -> bool:
    """Whether a value that is not finite was added."""
    return not bool(torch.isfinite(record["sums"]).all())


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


def _with_places(record: Record, wanted: Tensor) -> tuple[Record, Tensor]:
    """The record with a row for each type wanted [n], and which it is."""
    row_of, known, sums = record["row_of"], record["types"], record["sums"]
    if len(wanted) and int(wanted.max()) >= len(row_of):
        row_of = pad(row_of, (0, int(wanted.max()) + 1 - len(row_of)), value=-1)
    new = wanted[row_of[wanted] < 0]
    if not len(new):
        return record, row_of[wanted]
    types = torch.cat((known, new))
    row_of[new] = torch.arange(len(known), len(types))
    if len(types) > sums.shape[1]:
        room = len(types) * 5 // 4 if len(known) else len(types)
        grown = sums.new_empty(sums.shape[0], room, sums.shape[2])
        grown[:, : len(known)], grown[:, len(known) :] = sums_by_type(record), 0.0
        sums = grown
    counts = pad(record["counts"], (0, len(new)))
    return {"types": types, "row_of": row_of, "counts": counts, "sums": sums}, row_of[wanted]


def add_tables(record: dict[str, Any] | None, observation: dict[str, Any]) -> dict[str, Any]:
    """`add_type_sums` for a dict of tables."""
    return {name: add_type_sums(record[name] if record else None, table) for name, table in observation.items()}
