"""Lexicon entries: every word of a synthetic story is born with its gold labels.

Frequencies within a class are Zipfian, p(rank r) ~ 1 / (r + 2), so that however much text one
reads, rare words keep coming; names of people and places are put together from syllables and stems.
"""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from hf_tti.data._story_entry import Entry, Phrase
from hf_tti.data._story_words import (
    CODAS,
    NAME_ENDS,
    NUCLEI,
    ONSETS,
    PERIODS,
    PLACE_HEADS,
    PLACE_TAILS,
    gerund,
    participle,
    past,
    plural,
    third_person,
    word_classes,
)

Random = Callable[[], float]


class Noun(NamedTuple):
    """A noun's two forms, its preposition if it is a place, and its class."""

    lemma: str
    forms: dict[str, Phrase]  # "Sing" | "Plur"
    preposition: str | None
    kind: str


class Verb(NamedTuple):
    """A verb's finite forms by (tense, number) and its other forms."""

    finite: dict[tuple[str, str], Phrase]
    base: Phrase
    gerund: Phrase
    participle: Phrase


class Zipf:
    """Items drawn with p(rank) ~ 1 / (rank + 2)^exponent."""

    def __init__(self, items: Sequence, exponent: float = 1.0) -> None:
        self.items = list(items)
        weights = ((rank + 2) ** -exponent for rank in range(1, len(self.items) + 1))
        self._cumulative = list(accumulate(weights))
        self._total = self._cumulative[-1]

    def draw(self, rand: Random):
        """One item, from one uniform number."""
        return self.items[bisect(self._cumulative, rand() * self._total)]


def _noun(text: str, kind: str, topic: str | None, sentiment: str) -> Noun:
    word, _, preposition = text.partition(":")
    forms = {}
    for number, form in (("Sing", word), ("Plur", plural(word))):
        parts = form.split(" ")
        forms[number] = tuple(Entry(part, "NOUN", number=number, sentiment=sentiment, topic=topic) for part in parts)
    return Noun(word, forms, preposition or None, kind)


def make_verb(lemma: str, sentiment: str = "neutral") -> Verb:
    """All forms of a verb."""

    def form(text: str, number: str | None = None, tense: str | None = None) -> Phrase:
        return (Entry(text, "VERB", number=number, tense=tense, sentiment=sentiment),)

    if lemma == "be":
        pairs = {("Past", "Sing"): "was", ("Past", "Plur"): "were", ("Pres", "Plur"): "are"}
        finite = {key: form(text, key[1], key[0]) for key, text in pairs.items()}
    else:
        finite = {("Past", number): form(past(lemma), None, "Past") for number in ("Sing", "Plur")}
        modal = lemma in ("can", "will")
        finite["Pres", "Plur"] = form(lemma, None if modal else "Plur", "Pres")
    finite["Pres", "Sing"] = form(third_person(lemma), None if lemma in ("can", "will") else "Sing", "Pres")
    return Verb(finite, form(lemma), form(gerund(lemma)), form(participle(lemma)))


_CLASSES = word_classes()
NOUNS: dict[str, Zipf] = {}
WORDS: dict[str, Zipf] = {}  # adjectives and adverbs
VERBS: dict[str, Zipf] = {}
for _name, (_tag, _topic, _sentiment, _items) in _CLASSES.items():
    if _tag == "NOUN":
        NOUNS[_name] = Zipf([_noun(item, _name, _topic, _sentiment) for item in _items])
    elif _tag == "VERB":
        VERBS[_name] = Zipf([make_verb(item, _sentiment) for item in _items])
    else:
        WORDS[_name] = Zipf([(Entry(item, _tag, sentiment=_sentiment, topic=_topic),) for item in _items])

# The adjective classes that go with a noun class, in the order in which English puts them.
ADJECTIVES_FOR = {
    "toy": ("nice", "size", "look", "colour", "material"),
    "thing": ("nice", "size", "look", "colour"),
    "clothes": ("nice", "size", "look", "colour"),
    "food": ("size", "tasty"),
    "animal": ("kind", "size", "colour"),
    "plant": ("nice", "size", "colour"),
    "outdoors": ("nice", "size"),
    "indoors": ("nice", "size"),
    "job": ("kind",),
}

_UNITS = "one two three four five six seven eight nine".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_COUNTS = [*_UNITS[1:], "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"]
_COUNTS += ["twenty", *[f"{ten}-{unit}" for ten in _TENS for unit in _UNITS], "thirty", "forty"]
NUMERALS = Zipf([(Entry(text, "NUM", number="Plur"),) for text in _COUNTS], exponent=2.0)
PERIOD_WORDS = Zipf([tuple(Entry(part, "NOUN", number="Sing", topic="time") for part in p.split("_")) for p in PERIODS])
_ONSETS, _NUCLEI, _CODAS, _ENDS = Zipf(ONSETS), Zipf(NUCLEI), Zipf(CODAS), Zipf(NAME_ENDS)
_HEADS, _TAILS = Zipf(PLACE_HEADS), Zipf(PLACE_TAILS)


def invented_name(rand: Random) -> str:
    """A first name of two or three syllables: `Bramina`, `Tellick`."""
    text = _ONSETS.draw(rand) + _NUCLEI.draw(rand) + _CODAS.draw(rand)
    if rand() < 0.35:
        text += _NUCLEI.draw(rand) + _ONSETS.draw(rand)[0]
    return (text + _ENDS.draw(rand)).capitalize()


def invented_place(rand: Random) -> str:
    """A village or a family: `Willowbrook`, `Thistledown`."""
    return _HEADS.draw(rand) + _TAILS.draw(rand)
