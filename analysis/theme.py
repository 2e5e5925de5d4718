"""How the report looks: one palette for paper and screen, and figures as files and as inline SVG.

A figure is drawn once, in the colours below. In its inline copy each of them becomes a CSS variable, so that the page's
colour scheme decides; images in it keep their colours. Palette: Okabe & Ito 2008, safe for colour-blind readers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

PAPER, INK, MUTED, RULE = "#ffffff", "#1b1e23", "#5a6370", "#d9dde3"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c7a00")
VARIABLES = {PAPER: "--paper", INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    colour: f"--c{number}" for number, colour in enumerate(SERIES, 1)
}
_MARKERS, _DASHES = "s^DvPX<>", ("-", "--", "-.", ":")
_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_tti",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure and its words.

    Attributes:
        name: of its files; unique in a report, and made of a-z, 0-9 and `-`.
        title: a few words.
        caption: what it shows, in sentences that stand in for it where it cannot be seen.
        figure: in the colours of this module.
        wide: it takes the whole width, and scrolls on a narrow screen.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False


class Look(NamedTuple):
    """Of one method, in every figure."""

    colour: str
    marker: str
    dash: str


def looks(names: Sequence[str], baseline: str | None) -> dict[str, Look]:
    """The baseline in ink with circles; the others by colour and marker, from the eighth on with other dashes too."""
    others = [name for name in names if name != baseline]
    found = {} if baseline is None else {baseline: Look(INK, "o", "-")}
    for i, name in enumerate(others):
        dash = _DASHES[i // len(SERIES) % len(_DASHES)]
        found[name] = Look(SERIES[i % len(SERIES)], _MARKERS[i % len(_MARKERS)], dash)
    return found


def style():
    """The context in which figures of this look are made and saved."""
    return matplotlib.rc_context(_STYLE)


def text(value: object, length: int = 32) -> str:
    """`value` as it can stand in a figure: no control characters, shortened, never hidden from a legend."""
    shown = _NOT_IN_XML.sub("\ufffd", " ".join(str(value).split()))
    shown = shown if len(shown) <= length else shown[: length - 1] + "…"
    return f"\u2009{shown}" if shown.startswith("_") else shown


def slug(value: str) -> str:
    """`value` in a-z, 0-9 and `-`, for ids and file names. Two values can have the same."""
    return re.sub(r"[^a-z0-9]+", "-", value.lower())[:80].strip("-") or "x"


def save_picture(picture: Picture, folder: Path) -> str:
    """Writes `<name>.png` (200 dpi) and `<name>.svg`; returns the SVG's text. The same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        picture.figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
        picture.figure.set_layout_engine("none")  # it is laid out
        picture.figure.savefig(folder / f"{picture.name}.png", dpi=200, metadata={"Software": None})
    (folder / f"{picture.name}.svg").write_bytes(buffer.getvalue())
    return buffer.getvalue().decode()


def inline_svg(picture: Picture, svg: str) -> str:
    """`svg` as an element of an HTML page: named, scalable, in the page's colours and font, its ids its own.

    All text in it is escaped.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{_SVG}metadata", f"{_SVG}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        attributes = {key.removeprefix(_XLINK): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: _for_page(key, value, picture.name) for key, value in attributes.items()})
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib.clear()
    names = {"title": f"{picture.name}-name", "desc": f"{picture.name}-words"}
    root.attrib.update(
        {"viewBox": f"0 0 {width:g} {_height(svg)}", "role": "img", "aria-labelledby": " ".join(names.values())}
    )
    root.attrib["style"] = f"--width: {width:.0f}"
    for place, (tag, words) in enumerate({"title": picture.title, "desc": picture.caption}.items()):
        element = ElementTree.Element(tag, {"id": names[tag]})
        element.text = _NOT_IN_XML.sub("\ufffd", words)
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode")


def _height(svg: str) -> str:
    return re.search(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', svg)[1]


def _for_page(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    value = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", value)
    if key == "style":
        value = re.sub(r"(font(?:-family)?: [^';]*)'[^;]*", r"\1var(--font)", value)
    if key in ("style", "fill", "stroke"):
        value = re.sub(r"#[0-9a-f]{6}\b", lambda found: _variable(found[0]), value)
    return value


def _variable(colour: str) -> str:
    return f"var({VARIABLES[colour]})" if colour in VARIABLES else colour
