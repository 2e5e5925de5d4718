"""Capture: how activations leave a model, once per forward, for everybody.

Shapes: B batch, T position, D width of a site, F d_mlp, H heads, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hf_tti.errors import UserError
from hf_tti.sites import SITES, UNPRIVILEGED_SITES, Hookpoint, match_site

__all__ = [
    "SITES",
    "UNPRIVILEGED_SITES",
    "ForwardPass",
    "Hookpoint",
    "Recorder",
    "Site",
    "capture",
    "make_forward_pass",
    "resolve_sites",
]


@dataclass(frozen=True)
class Site:
    """What one hookpoint gave.

    Attributes:
        activations: [B, T, D], graph attached while training.
        layer, name: the block's index and the site's name.
        out_weight: [D, d_model], row i is what unit i writes to the residual stream; None where the activations are
            in the residual stream's own coordinates.
        aux: what an architecture adds (gates, mu and logvar, router logits), by name.
    """

    activations: Tensor
    layer: int = 0
    name: str = "mlp.neurons"
    out_weight: Tensor | None = None
    aux: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def write_norm(self) -> Tensor:
        """[D] float32: the norm of each unit's row of `out_weight`, ones where there is none."""
        if self.out_weight is None:
            return torch.ones(self.activations.shape[-1], device=self.activations.device)
        return self.out_weight.float().norm(dim=1)


@dataclass(frozen=True)
class ForwardPass:
    """Everything that one forward produced; the only view of it that objectives and metrics get.

    Attributes:
        input_ids: [B, T] int64.
        token_mask: [B, T] bool, real tokens. From the attention mask, never from the token's identity.
        sites: hookpoint path -> Site.
        labels: [B, T] as the model takes them (it shifts them itself), -100 where no loss is due.
        outputs: the model's output.
        eos_token_id: ends a document inside a row.
        shared: what one reader worked out for all of this forward's readers; see `once`.
    """

    input_ids: Tensor
    token_mask: Tensor
    sites: Mapping[str, Site] = field(default_factory=dict)
    labels: Tensor | None = None
    outputs: Any = None
    eos_token_id: int | None = None
    # Not a field that `replace` copies: with another mask or other sites the values would be wrong.
    shared: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, key: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, run once for this forward and all its narrowed views. The result is read-only."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    @cached_property
    def num_active(self) -> Tensor:
        """Number of real tokens, a scalar on the device."""
        return self.token_mask.sum()

    @cached_property
    def document_ids(self) -> Tensor:
        """[B, T] int64: the index of the document in its row. EOS belongs to the document that it ends."""
        if self.eos_token_id is None:
            return torch.zeros_like(self.input_ids)
        ends = (self.input_ids == self.eos_token_id).long()
        return ends.cumsum(dim=1) - ends

    @cached_property
    def positions(self) -> Tensor:
        """[B, T] int64: the position of a token in its document, counted from what the row shows of it."""
        index = torch.arange(self.input_ids.shape[1], device=self.input_ids.device).expand_as(self.input_ids)
        starts = torch.ones_like(self.input_ids, dtype=torch.bool)
        starts[:, 1:] = self.document_ids[:, 1:] != self.document_ids[:, :-1]
        return index - torch.where(starts, index, 0).cummax(dim=1).values

    def narrow(self, hookpoints: Sequence[Hookpoint]) -> ForwardPass:
        """The same forward with these hookpoints only, under the names by which they were asked for."""
        narrowed = replace(
            self,
            sites={p.path: replace(self.sites[p.path], layer=p.layer, name=p.site) for p in hookpoints},
        )
        object.__setattr__(narrowed, "shared", self.shared)
        return narrowed


def resolve_sites(model: nn.Module, sites: Sequence[str]) -> list[Hookpoint]:
    """The hookpoints of the named sites in a model, by site and then by layer. Runs the model once on one token.

    Args:
        model: a HuggingFace causal LM, not wrapped.
        sites: names of `SITES` or module paths.

    Raises:
        UserError: a site matches nothing in this model, or does not give [B, T, D]; says what is there.
    """
    base = getattr(model, "base_model", model)
    modules = [name for name, _ in base.named_modules() if name]
    unsized = [point for site in dict.fromkeys(sites) for point in match_site(base, modules, site)]
    widths = _widths(model, unsized)
    return [replace(point, width=widths[point.path]) for point in unsized]


