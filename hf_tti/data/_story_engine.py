"""The grammar's rules, compiled, and the state of one story while it is told.

( a | b | c )    one of these; [ a ]: half the time
word, word/TAG   itself; word.s: the plural of a noun
%rule            another rule
@hero            a mention of a character; .he .him .his .self .s (possessive) .n (name) .intro
#obj             a thing of the story; .a .the .it .them .its .in .to .pl .full
$class           a fresh word of a class; $class.pl plural
=verb            finite, narrative tense, singular; ==verb plural; =verb:obj agrees with #obj
^verb ~verb      infinitive, gerund; +verb participle; *verb !verb present (they, it); <verb past
<< >>            quotes; >>. a quote that ends its sentence;  // a new paragraph
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from hf_tti.data._story_entry import Entry, Phrase
from hf_tti.data._story_grammar_words import grammar_word
from hf_tti.data._story_lexicon import (
    ADJECTIVES_FOR,
    NOUNS,
    NUMERALS,
    PERIOD_WORDS,
    VERBS,
    WORDS,
    Noun,
    Random,
    invented_place,
    make_verb,
)

_CONTROLS = {mark: Entry(mark, ".") for mark in ("<<", "<<-", ">>", ">>.", "//")}
QUOTE, QUOTE_ON, UNQUOTE, UNQUOTE_END, PARAGRAPH = _CONTROLS.values()
_THE, _A, _SOME, _TO = (grammar_word(word) for word in ("the", "a", "some", "to/ADP"))

Node = Callable[["Telling"], None]


class Telling:
    """One story in the making: its random numbers, tense, cast, things and words so far."""

    def __init__(self, rand: Random, tense: str, rules: dict[str, Node], classes: dict[str, Any], cast) -> None:
        self.rand = rand
        self.tense = tense
        self.rules = rules
        self.classes = classes  # thing -> Zipf of nouns
        self.cast = cast  # role -> character, made on first mention
        self.things: dict[str, Thing] = {}
        self.home_town = invented_place(rand)
        self.told: dict[int, set[int]] = {}  # choice of rules -> those used in this story
        self.out: list[Entry] = []

    def thing(self, name: str) -> "Thing":
        """The story's thing of that name, chosen on its first mention."""
        found = self.things.get(name)
        if found is None:
            used = {thing.noun.lemma for thing in self.things.values()}
            noun = self.classes[name].draw(self.rand)
            while noun.lemma in used:
                noun = self.classes[name].draw(self.rand)
            found = self.things[name] = Thing(name, noun, self.rand)
        return found

    def run(self, rule: str) -> None:
        """Appends the words of a rule."""
        self.rules[rule](self)


class Thing:
    """A noun with number and adjectives that the story keeps coming back to."""

    def __init__(self, name: str, noun: Noun, rand: Random) -> None:
        self.noun = noun
        self.number = "Plur" if name == "obj" and rand() < 0.2 else "Sing"
        self.label = noun.lemma if name == "obj" else None
        self.introduced = name != "obj"
        classes = ADJECTIVES_FOR.get(noun.kind, ())
        wanted = (0, 1, 1, 1, 2)[int(rand() * 5)] if classes else 0
        chosen = sorted({int(rand() * len(classes)) for _ in range(wanted)})
        self.adjectives: Phrase = tuple(e for i in chosen for e in WORDS[classes[i]].draw(rand))
        self.adjectives = tuple(entry._replace(object=self.label) for entry in self.adjectives)
        self.head = tuple(entry._replace(object=self.label) for entry in noun.forms[self.number])

    def say(self, form: str, out: list[Entry], rand: Random) -> None:
        """Appends one way of naming it; the first mention of the story's object introduces it."""
        if not self.introduced and form in ("the", "it", "them"):
            form = "a"
        self.introduced = True
        if form in _THING_PRONOUNS:
            singular, plural_, tag = _THING_PRONOUNS[form]
            text = plural_ if self.number == "Plur" else singular
            out.append(Entry(text, tag, object=self.label, number=self.number))
            return
        if form == "in":
            out.append(grammar_word(f"{self.noun.preposition}/ADP"))
        elif form == "to":
            out.append(_TO)
        if form == "a":
            out.append(_SOME if self.number == "Plur" else _A)
            out += self.adjectives
        elif form == "full":
            out += self.adjectives
        elif form in ("the", "in", "to"):
            out.append(_THE)
            if rand() < 0.25:
                out += self.adjectives
        if form == "pl":
            out += [entry._replace(object=self.label) for entry in self.noun.forms["Plur"]]
        else:
            out += self.head


_THING_PRONOUNS = {
    "it": ("it", "they", "PRON"),
    "them": ("it", "them", "PRON"),
    "its": ("its", "their", "DET"),
}


