"""The neuron browser's data: what each unit fires on, and every number that the report has for single units.

A page holds the arrays of each layer as `analysis.packing` writes them, and opens a layer when it is looked at. A
sample takes the same units of every run as far as they live: a random order by seed and layer, dead units passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from analysis.html import script_json, write_page
from analysis.packing import encode_tokens, pack, quantised, smallest
from hf_tti.errors import UserError
from hf_tti.report import Report

if TYPE_CHECKING:
    from analysis.runs import Run

FORMAT_VERSION = 1
STYLES = ("contexts.css", "neurons.css")  # of a page that holds the browser, in order
SCRIPTS = ("units.js", "elements.js", "neurons.js")
_METRIC, _CONCEPTS = "top_contexts", "concept_auroc"


@dataclass(frozen=True, kw_only=True, eq=False)
class Neurons:
    """Units of one layer.

    Attributes:
        site, layer: where.
        size: units that the layer has.
        units: [U] their indices, rising.
        values: [U, k] activation × ‖W_out‖ of each context's own token, falling; NaN where there is no context.
        positions: [U, k] its index in its row, -1 where there is none.
        tokens: [U, k, 2w+1] ids, the own token in the middle, -1 where there is none.
        activations: [U, k, 2w+1] activation × ‖W_out‖ of each token, signed; 0 where there is none.
        measures: name -> [U], whatever the report has for single units.
        concepts: [U] names of the concepts that a unit tells apart best; empty where the report has none.
    """

    site: str
    layer: int
    size: int
    units: NDArray[np.int64]
    values: NDArray[np.float32]
    positions: NDArray[np.int32]
    tokens: NDArray[np.int32]
    activations: NDArray[np.float32]
    measures: Mapping[str, NDArray[np.float32]]
    concepts: Sequence[str] = ()

    @property
    def live(self) -> NDArray[np.bool_]:
        """[U]: units that have a context."""
        return np.isfinite(self.values[:, 0])

    def take(self, rows: NDArray[np.int64], num_contexts: int | None = None) -> Neurons:
        """Some rows of it, in the order given, with their first `num_contexts` contexts; None is all."""
        contexts = ("values", "positions", "tokens", "activations")
        return replace(
            self,
            units=self.units[rows],
            measures={name: values[rows] for name, values in self.measures.items()},
            concepts=[self.concepts[row] for row in rows] if self.concepts else (),
            **{name: getattr(self, name)[rows, :num_contexts] for name in contexts},
        )


def read_neurons(report: Report) -> Iterator[Neurons]:
    """The layers that have top contexts, one at a time; none where the metric was not measured."""
    label = next((name for name, item in report.metric_settings.items() if item.get("metric") == _METRIC), None)
    pattern = re.compile(rf"{re.escape(label or '')}/values/(?:(.+)/)?layer_(\d+)")
    places = [match for match in map(pattern.fullmatch, report.arrays) if match]
    for place in sorted(places, key=lambda match: (match[1] or "", int(match[2]))):
        site = place[1] or report.metric_settings[label].get("sites", ["mlp.neurons"])[0]
        yield _read_layer(report, label, site, int(place[2]), place[0].removeprefix(f"{label}/values/"))


def _read_layer(report: Report, label: str, site: str, layer: int, key: str) -> Neurons:
    values, positions, tokens, activations = (
        report.arrays[f"{label}/{name}/{key}"] for name in ("values", "positions", "tokens", "activations")
    )
    peaks = tokens[:, :, tokens.shape[2] // 2]
    return Neurons(
        site=site,
        layer=layer,
        size=len(values),
        units=np.arange(len(values)),
        values=values.astype(np.float32),
        positions=positions,
        tokens=tokens,
        activations=np.nan_to_num(activations.astype(np.float32)),  # a diverged model's are not all numbers
        measures={
            "max_activation": values[:, 0].astype(np.float32),
            "same_token_share": _same_token_share(peaks),
            **_unit_measures(report, site, layer, len(values)),
        },
        concepts=_concepts(report, site, layer),
    )


def _same_token_share(peaks: NDArray[np.int32]) -> NDArray[np.float32]:
    """[U]: the count of the most common of the own tokens [U, k] over their number; NaN with fewer than two."""
    found = peaks >= 0
    counts = ((peaks[:, :, None] == peaks[:, None, :]) & found[:, None, :]).sum(axis=2).max(axis=1)
    total = found.sum(axis=1)
    return np.where(total >= 2, counts / np.maximum(total, 1), np.nan).astype(np.float32)


def _unit_measures(report: Report, site: str, layer: int, size: int) -> dict[str, NDArray[np.float32]]:
    """`<label>/<name>` -> [U], of metrics and studies that looked at the same site."""
    found = {}
    for label, settings in report.metric_settings.items():
        sites = settings.get("sites", ())
        if settings.get("metric") == _METRIC or site not in sites:
            continue
        key = _key(sites, site, layer)
        for name in report.arrays:
            if name.startswith(f"{label}/") and name.endswith(f"/{key}"):
                array = report.arrays[name]
                if array.shape == (size,) and array.dtype.kind == "f":
                    found[name.removesuffix(f"/{key}")] = array.astype(np.float32)
    return found


def _concepts(report: Report, site: str, layer: int) -> list[str]:
    """[U]: the name of each unit's concept, with `not` where low activations stand for it."""
    for label, settings in report.metric_settings.items():
        key = _key(settings.get("sites", ()), site, layer)
        if settings.get("study") == _CONCEPTS and f"{label}/concept/{key}" in report.arrays:
            names = report.arrays[f"{label}/concept_names"].tobytes().decode().split("\n")
            chosen, signs = (report.arrays[f"{label}/{name}/{key}"] for name in ("concept", "sign"))
            return [f"not {names[i]}" if sign < 0 else names[i] for i, sign in zip(chosen, signs, strict=True)]
    return []


