"""Top contexts: the k tokens of the whole pass on which each unit is most active, with the tokens around them.

    contexts_i = the k real tokens t with the largest a_i(t) > 0;  value = a_i(t)·‖W_out,i‖

Exact for any split into batches and ranks: two lists merge into the k best of both. Equal activations are ordered by a
32-bit hash of the row's tokens and the position, never by arrival. Source: Bills et al. 2023, Language models can
explain neurons in language models (top-activating excerpts).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_tti.activations import ForwardPass
from hf_tti.metrics._per_layer import PerLayerMetric, Record, real_rows, write_norm

_ROWS = 4096  # tokens at a time
_NOTHING = -1  # in keys, tokens and positions: no such context, no such token
_ODD = (-0x61C8_8646_80B5_83EB, -0x4B47_4B06_9CB5_8D35, 0x2545_F491_4F6C_DD1D)  # factors of the hash


@dataclass(frozen=True, kw_only=True)
class TopContexts(PerLayerMetric):
    """Mean write in a unit's top contexts (`layer_<i>`, over units that have one), the share of a unit's contexts whose
    own token is the most common of them (`same_token_share/`, over units with two or more), and the arrays `values/`
    [D, k] float32, falling, NaN where a unit has fewer contexts; `tokens/` [D, k, 2·window + 1] int32, the context's
    own token in the middle; `positions/` [D, k] int32, its index in its row; -1 where there is nothing to show.

    Signed: a unit that is never positive has no contexts. Windows end with their row and leave out masked tokens; they
    cross the end of a document, as attention does. A row that occurs twice counts twice. Scale moved from activations
    to W_out changes nothing. NaN without tokens.
    State: D·k·(16 + 8·window) bytes a layer, whatever the corpus (2.9 MB at D = 1536).

    Args:
        sites: see `Metric`.
        k: contexts of a unit.
        window: tokens shown on either side.
    """

    k: int = field(default=20, metadata={"min": 1, "max": 200, "help": "Contexts of a unit."})
    window: int = field(default=10, metadata={"min": 0, "max": 512, "help": "Tokens shown on either side."})

    def observe(self, forward: ForwardPass, path: str) -> Record:
        site = forward.sites[path]
        rows = real_rows(forward, site)
        row, position, tie = forward.once(("places", rows.device), lambda: _places(forward, rows.device))
        windows = _windows(forward, self.window).to(rows.device)
        best: Record | None = None
        for part, part_of_row, part_of_position, part_of_tie in zip(
            *(whole.split(_ROWS) for whole in (rows, row, position, tie)), strict=True
        ):
            keys, index = _best(part, part_of_tie, self.k)
            found = _contexts(keys, part_of_row[index], part_of_position[index], windows)
            best = found if best is None else _better(best, found, self.k)
        return {**best, "num_tokens": len(rows), "write_norm": write_norm(site)}

    def absorb(self, record: Record | None, observation: Record) -> Record:
        if record is None:
            return {key: value.clone() if isinstance(value, Tensor) else value for key, value in observation.items()}
        merged = _better(record, observation, self.k)
        return {**record, **merged, "num_tokens": record["num_tokens"] + observation["num_tokens"]}

    def summarise(self, record: Record) -> dict[str, float | np.ndarray]:
        found = record["keys"] != _NOTHING
        values = _activations(record["keys"]).double() * record["write_norm"].double().unsqueeze(1)
        values = values.masked_fill(~found, torch.nan)
        share = _same_token_share(record["tokens"][:, :, self.window], found)
        missing = self.k - found.shape[1]
        return {
            "": float(values.nanmean(dim=1).nanmean()),
            "same_token_share": float(share.nanmean()),
            "values": pad(values.float(), (0, missing), value=torch.nan).cpu().numpy(),
            "tokens": pad(record["tokens"], (0, 0, 0, missing), value=_NOTHING).cpu().numpy(),
            "positions": pad(record["positions"], (0, missing), value=_NOTHING).cpu().numpy(),
        }


def _best(rows: Tensor, tie: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Keys [D, ≤k] in falling order, and the index of the token of each, for activations [N, D]."""
    active = rows.float().T
    active = torch.where(active > 0, active, 0.0).contiguous()  # [D, N]; NaN is not active either
    units, count = active.shape
    if count <= k:
        index = torch.arange(count, device=rows.device).expand(units, count)
    else:
        largest, index = active.topk(k + 1, dim=1)
        index = index[:, :k].clone()
        tied = (largest[:, k] == largest[:, k - 1]) & (largest[:, k] > 0)
        if bool(tied.any()):  # topk takes any of equals
            index[tied] = _keys(active[tied], tie).topk(k, dim=1).indices
    keys, order = _keys(active.gather(1, index), tie[index]).sort(dim=1, descending=True)
    return keys, index.gather(1, order)


def _contexts(keys: Tensor, row: Tensor, position: Tensor, windows: Tensor) -> Record:
    """The contexts at places [D, ≤k], with their windows of [B, T, W]."""
    nothing = keys == _NOTHING
    tokens = windows[row, position]
    return {
        "keys": keys,
        "tokens": tokens.masked_fill(nothing.unsqueeze(-1), _NOTHING).int(),
        "positions": position.masked_fill(nothing, _NOTHING).int(),
    }


def _keys(active: Tensor, tie: Tensor) -> Tensor:
    """int64 that compare as (activation, tie): the bits of a positive float32 are in its order. -1 for zero."""
    return torch.where(active > 0, (active.view(torch.int32).long() << 32) | tie, _NOTHING)


def _activations(keys: Tensor) -> Tensor:
    return (keys >> 32).int().view(torch.float32)


def _better(a: Record, b: Record, k: int) -> Record:
    """The k best contexts of both, tensors of its own."""
    keys, order = torch.cat((a["keys"], b["keys"]), dim=1).sort(dim=1, descending=True, stable=True)
    order = order[:, :k]
    tokens = torch.cat((a["tokens"], b["tokens"]), dim=1)
    return {
        "keys": keys[:, :k].clone(),
        "tokens": tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.shape[2])),
        "positions": torch.cat((a["positions"], b["positions"]), dim=1).gather(1, order),
    }


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


def _windows(forward: ForwardPass, window: int) -> Tensor:
    """[B, T, 2·window + 1], a view: the ids of the real tokens around each, -1 elsewhere and beyond the row."""
    ids = forward.input_ids.masked_fill(~forward.token_mask, _NOTHING)
    return pad(ids, (window, window), value=_NOTHING).unfold(1, 2 * window + 1, 1)