def compile_rules(source: str) -> dict[str, Node]:
    """Rules from lines `name: body`; an indented line continues, `name:` again adds a choice."""
    bodies: dict[str, list[str]] = {}
    name = ""
    for line in source.strip().splitlines():
        if line.startswith((" ", "\t")):
            bodies[name][-1] += f" {line.strip()}"
        elif line.strip():
            name, _, body = line.partition(":")
            bodies.setdefault(name.strip(), []).append(body)
    return {name: _fresh_choice([_parse(body) for body in choices]) for name, choices in bodies.items()}


def _parse(body: str) -> Node:
    tokens = body.split()
    node, rest = _parse_choice(tokens, 0, None)
    assert rest == len(tokens), body
    return node


def _parse_choice(tokens: list[str], i: int, closer: str | None) -> tuple[Node, int]:
    options: list[list[Node]] = [[]]
    while i < len(tokens) and tokens[i] != closer:
        token = tokens[i]
        if token in "([":
            node, i = _parse_choice(tokens, i + 1, ")" if token == "(" else "]")
            assert i < len(tokens), tokens
            options[-1].append(_choice([node, _sequence([])]) if token == "[" else node)
        elif token == "|":
            options.append([])
        else:
            options[-1].append(_atom(token))
        i += 1
    return _choice([_sequence(option) for option in options]), i


def _choice(nodes: list[Node]) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    count = len(nodes)

    def choose(telling: Telling) -> None:
        nodes[int(telling.rand() * count)](telling)

    return choose


def _fresh_choice(nodes: list[Node]) -> Node:
    """A choice that does not come up twice in a story before the others have."""
    count = len(nodes)

    def choose(telling: Telling) -> None:
        used = telling.told.setdefault(id(nodes), set())
        if len(used) == count:
            used.clear()
        i = int(telling.rand() * count)
        while i in used:
            i = int(telling.rand() * count)
        used.add(i)
        nodes[i](telling)

    return choose


def _sequence(nodes: list[Node]) -> Node:
    if len(nodes) == 1:
        return nodes[0]

    def tell(telling: Telling) -> None:
        for node in nodes:
            node(telling)

    return tell


def _atom(token: str) -> Node:
    if token in _CONTROLS:
        return _literal(_CONTROLS[token])
    mark, rest = token[0], token[1:]
    if mark == "%":
        return _rule(rest)
    if mark == "@":
        role, _, form = rest.partition(".")
        return lambda telling: telling.cast[role].say(form or "mention", telling.out, telling.rand)
    if mark == "#":
        name, _, form = rest.partition(".")
        return lambda telling: telling.thing(name).say(form, telling.out, telling.rand)
    if mark == "$":
        return _fresh(rest)
    if mark in "=^~+*<!" and rest:
        return _verb(mark, rest)
    return _literal(grammar_word(token))


def _literal(entry: Entry) -> Node:
    return lambda telling: telling.out.append(entry)


def _rule(name: str) -> Node:
    return lambda telling: telling.run(name)


def _fresh(token: str) -> Node:
    name, _, form = token.partition(".")
    if name in ("town", "village"):  # the story's own, or another one

        def town(telling: Telling) -> None:
            place = telling.home_town if name == "town" else invented_place(telling.rand)
            telling.out.append(Entry(place, "NOUN", number="Sing", sentiment="neutral", topic="home"))

        return town
    if name in NOUNS:
        nouns, number = NOUNS[name], "Plur" if form == "pl" else "Sing"
        return lambda telling: telling.out.extend(nouns.draw(telling.rand).forms[number])
    words = {"num": NUMERALS, "period": PERIOD_WORDS}.get(name) or WORDS[name]
    return lambda telling: telling.out.extend(words.draw(telling.rand))


def _verb(mark: str, token: str) -> Node:
    if mark == "=" and token.startswith("="):
        mark, token = "==", token[1:]
    lemma, _, thing = token.partition(":")
    if lemma.startswith("$"):
        verbs = VERBS[lemma[1:]]
        pick = lambda telling: verbs.draw(telling.rand)  # noqa: E731
    else:
        verb = _cached_verb(lemma)
        pick = lambda telling: verb  # noqa: E731
    if mark == "^":
        return lambda telling: telling.out.extend(pick(telling).base)
    if mark == "~":
        return lambda telling: telling.out.extend(pick(telling).gerund)
    if mark == "+":
        return lambda telling: telling.out.extend(pick(telling).participle)
    fixed = {"*": "Pres", "!": "Pres", "<": "Past"}.get(mark)
    if thing:
        return lambda t: t.out.extend(pick(t).finite[fixed or t.tense, t.thing(thing).number])
    number = "Plur" if mark in ("*", "==") else "Sing"
    return lambda t: t.out.extend(pick(t).finite[fixed or t.tense, number])


@cache
def _cached_verb(lemma: str):
    moods = {
        "positive": "love enjoy smile laugh hug thank cheer share help win glow giggle",
        "negative": "cry lose break fall hurt steal shout frown worry tremble fear miss sigh sob",
    }
    mood = next((mood for mood, verbs in moods.items() if lemma in verbs.split()), "neutral")
    return make_verb(lemma, mood)
