"""One streaming pass over evaluation data, in training and for `from_pretrained` analysis alike.

Cross-entropy is the token mean over all batches, in nats; interpretability metrics see the first
`max_batches` batches of each process. Memory: one batch, plus every metric's state.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from hf_tti.activations import ForwardPass, Hookpoint, Recorder, Site, make_forward_pass, resolve_sites
from hf_tti.cross_entropy import DocumentShards, device_of_float64, labels_of, perplexity, token_losses
from hf_tti.metrics.base import Metric


class MetricAccumulator:
    """Cross-entropy and metrics, batch by batch.

    Args:
        model: the causal LM itself, not its wrapper. Asked for its hookpoints, not kept.
        metrics: label -> Metric.
        max_batches: how many batches of this process the metrics see; None is all. Cross-entropy
            always sees all.
        eos_token_id: ends a document inside a row, for metrics that look at documents or positions.
        excluded_token_ids: tokens that the metrics skip; cross-entropy is not concerned.
        view: what metrics see in place of a forward, such as a null.
        shards: is given every token's cross-entropy, on one process.

    Attributes:
        hookpoints: what `update` needs activations of, each path once.

    Raises:
        UserError: a metric's site matches nothing in this model.
    """

    def __init__(
        self,
        model: nn.Module,
        metrics: Mapping[str, Metric],
        *,
        max_batches: int | None = None,
        eos_token_id: int | None = None,
        excluded_token_ids: Sequence[int] | None = (),
        view: Callable[[ForwardPass], ForwardPass] | None = None,
        shards: DocumentShards | None = None,
    ):
        self.metrics = dict(metrics)
        self._points = {label: resolve_sites(model, metric.sites) for label, metric in self.metrics.items()}
        by_path = {point.path: point for points in self._points.values() for point in points}
        self.hookpoints: list[Hookpoint] = list(by_path.values())
        self._max_batches = max_batches
        self._masking = {
            "eos_token_id": eos_token_id,
            "excluded_token_ids": tuple(excluded_token_ids or ()),
        }
        self._view, self._shards = view, shards
        self._num_measured = 0
        self._loss_sum: Tensor | float = 0.0
        self._num_tokens: Tensor | int = 0
        self._states = {label: metric.init() for label, metric in self.metrics.items()}

    @property
    def wants_activations(self) -> bool:
        """Whether the next `update` needs `sites`: False without metrics and once `max_batches`
        were measured.
        """
        return bool(self.hookpoints) and (self._max_batches is None or self._num_measured < self._max_batches)

    @torch.no_grad()
    def update(
        self,
        inputs: Mapping[str, Tensor],
        outputs: Any,
        sites: Mapping[str, Site] | None = None,
        keep_rows: int | None = None,
    ) -> None:
        """Add one batch.

        Args:
            inputs: `input_ids` [B, T], optional `attention_mask` and `labels` (unshifted, -100 is
                ignored; without them every real token is predicted).
            outputs: the model's output, or its logits [B, T, V].
            sites: path -> Site covering `hookpoints`; looked at only while `wants_activations`.
            keep_rows: use the first rows only (a distributed sampler pads the last batch with
                duplicates).
        """
        logits = outputs if isinstance(outputs, Tensor) else outputs["logits"]
        num_rows = len(inputs["input_ids"])
        measured = self.wants_activations
        if keep_rows is not None and keep_rows < num_rows:
            inputs = {key: _first_rows(value, keep_rows, num_rows) for key, value in inputs.items()}
            logits = logits[:keep_rows]
            sites = _first_rows_of_sites(sites, keep_rows, num_rows) if measured else sites
        with torch.autocast(logits.device.type, enabled=False):
            losses, predicted = token_losses(logits, labels_of(inputs))
            self._loss_sum = self._loss_sum + losses.to(device_of_float64(losses.device)).double().sum()
            self._num_tokens = self._num_tokens + predicted.sum()
            if self._shards is not None:
                self._shards.add(inputs["input_ids"], losses, predicted)
            if measured:
                self.measure(inputs, outputs, sites)

    @torch.no_grad()
    def measure(self, inputs: Mapping[str, Tensor], outputs: Any, sites: Mapping[str, Site] | None) -> None:
        """Add one batch to the metrics alone; arguments as in `update`."""
        missing = [point.path for point in self.hookpoints if point.path not in (sites or {})]
        assert not missing, f"update() was not given the activations of {missing}"
        forward = make_forward_pass(inputs, outputs, _where_float64_is(sites), **self._masking)
        forward = forward if self._view is None else self._view(forward)
        for label, metric in self.metrics.items():
            self._states[label] = metric.update(self._states[label], forward.narrow(self._points[label]))
        self._num_measured += 1

    def state(self) -> dict[str, Any]:
        """A picklable copy on the CPU of everything added so far."""
        return {
            "loss_sum": float(self._loss_sum),
            "num_tokens": int(self._num_tokens),
            "metrics": {label: _to_cpu(state) for label, state in self._states.items()},
        }

    def merge_state(self, state: Mapping[str, Any]) -> None:
        """Add what another accumulator saw of the same model with the same metrics."""
        assert state["metrics"].keys() == self.metrics.keys(), (
            list(state["metrics"]),
            list(self.metrics),
        )
        self._loss_sum = float(self._loss_sum) + state["loss_sum"]
        self._num_tokens = int(self._num_tokens) + state["num_tokens"]
        for label, metric in self.metrics.items():
            self._states[label] = metric.merge(_to_cpu(self._states[label]), state["metrics"][label])

    def merge_all(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Become the merge of these states in this order, so that every rank that does it ends with
        the same bits.
        """
        self._loss_sum, self._num_tokens = 0.0, 0
        self._states = {label: metric.init() for label, metric in self.metrics.items()}
        for state in states:
            self.merge_state(state)

    def gather(self) -> None:
        """Become the merge of all ranks' states, on every rank; nothing on one process.

        One rank's state travels at a time: two states in memory, not one for every rank.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        self.merge_all(_broadcast_states(self.state()))

    def finalize(self) -> dict[str, float]:
        """`loss`, `perplexity`, `num_tokens`, and `<label>/<key>` for every number of every metric.
        NaN without data.
        """
        num_tokens = int(self._num_tokens)
        loss = float(self._loss_sum) / num_tokens if num_tokens else math.nan
        values = {"loss": loss, "perplexity": perplexity(loss), "num_tokens": num_tokens}
        return values | {key: value for key, value in self._results() if not isinstance(value, np.ndarray)}

    def arrays(self) -> dict[str, np.ndarray]:
        """`<label>/<key>` for every array of every metric: per-unit values, unit-by-unit
        matrices.
        """
        return {key: value for key, value in self._results() if isinstance(value, np.ndarray)}

    def _results(self) -> Iterator[tuple[str, float | np.ndarray]]:
        for label, metric in self.metrics.items():
            for key, value in metric.finalize(self._states[label]).items():
                yield f"{label}/{key}", value


def evaluate_metrics(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    metrics: Mapping[str, Metric],
    *,
    max_batches: int | None = None,
    progress: bool = False,
    eos_token_id: int | None = None,
    excluded_token_ids: Sequence[int] = (),
) -> dict[str, float]:
    """Measure a model as training-time evaluation does. Leaves its mode, its hooks and the global
    generators alone.

    Args:
        model: a HuggingFace causal LM on any device.
        batches: mappings with `input_ids` [B, T], optional `attention_mask` and `labels`; moved to
            the model's device.
        metrics: label -> Metric.
        max_batches: how many batches the metrics see; None is all. Cross-entropy sees all.
        progress: show a bar on standard error.
        eos_token_id, excluded_token_ids: as in `MetricAccumulator`.

    Returns:
        `loss` (nats per token), `perplexity`, `num_tokens`, `<label>/layer_<i>`, `<label>/mean` and
        what else a metric gives.

    Raises:
        UserError: a metric's site matches nothing in this model.
    """
    accumulator = MetricAccumulator(
        model,
        metrics,
        max_batches=max_batches,
        eos_token_id=eos_token_id,
        excluded_token_ids=excluded_token_ids,
    )
    accumulate(model, batches, accumulator, progress=progress)
    return accumulator.finalize()


@torch.no_grad()
def accumulate(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    accumulator: MetricAccumulator,
    *,
    also: Sequence[MetricAccumulator] = (),
    progress: bool = False,
    description: str = "evaluate",
) -> None:
    """Run a model over batches into an accumulator, for callers that also want its `arrays()`.

    Args:
        also: accumulators whose metrics see the same forwards; their cross-entropy stays empty.
        progress, description: a bar on standard error.
    """
    device = next(model.parameters()).device
    points = {point.path: point for each in (accumulator, *also) for point in each.hookpoints}
    with _evaluation_mode(model), _global_generators_kept():
        recorder = Recorder(model, list(points.values()))
        try:
            for batch in tqdm(batches, desc=description, unit="batch", disable=not progress):
                inputs = {key: value.to(device) for key, value in batch.items()}
                called = {key: value for key, value in inputs.items() if key != "labels"}
                if any(each.wants_activations for each in (accumulator, *also)):
                    with recorder.recording():
                        outputs = model(**called, use_cache=False)
                else:
                    outputs = model(**called, use_cache=False)
                accumulator.update(inputs, outputs, recorder.sites)
                for each in also:
                    if each.wants_activations:
                        each.measure(inputs, outputs, recorder.sites)
                recorder.clear()
        finally:
            recorder.close()


def _first_rows(value: Any, keep: int, num_rows: int) -> Any:
    batched = isinstance(value, Tensor) and value.dim() > 0 and len(value) == num_rows
    return value[:keep] if batched else value


def _first_rows_of_sites(sites: Mapping[str, Site], keep: int, num_rows: int) -> dict[str, Site]:
    return {
        path: replace(
            site,
            activations=_first_rows(site.activations, keep, num_rows),
            aux={key: _first_rows(value, keep, num_rows) for key, value in site.aux.items()},
        )
        for path, site in sites.items()
    }


def _where_float64_is(sites: Mapping[str, Site]) -> dict[str, Site]:
    devices = {path: device_of_float64(site.activations.device) for path, site in sites.items()}
    return {path: replace(site, activations=site.activations.to(devices[path])) for path, site in sites.items()}


def _to_cpu(state: Any) -> Any:
    """A copy of nested containers with their tensors on the CPU."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: _to_cpu(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_to_cpu(value) for value in state)
    return state


def _broadcast_states(own: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for rank in range(dist.get_world_size()):
        box = [own if rank == dist.get_rank() else None]
        dist.broadcast_object_list(box, src=rank)
        yield box[0]


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards each in the mode that it had."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in was_training.items():
            module.training = training


@contextmanager
def _global_generators_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's global generators end as they were: a DataLoader draws from
    them when iterated.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