@torch.no_grad()
def _widths(model: nn.Module, hookpoints: Sequence[Hookpoint]) -> dict[str, int]:
    if not hookpoints:
        return {}
    modes = {module: module.training for module in model.modules()}
    recorder = Recorder(model, hookpoints)
    device = next(model.parameters()).device
    try:
        model.eval()
        with recorder.recording():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
        shapes = {path: tensor.shape for path, tensor in recorder.tensors.items()}
    finally:
        for module, training in modes.items():
            module.training = training
        recorder.close()
    for point in hookpoints:
        shape = shapes.get(point.path)
        if shape is None or len(shape) != 3 or shape[:2] != (1, 2):
            given = "nothing" if shape is None else f"the shape {list(shape)} for one row of two tokens"
            raise UserError(f"site {point.site!r}: {point.path} gives {given}; activations must be [B, T, D]")
    return {path: shape[-1] for path, shape in shapes.items()}


class Recorder:
    """Hooks on a model's hookpoints, registered once and idle except inside `recording()`.

    Args:
        model: the causal LM itself, not its distributed or compiled wrapper: a wrapper runs the same modules.
        hookpoints: from `resolve_sites`; the same path may occur under several sites.
    """

    def __init__(self, model: nn.Module, hookpoints: Sequence[Hookpoint]):
        self._base = getattr(model, "base_model", model)
        self._hookpoints = {point.path: point for point in hookpoints}
        self._active = False
        self.tensors: dict[str, Tensor] = {}
        self._handles = [self._register(path) for path in self._hookpoints]

    def _register(self, path: str):
        body, _, side = path.partition(":")
        module = self._base.get_submodule(body)
        if side == "in":
            return module.register_forward_pre_hook(
                lambda _module, args, kwargs: self._keep(path, args or tuple(kwargs.values())),
                with_kwargs=True,
            )
        return module.register_forward_hook(lambda _module, _args, output: self._keep(path, output))

    def _keep(self, path: str, output: Any) -> None:
        if self._active:
            # A block gives a tensor or a tuple depending on the version of transformers.
            self.tensors[path] = output if isinstance(output, Tensor) else output[0]

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Activations of the forward inside the block are in `sites` after it, until the next one."""
        self.tensors = {}
        self._active = True
        try:
            yield self
        finally:
            self._active = False

    @property
    def sites(self) -> dict[str, Site]:
        """Path -> Site of the last recorded forward."""
        return {path: self._site(self._hookpoints[path], tensor) for path, tensor in self.tensors.items()}

    def _site(self, point: Hookpoint, tensor: Tensor) -> Site:
        out_weight = None
        if point.reader is not None:
            reader = self._base.get_submodule(point.reader)
            # nn.Linear keeps [out, in]; GPT-2's Conv1D keeps [in, out].
            out_weight = reader.weight.T if isinstance(reader, nn.Linear) else reader.weight
        return Site(tensor, layer=point.layer, name=point.site, out_weight=out_weight)

    def clear(self) -> None:
        """Let go of the last forward's tensors."""
        self.tensors = {}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


@contextmanager
def capture(model: nn.Module, sites: Sequence[str] = ("mlp.neurons",)) -> Iterator[Recorder]:
    """Record a forward in a notebook; the hooks are gone after the block.

    >>> with capture(model, ["mlp.neurons"]) as recorder:           # doctest: +SKIP
    ...     model(input_ids)
    >>> recorder.sites["h.0.mlp.act"].activations.shape             # doctest: +SKIP
    torch.Size([1, 8, 1536])
    """
    recorder = Recorder(model, resolve_sites(model, sites))
    try:
        with recorder.recording():
            yield recorder
    finally:
        recorder.close()


def make_forward_pass(
    inputs: Mapping[str, Tensor],
    outputs: Any,
    sites: Mapping[str, Site],
    *,
    eos_token_id: int | None = None,
    excluded_token_ids: Sequence[int] = (),
) -> ForwardPass:
    """A `ForwardPass` from a batch as the model took it. No attention mask means that every token is real."""
    input_ids = inputs["input_ids"]
    attention_mask = inputs.get("attention_mask")
    mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    for token_id in excluded_token_ids:
        mask = mask & (input_ids != token_id)
    return ForwardPass(input_ids, mask, sites, inputs.get("labels"), outputs, eos_token_id)
