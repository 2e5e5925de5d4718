"""YAML to nodes that remember where they were written, strictly.

YAML 1.2's plain scalars: `1e-3` is a float, `no` and `on` are text, `010` is ten. Duplicate keys,
anchors, aliases and tags are problems, collected rather than raised one at a time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
MAX_DEPTH = 12

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SIMPLE_KEY = re.compile(r"[\w.:/*<>-]{1,80}(\[\d+\])*")


class _Unread:
    """The value of a node that could not be read and has already been reported."""


UNREAD = _Unread()


@dataclass(frozen=True)
class Place:
    """A line of a file, or an override on the command line (`--set a.b`, line 0)."""

    source: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One fault: where, under which dotted key ('' for the file as a whole), and why."""

    place: Place
    key: str
    reason: str

    def __str__(self) -> str:
        key = shown(self.key)
        if not key or self.place.source == f"--set {self.key}":
            return f"{self.place}: {self.reason}"
        return f"{self.place} {key}: {self.reason}"


@dataclass(frozen=True)
class Node:
    """A scalar, list of nodes, dict of nodes, or UNREAD. A value under a key has its key's place."""

    value: Any
    place: Place


class Unreadable(Exception):
    """Nothing can be read from this source; carries the one problem that says why."""

    def __init__(self, place: Place, reason: str, key: str = ""):
        super().__init__(reason)
        self.problem = Problem(place, key, reason)


def shown(key: str) -> str:
    """A key as it may stand in a line of output: quoted and shortened unless it is ordinary."""
    if not key or _SIMPLE_KEY.fullmatch(key):
        return key
    return repr(key if len(key) <= 80 else key[:79] + "…")


def join(key: str, part: str) -> str:
    """Dotted key of a part."""
    return f"{key}.{part}" if key else part


def resolve_scalar(text: str) -> Any:
    """The value of a plain (unquoted) scalar. A number too long to hold is infinite."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text) if len(text) <= 300 else math.inf
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.lower().replace(".", ""))
    return text


def read_file(path: Path, shown_as: str) -> tuple[Node, list[Problem]]:
    """The file's root mapping and the problems met while reading it.

    Raises:
        Unreadable: no such file, too large, not UTF-8, not YAML, or no mapping at the top.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise Unreadable(Place(shown_as), f"cannot be read: {reason}") from error
    if len(raw) > MAX_BYTES:
        raise Unreadable(Place(shown_as), f"larger than {MAX_BYTES:,} bytes; a recipe is a page of text")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Unreadable(Place(shown_as, line), f"not UTF-8: byte 0x{raw[error.start]:02x}") from error
    root, problems = read_text(text, shown_as)
    if not isinstance(root.value, dict):
        found = "nothing" if root.value is None else describe(root.value)
        raise Unreadable(
            Place(shown_as, max(root.place.line, 1)),
            f"a recipe is a mapping of sections; found {found}",
        )
    return root, problems