def _key(sites: Sequence[str], site: str, layer: int) -> str:
    return f"{site}/layer_{layer}" if len(sites) > 1 else f"layer_{layer}"


def sample(layers: Sequence[Neurons], num_units: int, num_contexts: int, *, seed: int = 0) -> list[Neurons]:
    """About `num_units` live units, as many of every layer, each with its first contexts."""
    chosen = []
    for index, neurons in enumerate(layers):
        order = np.random.default_rng([seed, neurons.layer]).permutation(neurons.size)
        share = num_units // len(layers) + (index < num_units % len(layers))
        chosen.append(neurons.take(np.sort(order[neurons.live[order]][:share]), num_contexts))
    return chosen


# ---- pages -------------------------------------------------------------------------------------


def inline_neurons(
    runs: Sequence[Run], *, per_run: int = 40, num_contexts: int = 5, pages: Mapping[str, str] | None = None
) -> str:
    """A sample of every run's units as JSON text that is safe inside `<script type="application/json">`.

    Args:
        runs: those without top contexts are named in the data and have no units.
        per_run: units of a run, about.
        num_contexts: of a unit.
        pages: run label -> address of the page with all its units; None is `neurons/<page_name>` for every run.
    """
    if pages is None:
        pages = {run.label: f"neurons/{quote(page_name(run))}" for run in runs}
    layers = ((run, sample(list(read_neurons(run.report)), per_run, num_contexts)) for run in runs)
    return script_json(_content(layers, pages=pages, sampled=True))


def write_neuron_page(run: Run, path: Path) -> None:
    """A page with every unit of a run and all its contexts.

    Raises:
        UserError: the report has no top contexts.
    """
    layers = list(read_neurons(run.report))
    if not layers:
        raise UserError(f"{run.label}: its report has no top contexts; evaluate it with the metric {_METRIC}")
    content = _content([(run, layers)], pages={}, sampled=False)
    write_page(
        Path(path),
        "neuron_page.html.j2",
        styles=("report.css", *STYLES),
        scripts=SCRIPTS,
        name=run.label,
        num_units=sum(neurons.size for neurons in layers),
        num_layers=len(layers),
        data=script_json(content),
    )


def page_name(run: Run) -> str:
    """The file name of a run's page: its label without what file systems and addresses trip over."""
    return re.sub(r"[^\w.+=-]+", "_", run.label).lstrip(".")[:60] + ".html"  # a file system takes 255 bytes


def _content(layers: Any, *, pages: Mapping[str, str], sampled: bool) -> dict[str, Any]:
    codes: dict[str, int] = {}
    facts: dict[str, dict[str, Any]] = {}
    runs = []
    for run, found in layers:
        texts = run.report.token_texts()
        packed = [_packed(neurons, texts, codes) for neurons in found]
        for neurons in found:
            facts |= {name: _describe(name, run.report) for name in neurons.measures if name not in facts}
        head = {"name": run.label, "method": run.method, "seed": run.seed, "page": pages.get(run.label)}
        runs.append({**head, "layers": packed})
    return {"format": FORMAT_VERSION, "sampled": sampled, "texts": list(codes), "measures": facts, "runs": runs}


def _describe(name: str, report: Report) -> dict[str, Any]:
    if name == "max_activation":
        return {"label": "max activation", "summary": "largest activation × ‖W_out‖ over all tokens"}
    if name == "same_token_share":
        return {"label": "same-token share", "summary": "share of a unit's contexts whose own token is the commonest"}
    label, _, part = name.partition("/")
    words = label.replace("_", " ").replace("auroc", "AUROC")
    shown = words if part in label else f"{words}: {part.replace('_', ' ')}"
    return {"label": shown, "summary": report.metric_facts.get(label, {}).get("summary", "")}


def _packed(neurons: Neurons, texts: Mapping[int, str], codes: dict[str, int]) -> dict[str, Any]:
    """A layer for the page; adds the texts of its tokens to `codes`."""
    steps, scales = quantised(neurons.activations)
    concepts = sorted(set(neurons.concepts))
    arrays = {
        "units": smallest(neurons.units),
        "values": neurons.values,
        "positions": neurons.positions,
        "scales": scales,
        "tokens": encode_tokens(neurons.tokens, texts, codes),
        "activations": steps,
        **{f"measure:{name}": values for name, values in neurons.measures.items()},
    }
    if concepts:
        arrays["concept"] = smallest(np.searchsorted(concepts, neurons.concepts))
    place = {"site": neurons.site, "layer": neurons.layer, "size": neurons.size}
    return {**place, "concepts": concepts, **pack(arrays)}
