"""YAML to nodes that remember where they were written, strictly.

YAML 1.2's plain scalars: `1e-3` is a float, `no` and `on` are text, `010` is ten. Duplicate keys,
anchors, aliases, tags, secrets and characters that cannot be seen are problems, collected rather than raised one at a
time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_tti.redaction import TOKENS_ELSEWHERE, secret_in

MAX_BYTES = 200_000
MAX_DEPTH = 12

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# control characters, line ends of Unicode, bidirectional controls (CVE-2021-42574), byte order marks, lone surrogates
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
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
        Unreadable: not YAML, more than one document, nested too deeply, a character that cannot be seen, a secret.
    """
    _check_characters(text, source, lines)
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


def _check_characters(text: str, source: str, lines: bool) -> None:
    """Of the whole text, comments included: what a reader does not see, and what nobody should."""
    unseen = _UNSEEN.search(text.replace("\r\n", " \n"))
    if unseen:
        line = text.count("\n", 0, unseen.start()) + 1 if lines else 0
        raise Unreadable(Place(source, line), f"not YAML: {not_allowed(unseen[0])}")
    if what := secret_in(text):
        at = next((n for n, line in enumerate(text.split("\n"), start=1) if secret_in(line)), 1)
        raise Unreadable(Place(source, at if lines else 0), f"holds {what}; {TOKENS_ELSEWHERE}")


def not_allowed(character: str) -> str:
    """A character that a recipe does not take, by its number."""
    return f"the character U+{ord(character):04X} is not allowed"


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
        unread = event.tag is not None or isinstance(event, yaml.ScalarEvent) and not self._is_plain(event, place, key)
        return Node(UNREAD if unread else value, place)

    def _is_plain(self, event: yaml.ScalarEvent, place: Place, key: str) -> bool:
        """Reports what an escape such as "\\u202e" brought in: `_check_characters` has seen the rest."""
        unseen = _UNSEEN.search(event.value) if event.style == '"' else None
        if unseen:
            self._report(place, key, not_allowed(unseen[0]))
        elif event.style == '"' and (what := secret_in(event.value)):
            self._report(place, key, f"holds {what}; {TOKENS_ELSEWHERE}")
        else:
            return True
        return False

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
        if depth > MAX_DEPTH:
            raise Unreadable(place, f"nested more than {MAX_DEPTH} deep", key)
        plain = isinstance(event, yaml.ScalarEvent) and event.tag is None and event.anchor is None
        if plain and not self._is_plain(event, place, key):
            self._node(next(self._events), key, depth + 1)
            return
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
