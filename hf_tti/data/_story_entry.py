"""A word of a synthetic story before it has a place in the text."""

from typing import NamedTuple


class Entry(NamedTuple):
    """A word form and its gold labels; None where a label does not apply."""

    text: str
    pos: str
    character: str | None = None
    object: str | None = None
    number: str | None = None
    tense: str | None = None
    sentiment: str | None = None
    topic: str | None = None


Phrase = tuple[Entry, ...]
