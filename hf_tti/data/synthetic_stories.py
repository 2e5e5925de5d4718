"""Generated children's stories with gold labels for every word: the corpus that needs no download.

A grammar of our own: a dozen plots told through shared scenes, talk and feelings, in the past or
the present tense, ending well, badly or in between, with Zipfian words and invented names. A story
is a pure function of (seed, split, index). Tags are the universal tags of Petrov et al. 2012
(arXiv:1104.2086).
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache
from hashlib import blake2b
from itertools import chain, count, zip_longest
from typing import Any, ClassVar, NamedTuple

from hf_tti.data._story_cast import Cast
from hf_tti.data._story_engine import (
    PARAGRAPH,
    QUOTE,
    QUOTE_ON,
    UNQUOTE,
    UNQUOTE_END,
    Node,
    Telling,
    compile_rules,
)
from hf_tti.data._story_lexicon import NOUNS, Entry, Random, Zipf
from hf_tti.data._story_plots import CLASSES, DEFAULT_CLASSES, PLOTS
from hf_tti.data._story_rules import SHARED
from hf_tti.data._story_words import takes_an
from hf_tti.data.base import Split, StoryBuilder, fingerprint_of

GENERATOR_VERSION = 1  # raise it with every change that changes a story
LABELS = ("pos", "character", "object", "number", "tense", "sentiment", "topic")
TOPICS = tuple(CLASSES)
OUTCOMES = {"positive": "good", "negative": "bad", "neutral": "bad"}


class Word(NamedTuple):
    """A word or punctuation mark: `story.text[start:end] == text`. Labels that do not apply are
    None.

    pos: universal tag. character: role (`hero`, `friend`, `helper`, `rival`, `both`) the word
    refers to.
    object: lemma of the story's object, on every word that refers to it. number: `Sing`, `Plur`.
    tense: `Past`, `Pres` of finite verbs. sentiment: `positive`, `negative`, `neutral` of content
    words.
    topic: field of meaning of nouns (`animal`, `food`, `time`, ...).
    """

    text: str
    start: int
    end: int
    pos: str
    character: str | None
    object: str | None
    number: str | None
    tense: str | None
    sentiment: str | None
    topic: str | None


class Story(NamedTuple):
    """A text, its words, and what it is about.

    topic: the plot. sentiment: how it ends (`neutral`: badly, but consoled). tense: of
    the narration. object: lemma of the thing it is about, or None. main_character: the hero's name.
    characters: role -> name.
    """

    text: str
    words: list[Word]
    topic: str
    sentiment: str
    tense: str
    object: str | None
    main_character: str
    characters: dict[str, str]


def generate_stories(seed: int = 0, split: Split = "train", start: int = 0) -> Iterator[Story]:
    """The stories of a seed and split, from index `start`, without end."""
    for index in count(start):
        yield generate_story(seed, split, index)


def generate_story(seed: int, split: Split, index: int) -> Story:
    """Story number `index`: the same on every machine, whatever was generated before."""
    digest = blake2b(f"{GENERATOR_VERSION}/{seed}/{split}/{index}".encode(), digest_size=16).digest()
    rand = random.Random(int.from_bytes(digest, "big")).random
    topic = TOPICS[int(rand() * len(TOPICS))]
    sentiment = ("positive", "positive", "positive", "negative", "neutral")[int(rand() * 5)]
    telling = Telling(rand, "Past" if rand() < 0.75 else "Pres", _rules(), _classes(topic), Cast(rand))
    _tell(telling, topic, sentiment)
    text, words = _write(telling.out)
    names = {role: " ".join(entry.text for entry in member.name) for role, member in telling.cast.members.items()}
    thing = telling.things["obj"].noun.lemma if "obj" in telling.things else None
    return Story(text, words, topic, sentiment, telling.tense, thing, names["hero"], names)


def token_labels(story: Story, offsets: Sequence[tuple[int, int]]) -> dict[str, list[str | None]]:
    """Gold labels per token.

    Args:
        offsets: a fast tokenizer's `offset_mapping` for `story.text`: (start, end) per token. An
            empty span is a special token.

    Returns:
        Per name in `LABELS` (and `word`, the index of the word) one label a token: that of the
        word in which its first non-blank character lies; None for special tokens and for white
        space alone.
    """
    labels: dict[str, list[Any]] = {name: [] for name in ("word", *LABELS)}
    words, text, i = story.words, story.text, 0
    for start, end in offsets:
        while start < end and text[start].isspace():
            start += 1
        while i > 0 and words[i].start > start:
            i -= 1
        while i + 1 < len(words) and words[i].end <= start:
            i += 1
        word = words[i] if start < end and words[i].start <= start < words[i].end else None
        labels["word"].append(None if word is None else i)
        for name in LABELS:
            labels[name].append(None if word is None else getattr(word, name))
    return labels


class SyntheticStories(StoryBuilder):
    """The texts of `generate_stories(config.seed)`; an endless corpus, bounded by max_tokens."""

    default_num_tokens: ClassVar[dict[str, int]] = {"train": 10_000_000, "validation": 200_000}

    def stories(self, split: Split) -> Iterator[str]:
        for story in generate_stories(self.config.seed, split):
            yield story.text

    def fingerprint(self, split: Split) -> str:
        return fingerprint_of("synthetic_stories", GENERATOR_VERSION, self.config.seed, split)


@cache
def _rules() -> dict[str, Node]:
    return compile_rules(SHARED + PLOTS)


@cache
def _classes(topic: str) -> dict[str, Zipf]:
    """Thing -> the nouns it is drawn from; several classes are merged rank by rank."""
    classes = {}
    for thing, names in (DEFAULT_CLASSES | CLASSES[topic]).items():
        ranks = zip_longest(*(NOUNS[name].items for name in names))
        classes[thing] = Zipf([noun for noun in chain.from_iterable(ranks) if noun is not None])
    return classes


def _tell(telling: Telling, topic: str, sentiment: str) -> None:
    rand, run = telling.rand, telling.run
    run(f"opening_{telling.tense.lower()}")
    _maybe(rand, 0.5, lambda: run("scene"))
    run(f"{topic}_want")
    telling.out.append(PARAGRAPH)
    if rand() < 0.6:
        run("meetfriend")
        _maybe(rand, 0.5, lambda: run("greet"))
    run(f"{topic}_trouble")
    for _ in range(1 + int(rand() * 3)):
        telling.out.append(PARAGRAPH)
        _middle(telling, topic)
    telling.out.append(PARAGRAPH)
    run(f"{topic}_{OUTCOMES[sentiment]}")
    run({"positive": "endgood", "negative": "endbad", "neutral": "endmixed"}[sentiment])
    _maybe(rand, 0.3, lambda: run("moral"))


def _middle(telling: Telling, topic: str) -> None:
    """One paragraph between trouble and ending: an attempt, and what is seen or said on the way."""
    choice = telling.rand()
    if choice < 0.5:
        telling.run("filler" if choice < 0.3 else "talk")
    telling.run(f"{topic}_try")
    if choice > 0.8:
        telling.run("filler")


def _maybe(rand: Random, probability: float, action) -> None:
    if rand() < probability:
        action()


def _write(entries: list[Entry]) -> tuple[str, list[Word]]:
    """Spacing, capitals, quotation marks and a/an."""
    pieces: list[str] = []
    words: list[Word] = []
    position, gap, capital, last = 0, "", True, len(entries) - 1
    for i, entry in enumerate(entries):
        text = entry.text
        if entry is PARAGRAPH:
            gap, capital = "\n\n", True
            continue
        after = " "
        if entry is QUOTE:
            text, after, capital = '"', "", True
        elif entry is QUOTE_ON:
            text, after, capital = '"', "", False
        elif entry is UNQUOTE or entry is UNQUOTE_END:
            text, gap, capital = '"', "", entry is UNQUOTE_END
        elif entry.pos == "." or text == "'s":
            gap = ""
            capital = text in ".!?" if entry.pos == "." else capital
        else:
            if text == "a" and i < last and takes_an(entries[i + 1].text):
                text = "an"
            if capital:
                text, capital = text[0].upper() + text[1:], False
        start = position + len(gap)
        position = start + len(text)
        pieces.append(gap)
        pieces.append(text)
        words.append(Word(text, start, position, *entry[1:]))
        gap = after
    return "".join(pieces), words
