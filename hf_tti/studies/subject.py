"""A model under study: its activations on a sample, what an intervention does to it, and its nulls.

random_init   the same architecture with the weights that its configuration draws from a seed
rotated       activations a → aQ, W_out → QᵀW_out with a random orthogonal Q a hookpoint: same writes, other units
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from hf_tti.activations import Hookpoint, Recorder, Site, resolve_sites
from hf_tti.studies.sample import Sample

Intervention = Callable[[Tensor], Tensor]  # [B, T, D] -> [B, T, D]


class Subject:
    """A causal LM in evaluation mode. Leaves no hook behind.

    Args:
        model: on any device; put into evaluation mode.
        sites: what studies will ask activations of; all of them are recorded in one pass over a sample.
        name: `trained` or the null row that it stands for.
        view: what is done to a hookpoint's `Site` before anybody sees it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[str] = (),
        *,
        name: str = "trained",
        view: Callable[[str, Site], Site] | None = None,
    ):
        self.model, self.name, self._view = model.eval(), name, view
        self._points = {point.path: point for point in resolve_sites(model, sites)}
        self._sample: Sample | None = None
        self._rows: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def hookpoints(self, sites: Sequence[str]) -> list[Hookpoint]:
        """Of these sites, by site and then by layer.

        Raises:
            UserError: a site matches nothing in this model.
        """
        return resolve_sites(self.model, sites)

    @torch.no_grad()
    def forward(
        self,
        batch: Mapping[str, Tensor],
        *,
        interventions: Mapping[str, Intervention] | None = None,
        record: Sequence[Hookpoint] = (),
        logits: bool = True,
    ) -> tuple[Any, dict[str, Site]]:
        """One forward: the model's output, and path -> Site of the recorded hookpoints.

        Args:
            batch: `input_ids` [B, T], optional `attention_mask`.
            interventions: hookpoint path -> what takes the place of its activations.
            record: hookpoints to give back; they show what an intervention put there.
            logits: False runs the blocks alone, which for a large vocabulary is most of the time saved.
        """
        inputs = {key: value.to(self.device) for key, value in batch.items() if key != "labels"}
        with _intervening(self.model, interventions or {}):
            recorder = Recorder(self.model, record)
            try:
                with recorder.recording():
                    outputs = (self.model if logits else self.model.base_model)(**inputs, use_cache=False)
                sites = recorder.sites
            finally:
                recorder.close()
        if self._view is not None:
            sites = {path: self._view(path, site) for path, site in sites.items()}
        return outputs, sites

    def activations(self, sample: Sample, point: Hookpoint) -> Tensor:
        """[N, D] float32 on the CPU: activations of the sample's tokens at a hookpoint, kept until another sample."""
        if sample.rows is not (self._sample and self._sample.rows):
            self._sample, self._rows = sample, {}
        if point.path not in self._rows:
            wanted = {**self._points, point.path: point} if not self._rows else {point.path: point}
            self._rows |= self._record(sample, list(wanted.values()))
        return self._rows[point.path]

    def write_norm(self, point: Hookpoint) -> Tensor:
        """[D] float32 on the CPU: ‖W_out,i‖, ones in the residual stream's own coordinates."""
        batch = {"input_ids": torch.zeros(1, 1, dtype=torch.long)}
        _, sites = self.forward(batch, record=[point], logits=False)
        return sites[point.path].write_norm.detach().cpu()

    def _record(self, sample: Sample, points: Sequence[Hookpoint]) -> dict[str, Tensor]:
        found = {point.path: torch.empty(sample.num_tokens, point.width) for point in points}
        start = 0
        for batch in sample.batches():
            _, sites = self.forward(batch, record=points, logits=False)
            kept = batch["attention_mask"].bool()
            kept[:, 0] = False  # the end-of-text token before the document
            stop = start + int(kept.sum())
            for path, rows in found.items():
                activations = sites[path].activations
                rows[start:stop] = activations[kept.to(activations.device)].float().cpu()
            start = stop
        return found


def random_init(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """A model of the same configuration, type and device with fresh weights. Leaves the global generators alone."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), dtype=model.dtype)
    return fresh.to(model.device).eval()


def rotated(path: str, site: Site, seed: int = 0) -> Site:
    """The site in a random basis: the same writes to the residual stream, other units."""
    turn = _rotation(site.activations.shape[-1], path, seed).to(site.activations)
    out_weight = None if site.out_weight is None else turn.T.to(site.out_weight) @ site.out_weight
    return replace(site, activations=site.activations @ turn, out_weight=out_weight)


@lru_cache(maxsize=64)
def _rotation(width: int, path: str, seed: int) -> Tensor:
    """[D, D] float32, orthogonal, uniform (Haar)."""
    digest = hashlib.sha256(f"{seed}/{path}/{width}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()


@contextmanager
def _intervening(model: nn.Module, interventions: Mapping[str, Intervention]):
    base = getattr(model, "base_model", model)
    handles = []
    try:
        for path, change in interventions.items():
            body, _, side = path.partition(":")
            module = base.get_submodule(body)
            if side == "in":
                handles.append(module.register_forward_pre_hook(_changing_input(change), with_kwargs=True))
            else:
                handles.append(module.register_forward_hook(_changing_output(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _changing_input(change: Intervention):
    def hook(_module, args, kwargs):
        if args:
            return (change(args[0]), *args[1:]), kwargs
        name, value = next(iter(kwargs.items()))
        return args, {**kwargs, name: change(value)}

    return hook


def _changing_output(change: Intervention):
    def hook(_module, _args, output):
        if isinstance(output, Tensor):
            return change(output)
        return type(output)((change(output[0]), *output[1:]))

    return hook