def read_text(text: str, source: str, *, lines: bool = True) -> tuple[Node, list[Problem]]:
    """The one document in the text; an empty text gives None. Places have no line without `lines`.

    Raises:
        Unreadable: not YAML, more than one document, or nested too deeply.
    """
    composer = _Composer(source, lines)
    try:
        return composer.document(text), composer.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise Unreadable(composer.place_of(mark), f"not YAML: {' '.join(said.split())}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if lines else 0
        reason = f"not YAML: the character U+{error.character:04X} is not allowed"
        raise Unreadable(Place(source, line), reason) from error
    except (ValueError, OverflowError) as error:  # PyYAML on an escape beyond Unicode
        raise Unreadable(Place(source, 1 if lines else 0), f"not YAML: {error}") from error


class _Composer:
    def __init__(self, source: str, lines: bool):
        self._source = source
        self._lines = lines
        self._events: Iterator[yaml.Event] = iter(())
        self.problems: list[Problem] = []

    def place_of(self, mark: yaml.Mark | None) -> Place:
        return Place(self._source, (mark.line + 1 if mark else 1) if self._lines else 0)

    def document(self, text: str) -> Node:
        self._events = yaml.parse(text, Loader=yaml.SafeLoader)
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return Node(None, self.place_of(None))
        root = self._node(next(self._events), "", 0)
        next(self._events)  # the document's end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise Unreadable(self.place_of(after.start_mark), "a second YAML document; a recipe is one")
        return root

    def _report(self, place: Place, key: str, reason: str) -> None:
        self.problems.append(Problem(place, key, reason))

    def _node(self, event: yaml.Event, key: str, depth: int, place: Place | None = None) -> Node:
        place = place or self.place_of(event.start_mark)
        if depth > MAX_DEPTH:
            raise Unreadable(place, f"nested more than {MAX_DEPTH} deep", key)
        if isinstance(event, yaml.AliasEvent):
            self._report(place, key, f"alias *{event.anchor} is not read; write the value out")
            return Node(UNREAD, place)
        if event.anchor is not None:
            self._report(
                place,
                key,
                f"anchor &{event.anchor} is not read; write values out where they are used",
            )
        if event.tag is not None:
            self._report(place, key, f"tag {quoted(event.tag)} is not read; leave it out")
        value = self._value(event, key, depth)
        return Node(value if event.tag is None else UNREAD, place)

    def _value(self, event: yaml.Event, key: str, depth: int) -> Any:
        if isinstance(event, yaml.ScalarEvent):
            return resolve_scalar(event.value) if event.style is None else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
                items.append(self._node(event, f"{key}[{len(items)}]", depth + 1))
            return items
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._entry(event, key, depth, entries)
        return entries

    def _entry(self, event: yaml.Event, key: str, depth: int, entries: dict[str, Node]) -> None:
        place = self.place_of(event.start_mark)
        plain = isinstance(event, yaml.ScalarEvent) and event.tag is None and event.anchor is None
        if not plain:
            self._report(place, key, "a key is plain text, without anchor, alias or tag")
            if isinstance(event, yaml.CollectionStartEvent):
                self._value(event, key, depth + 1)
            self._node(next(self._events), key, depth + 1)
            return
        name = event.value
        node = self._node(next(self._events), join(key, name), depth + 1, place)
        if name in entries:
            first = entries[name].place
            self._report(place, join(key, name), f"duplicate key, first on line {first.line or 1}")
        else:
            entries[name] = node


def quoted(text: str) -> str:
    """Text for a line of output: in quotes, escaped and shortened."""
    return repr(text if len(text) <= 40 else text[:39] + "…")


def describe(value: Any) -> str:
    """What was found, for an error's end: `the text 'abc'`, `the number 3`, `a list`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        text = f"{value:,}" if isinstance(value, int) and abs(value) >= 2**63 else repr(value)
        return f"the number {text if len(text) <= 40 else text[:39] + '…'}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    return "a mapping" if isinstance(value, dict) else "a list"


def plain(node: Node) -> Any:
    """The node as Python values."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return None if node.value is UNREAD else node.value


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    if not isinstance(base.value, dict) or not (over.value is None or isinstance(over.value, dict)):
        return over
    entries = dict(base.value)
    for key, node in (over.value or {}).items():
        entries[key] = merge(entries[key], node) if key in entries else node
    return replace(over, value=entries)


def split_key(dotted: str) -> list[str]:
    """Parts of a dotted key. What follows `sweep.grid.` is one part: a grid's keys have dots."""
    if dotted.startswith("sweep.grid."):
        return ["sweep", "grid", dotted.removeprefix("sweep.grid.")]
    return dotted.split(".")


def with_value(root: Node, dotted: str, node: Node) -> Node:
    """The tree with one value set; missing sections are made.

    Raises:
        Unreadable: the key leads through something that is no mapping.
    """
    return _with_value(root, split_key(dotted), node, "", dotted)


def _with_value(root: Node, parts: list[str], node: Node, above: str, dotted: str) -> Node:
    if not parts:
        return node
    if root.value is not None and not isinstance(root.value, dict):
        raise Unreadable(node.place, f"{shown(above)} is {describe(root.value)}, not a mapping", dotted)
    child = (root.value or {}).get(parts[0], Node(None, node.place))
    value = _with_value(child, parts[1:], node, join(above, parts[0]), dotted)
    return replace(root, value={**(root.value or {}), parts[0]: value})


def find(root: Node, dotted: str) -> Node:
    """The node under a dotted key, or the nearest one above it."""
    node = root
    for part in split_key(dotted):
        if not isinstance(node.value, dict) or part not in node.value:
            break
        node = node.value[part]
    return node
