"""Markdown from text that nobody vouches for: names, recipes and what a model wrote stay text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_MARKUP = re.compile(r"[\\`*\[\]<>|&~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=\bwww)\.|@(?=\w)")
_SPACE = re.compile(r"[^\S\xa0]+")  # but the space that does not break
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def escaped(text: str) -> str:
    """Text on one line that stays text: no markup, no link, no mention, no cell or line of its own."""
    return _MARKUP.sub(r"\\\g<0>", visible(_SPACE.sub(" ", text).strip()))


def visible(text: str) -> str:
    """Text without control characters and marks that turn its direction, which show something else than is there."""
    return _UNSEEN.sub("\ufffd", text.replace("\r\n", "\n"))


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A table of text; columns in the order in which rows bring them, "" where a row has none."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[escaped(name) for name in names], ["---"] * len(names)]
    lines += [[escaped(row.get(name, "")) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fenced(text: str, language: str = "") -> str:
    """A code block that no run of backticks in the text can end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{visible(text).strip(chr(10))}\n{ticks}"
