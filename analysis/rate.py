"""A page on which people judge units without knowing whose they are.

Live units drawn at random from every model, all mixed: contexts and shades alone, each unit's relative to its own
largest activation, since the size of activations would tell the models apart. What an item is stands in `key.json`
beside the page, which raters do not get. Source: the blind rating of random neurons in Elhage et al. 2022, Softmax
Linear Units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.html import script_json, write_page
from analysis.neurons import Neurons, read_neurons
from analysis.packing import encode_tokens, pack, smallest
from analysis.ratings import KEY_SCHEMA, RATINGS, RATINGS_SCHEMA, SCHEMA_VERSION
from hf_tti.errors import UserError
from hf_tti.run_folder import write_text

if TYPE_CHECKING:
    from analysis.runs import Run

PAGE_FILE, KEY_FILE = "rate.html", "key.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """Units of one model.

    Attributes:
        tokens: [n, k, W] codes.
        shares: [n, k, W] activation over the unit's largest, within ±1.
        places: of each unit: run, method, site, layer, unit.
    """

    tokens: NDArray[np.unsignedinteger]
    shares: NDArray[np.float32]
    places: list[dict[str, Any]]


def write_rating_page(runs: Sequence[Run], out: str | Path, *, num_neurons: int = 50, seed: int = 0) -> Path:
    """Writes `rate.html` and `key.json` into the folder `out`; returns the page's path.

    Args:
        runs: models to judge. As many contexts are shown of each, equally wide.
        out: folder.
        num_neurons: live units of every model, from all of its layers; all where it has fewer.
        seed: of the draw and of the order.

    Raises:
        UserError: no run, a run without a unit that has top contexts, `num_neurons` below 1.
    """
    if not runs:
        raise UserError("rating page: no run to draw units from")
    if num_neurons < 1:
        raise UserError(f"num_neurons = {num_neurons}: expected at least 1")
    layers = [list(read_neurons(run.report)) for run in runs]
    for run, found in zip(runs, layers, strict=True):
        if not any(neurons.live.any() for neurons in found):
            raise UserError(f"{run.label}: no unit has a top context; evaluate it with the metric top_contexts")
    shapes = [neurons.tokens.shape for found in layers for neurons in found]
    crop = (min(shape[1] for shape in shapes), min(shape[2] for shape in shapes) // 2)
    draw = np.random.default_rng(seed)
    codes: dict[str, int] = {}
    drawn = [_draw(run, found, num_neurons, crop, codes, draw) for run, found in zip(runs, layers, strict=True)]
    return _write(drawn, list(codes), Path(out), seed, draw)


def _draw(
    run: Run,
    layers: Sequence[Neurons],
    num_neurons: int,
    crop: tuple[int, int],
    codes: dict[str, int],
    draw: np.random.Generator,
) -> _Drawn:
    """Live units of one run, each equally likely; `crop` is contexts, and tokens on either side."""
    live = [(neurons, row) for neurons in layers for row in np.flatnonzero(neurons.live)]
    chosen = draw.choice(len(live), size=min(num_neurons, len(live)), replace=False)
    units = [neurons.take(np.array([row]), crop[0]) for neurons, row in (live[index] for index in chosen)]
    middle = [unit.tokens.shape[2] // 2 for unit in units]
    window = [slice(at - crop[1], at + crop[1] + 1) for at in middle]
    tokens = np.concatenate([unit.tokens[:, :, part] for unit, part in zip(units, window, strict=True)])
    activations = np.concatenate([unit.activations[:, :, part] for unit, part in zip(units, window, strict=True)])
    largest = np.concatenate([unit.values[:, 0] for unit in units])
    return _Drawn(
        tokens=encode_tokens(tokens, run.report.token_texts(), codes),
        shares=np.clip(activations / largest[:, None, None], -1, 1),
        places=[
            {"run": run.label, "method": run.method, "site": unit.site, "layer": unit.layer, "unit": int(unit.units[0])}
            for unit in units
        ],
    )


def _write(drawn: Sequence[_Drawn], texts: list[str], out: Path, seed: int, draw: np.random.Generator) -> Path:
    """Mixes all units; texts are put in the order of the alphabet, since theirs would tell which model comes first."""
    places = [place for model in drawn for place in model.places]
    order = draw.permutation(len(places))
    ranked = sorted(texts)
    code = np.array([0, *(ranked.index(text) + 1 for text in texts)])
    tokens = smallest(np.concatenate([code[model.tokens] for model in drawn])[order])
    steps = np.rint(np.concatenate([model.shares for model in drawn])[order] * 127).astype(np.int8)
    ids = [str(number) for number in range(1, len(places) + 1)]
    digest = hashlib.sha256(json.dumps([ids, ranked]).encode() + tokens.astype("<u4").tobytes() + steps.tobytes())
    page = {
        "schema": RATINGS_SCHEMA,
        "version": SCHEMA_VERSION,
        "page_sha256": digest.hexdigest(),
        "ratings": RATINGS,
        "ids": ids,
        "texts": ranked,
        **pack({"tokens": tokens, "activations": steps}),
    }
    path = write_page(
        out / PAGE_FILE,
        "rate.html.j2",
        styles=("report.css", "contexts.css", "rate.css"),
        scripts=("units.js", "elements.js", "rate.js"),
        num_items=len(ids),
        data=script_json(page),
    )
    key = {
        "schema": KEY_SCHEMA,
        "version": SCHEMA_VERSION,
        "page_sha256": digest.hexdigest(),
        "seed": seed,
        "items": {item: places[index] for item, index in zip(ids, order.tolist(), strict=True)},
    }
    write_text(out / KEY_FILE, json.dumps(key, indent=1) + "\n")
    return path
