"""Top contexts: the k tokens of the whole pass on which each unit is most active, with the tokens around them.

    contexts_i = the k real tokens t with the largest a_i(t) > 0;  value = a_i(t)·‖W_out,i‖

Exact for any split into batches and ranks: two lists merge into the k best of both. Equal activations are ordered by a
32-bit hash of the row's tokens and the position, never by arrival. Source: Bills et al. 2023, Language models can
explain neurons in language models (top-activating excerpts).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hf_tti.activations import ForwardPass, Site
from hf_tti.metrics._per_layer import PerLayerMetric, Record, real_rows, write_norm

_FIRST_ROWS, _LARGEST_BLOCK = 256, 1 << 21  # tokens at first, values [tokens, D] later on, at a time
_CACHED = 1 << 18  # values that a core's cache holds
_NOTHING = -1  # in keys, tokens and positions: no such context, no such token
_ODD = (-0x61C8_8646_80B5_83EB, -0x4B47_4B06_9CB5_8D35, 0x2545_F491_4F6C_DD1D)  # factors of the hash
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class TopContexts(PerLayerMetric):
    """Mean write in a unit's top contexts (`layer_<i>`, over units that have one), the share of a unit's contexts whose
    own token is the most common of them (`same_token_share/`, over units with two or more), and the arrays `values/`
    [D, k] float32, falling, NaN where a unit has fewer contexts; `tokens/` [D, k, 2·window + 1] int32, the context's
    own token in the middle; `positions/` [D, k] int32, its index in its row; -1 where there is nothing to show;
    `activations/` [D, k, 2·window + 1] float16, the unit's signed write a_i·‖W_out,i‖ on each of those tokens, held
    within ±65504, 0 where there is none.

    Signed: a unit that is never positive has no contexts. Windows end with their row and leave out masked tokens; they
    cross the end of a document, as attention does. A row that occurs twice counts twice. Scale moved from activations
    to W_out changes nothing. NaN without tokens.
    State: D·k·(18 + 12·window) bytes a layer, whatever the corpus (4.2 MB at D = 1536).

    Args:
        sites: see `Metric`.
        k: contexts of a unit.
        window: tokens shown on either side.
    """

    k: int = field(default=20, metadata={"min": 1, "max": 200, "help": "Contexts of a unit."})
    window: int = field(default=10, metadata={"min": 0, "max": 512, "help": "Tokens shown on either side."})

    def extend(self, record: Record | None, forward: ForwardPass, path: str) -> Record:
        site = forward.sites[path]
        rows = real_rows(forward, site)
        row, position, tie = forward.once(("places", rows.device), lambda: _places(forward, rows.device))
        record = record or self._without_contexts(write_norm(site))
        best = {"keys": record["keys"], "index": torch.full_like(record["keys"], _NOTHING)}
        seen, end = record["num_tokens"], 0
        while end < len(rows):
            # As many as were seen before: few of them then enter, and only what enters costs more than a comparison.
            size = min(max(seen + end, _FIRST_ROWS), max(_LARGEST_BLOCK // rows.shape[1], 1))
            start, end = end, min(end + size, len(rows))
            unit, keys, index = _candidates(rows[start:end], tie[start:end], record["keys"])
            _enter(best, unit, keys, start + index, lambda _unit, index: {"index": index})
        unit, slot = (best["index"] != _NOTHING).nonzero(as_tuple=True)
        index = best["index"][unit, slot]
        shown = _shown(forward, site, record["write_norm"], self.window, row[index], position[index], unit)
        for name, values in shown.items():
            record[name][unit, slot] = values
        record["num_tokens"] += len(rows)
        return record

    def absorb(self, record: Record | None, observation: Record) -> Record:
        record = record or self._without_contexts(observation["write_norm"])
        unit, slot = (observation["keys"] > _last(record["keys"])).nonzero(as_tuple=True)
        _enter(record, unit, observation["keys"][unit, slot], slot, partial(_held, observation))
        record["num_tokens"] += observation["num_tokens"]
        return record

    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        keys, order = record["keys"].sort(dim=1, descending=True, stable=True)
        shown = _held(record, torch.arange(len(keys), device=keys.device).unsqueeze(1), order)
        found = keys != _NOTHING
        values = _activations(keys).double() * record["write_norm"].double().unsqueeze(1)
        values = values.masked_fill(~found, torch.nan)
        share = _same_token_share(shown["tokens"][:, :, self.window], found)
        return {
            "": float(values.nanmean(dim=1).nanmean()),
            "same_token_share": float(share.nanmean()),
            "values": values.float().cpu().numpy(),
            **{name: value.cpu().numpy() for name, value in shown.items()},
        }

    def _without_contexts(self, norm: Tensor) -> Record:
        new, places = partial(torch.full, device=norm.device), (len(norm), self.k)
        shown = (*places, 2 * self.window + 1)
        return {
            "num_tokens": 0,
            "keys": new(places, _NOTHING),
            "positions": new(places, _NOTHING, dtype=torch.int32),
            "tokens": new(shown, _NOTHING, dtype=torch.int32),
            "activations": new(shown, 0.0, dtype=torch.float16),
            "write_norm": norm.clone(),
        }


# ---- The k best --------------------------------------------------------------------------------


def _candidates(rows: Tensor, tie: Tensor, held: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit, key and index of the token [M] of those activations [N, D] that are above a key held [D, k]."""
    last = _last(held)
    rows = rows.float()
    floor = _activations(last.clamp_min(1 << 32)).T  # the smallest positive float where there is room
    # Rows with a candidate are few and cheaper to find than the candidates, a cache full at a time.
    above = torch.cat([(part - floor).amax(dim=1) for part in rows.split(max(_CACHED // rows.shape[1], 1))])
    hit = (~(above < 0)).nonzero().squeeze(1)
    rows = rows.index_select(0, hit)
    found = (rows >= floor).flatten().nonzero().squeeze(1)  # NaN is not active
    unit, index = found % rows.shape[1], hit.index_select(0, found // rows.shape[1])
    active = rows.flatten().index_select(0, found)
    keys = (active.view(torch.int32).long() << 32) | tie.index_select(0, index)
    above = (keys > last.squeeze(1).index_select(0, unit)).nonzero().squeeze(1)
    return unit.index_select(0, above), keys.index_select(0, above), index.index_select(0, above)


def _enter(record: Record, unit: Tensor, keys: Tensor, index: Tensor, shown: Callable[..., Record]) -> None:
    """Put the candidates [M] that are among their unit's k best in the place of those that no longer are; `shown` tells
    what is kept of these alone, by unit and index. Changes `record`; its contexts are in no order.
    """
    held = record["keys"]
    units, k = held.shape
    order = keys.argsort(descending=True)
    order = order.index_select(0, unit.index_select(0, order).argsort(stable=True))
    unit, keys, index = (values.index_select(0, order) for values in (unit, keys, index))
    count = torch.bincount(unit, minlength=units)
    rank = torch.arange(len(unit), device=unit.device) - (count.cumsum(0) - count).index_select(0, unit)
    kept = (rank < k).nonzero().squeeze(1)
    place = (unit * k + rank).index_select(0, kept)
    offered, source = torch.full_like(held, _NOTHING), torch.zeros_like(held)
    offered.view(-1)[place] = keys.index_select(0, kept)
    source.view(-1)[place] = index.index_select(0, kept)
    best = torch.cat((held, offered), dim=1).argsort(dim=1, descending=True, stable=True)
    stays = torch.zeros_like(best, dtype=torch.bool).scatter_(1, best[:, :k], True)
    unit, slot = (~stays[:, :k]).nonzero(as_tuple=True)
    _, new = stays[:, k:].nonzero(as_tuple=True)  # in each unit as many enter as leave
    held[unit, slot] = offered[unit, new]
    for name, values in shown(unit, source[unit, new]).items():
        record[name][unit, slot] = values


def _last(keys: Tensor) -> Tensor:
    """[D, 1]: the key that a better one replaces."""
    return keys.amin(dim=1, keepdim=True)


def _activations(keys: Tensor) -> Tensor:
    """A key compares as (activation, tie): the bits of a positive float32 are in its order."""
    return (keys >> 32).int().view(torch.float32)


# ---- What is kept of a context -----------------------------------------------------------------


def _shown(
    forward: ForwardPass, site: Site, norm: Tensor, window: int, row: Tensor, position: Tensor, unit: Tensor
) -> Record:
    """`positions` [M], and `tokens` and `activations` [M, W] around the tokens at `row` and `position` [M]."""
    length, width = site.activations.shape[1:]
    tokens = forward.once(("tokens", norm.device), lambda: _real_tokens(forward, norm.device))
    around = position.unsqueeze(1) + torch.arange(-window, window + 1, device=norm.device)
    column = around.clamp(0, length - 1)
    place = row.unsqueeze(1) * length + column
    # Flat: index_select takes a fifth of the time of an index for each dimension.
    shown = tokens.flatten().index_select(0, place.flatten()).view_as(place).masked_fill_(around != column, _NOTHING)
    value = (place * width + unit.unsqueeze(1)).flatten()
    written = site.activations.detach().flatten().index_select(0, value).view_as(place).float() * norm[unit].unsqueeze(
        1
    )
    return {
        "positions": position.int(),
        "tokens": shown,
        "activations": written.masked_fill_(shown == _NOTHING, 0.0).clamp_(-_HALF_MAX, _HALF_MAX).half(),
    }


def _real_tokens(forward: ForwardPass, device: torch.device) -> Tensor:
    """[B, T] int32: the ids, -1 where there is no token."""
    return forward.input_ids.masked_fill(~forward.token_mask, _NOTHING).int().to(device)


def _held(record: Record, unit: Tensor, slot: Tensor) -> Record:
    return {name: record[name][unit, slot] for name in ("positions", "tokens", "activations")}


def _same_token_share(peaks: Tensor, found: Tensor) -> Tensor:
    """[D]: the count of the most common of tokens [D, k] over the number found; NaN with fewer than two."""
    total = found.sum(dim=1)
    largest = torch.zeros_like(total)
    for peak in peaks.T:  # k at a time, not k²
        largest = torch.maximum(largest, ((peaks == peak.unsqueeze(1)) & found).sum(dim=1))
    return torch.where(total >= 2, largest.double() / total, torch.nan)


def _places(forward: ForwardPass, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Row, position and tie-breaking hash [N] of each real token, in the order of `real_rows`."""
    mask, ids = forward.token_mask.to(device), forward.input_ids.to(device)
    column = torch.arange(ids.shape[1], device=device).expand_as(ids)
    content = (_mixed(ids * _ODD[0] + (column + 1) * _ODD[1]) * mask).sum(dim=1, keepdim=True)
    tie = _mixed(content + (column + 1) * _ODD[2]) & 0xFFFF_FFFF
    row, position = mask.nonzero(as_tuple=True)
    return row, position, tie[mask]


def _mixed(values: Tensor) -> Tensor:
    """Every bit of int64 spread over all, after splitmix64; products wrap around."""
    for shift, factor in ((30, _ODD[0]), (27, _ODD[1])):
        values = (values ^ (values >> shift)) * factor
    return values ^ (values >> 31)
