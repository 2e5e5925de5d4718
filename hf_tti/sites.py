"""Where things are in a model: names of the field for the same place in every architecture, or module paths.

A site is a name (`mlp.neurons`, `mlp.out`, `attn.heads`, `resid`) or a module path below the base model in which `*`
stands for one segment; `:in` asks for the module's input. A hookpoint is a site in one layer.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from hf_tti.errors import UserError, did_you_mean

SITES = ("mlp.neurons", "mlp.out", "attn.heads", "resid")
UNPRIVILEGED_SITES = frozenset({"mlp.out", "resid"})


@dataclass(frozen=True)
class _Layout:
    """Where one family of architectures keeps its blocks, its MLP's last linear and its attention's."""

    blocks: str
    neurons: str
    mlp_out: str
    attn_out: str

    def path(self, site: str) -> str:
        inner = {
            "mlp.neurons": self.neurons,
            "mlp.out": self.mlp_out,
            "attn.heads": f"{self.attn_out}:in",
            "resid": "",
        }
        return f"{self.blocks}.{inner[site]}".rstrip(".")

    def reader(self, site: str) -> str | None:
        """The linear that reads the site, whose rows turn a unit into a write to the residual stream."""
        inner = {"mlp.neurons": self.mlp_out, "attn.heads": self.attn_out}
        return f"{self.blocks}.{inner[site]}" if site in inner else None


_LAYOUTS = (
    _Layout("h.*", "mlp.act", "mlp.c_proj", "attn.c_proj"),  # GPT-2
    _Layout("layers.*", "mlp.down_proj:in", "mlp.down_proj", "self_attn.o_proj"),  # Llama, Qwen, Mistral, Gemma
    _Layout("layers.*", "mlp.act", "mlp.dense_4h_to_h", "attention.dense"),  # GPT-NeoX, Pythia
    _Layout("h.*", "mlp.act", "mlp.c_proj", "attn.attention.out_proj"),  # GPT-Neo
    _Layout("h.*", "mlp.act", "mlp.fc_out", "attn.out_proj"),  # GPT-J
    _Layout("layers.*", "mlp.fc2:in", "mlp.fc2", "self_attn.dense"),  # Phi
)


@dataclass(frozen=True)
class Hookpoint:
    """One site in one layer.

    Attributes:
        site: the name or pattern that was asked for.
        path: module path below the base model, with `:in` for a module's input.
        layer: the block's index, or the position among the pattern's matches.
        width: D, the size of the last axis.
        reader: path of the linear that reads the activations, or None where they are the residual stream's own.
        known_as: the name of `SITES` that stands for this path, however it was asked for; None for other modules.
    """

    site: str
    path: str
    layer: int
    width: int
    reader: str | None = None
    known_as: str | None = None


def as_sites(sites: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (sites,) if isinstance(sites, str) else tuple(sites)


def match_site(base: nn.Module, modules: Sequence[str], site: str) -> list[Hookpoint]:
    """The hookpoints of one site among a base model's module paths, widths still 0.

    Raises:
        UserError: nothing matches; says what is there.
    """
    layout = _layout_of(modules)
    if site in SITES:
        if layout is None:
            raise UserError(
                f"site {site!r}: {type(base).__name__} keeps its blocks where hf_tti does not look; "
                f"name a module path instead, such as {_example_path(modules)!r}"
            )
    body, _, side = (layout.path(site) if site in SITES else site).partition(":")
    if side not in ("", "in"):
        raise UserError(f"site {site!r}: {side!r} after the colon; the only choice is ':in', a module's input")
    prefix = getattr(base, "base_model_prefix", "")
    matches = _glob(modules, body) or (_glob(modules, body.removeprefix(f"{prefix}.")) if prefix else [])
    if not matches:
        raise UserError(_no_match(site, body, modules))
    suffix = ":in" if side else ""
    return [_hookpoint(layout, site, path + suffix, order) for order, path in enumerate(matches)]


def _hookpoint(layout: _Layout | None, site: str, path: str, order: int) -> Hookpoint:
    """Not yet measured: its width is 0."""
    layer = _layer_of(path, order)
    known_as = _known_as(layout, path) if layout is not None else None
    reader = layout.reader(known_as) if known_as is not None else None
    return Hookpoint(site, path, layer, 0, reader.replace("*", str(layer)) if reader else None, known_as)


def _known_as(layout: _Layout, path: str) -> str | None:
    """The name of the site at a path; a linear's input is the site that it reads."""
    for site in SITES:
        if _matches(path, layout.path(site)) or _matches(path, f"{layout.reader(site)}:in"):
            return site
    return None


def _layout_of(modules: Sequence[str]) -> _Layout | None:
    present = set(modules)
    for layout in _LAYOUTS:
        first = layout.blocks.replace("*", "0")
        needed = (layout.neurons.removesuffix(":in"), layout.mlp_out, layout.attn_out)
        if all(f"{first}.{inner}" in present for inner in needed):
            return layout
    return None


def _glob(modules: Sequence[str], pattern: str) -> list[str]:
    """Paths that match with `*` for one segment or a part of one, in the order of their numbers."""
    hits = [path for path in modules if _matches(path, pattern)]
    return sorted(hits, key=lambda path: [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", path)])


def _matches(path: str, pattern: str) -> bool:
    parts, segments = path.split("."), pattern.split(".")
    return len(parts) == len(segments) and all(map(fnmatch.fnmatchcase, parts, segments))


def _layer_of(path: str, order: int) -> int:
    numbers = [int(part) for part in path.split(".") if part.isdigit()]
    return numbers[0] if numbers else order


def _no_match(site: str, body: str, modules: Sequence[str]) -> str:
    if body and "." not in body and "*" not in body or site.split(".")[0] in ("mlp", "attn", "resid"):
        guess = did_you_mean(site, SITES)
    else:
        guess = did_you_mean(body.replace("*", "0"), modules)
    block = body.split(".")[0] + ".0."
    inside = [m.removeprefix(block) for m in modules if m.startswith(block)][:12]
    where = f"modules under {block[:-1]}: {', '.join(inside)}" if inside else f"for example {_example_path(modules)!r}"
    return f"site {site!r} matches no module{guess}; sites: {', '.join(SITES)}; {where}"


def _example_path(modules: Sequence[str]) -> str:
    numbered = [m for m in modules if ".0." in m]
    return numbered[0].replace(".0.", ".*.") if numbered else (modules[0] if modules else "")
