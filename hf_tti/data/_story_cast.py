"""The characters of a story: children, animals, grown-ups, made when a rule first mentions them."""

from hf_tti.data._story_entry import Entry, Phrase
from hf_tti.data._story_grammar_words import grammar_word
from hf_tti.data._story_lexicon import (
    NOUNS,
    WORDS,
    Random,
    Zipf,
    invented_name,
    invented_place,
)
from hf_tti.data._story_words import NAMES_F, NAMES_M, PETS

_PRONOUNS = {  # gender: he, him, his, self
    "he": ("he", "him", "his", "himself"),
    "she": ("she", "her", "her", "herself"),
    "they": ("they", "them", "their", "themselves"),
}
_GIVEN = {"she": Zipf(NAMES_F), "he": Zipf(NAMES_M)}
_PETS = Zipf(PETS)
_KIN = Zipf(
    [
        ("Grandma", "she"),
        ("Mum", "she"),
        ("Dad", "he"),
        ("Grandpa", "he"),
        ("Auntie", "she"),
        ("Uncle", "he"),
    ]
)
_NAMED, _AND, _A, _THE, _OLD, _LITTLE = (grammar_word(w) for w in ("named/VERB", "and", "a", "the", "old", "little"))
_CHILD_NOUNS = {"she": grammar_word("girl"), "he": grammar_word("boy")}


class Character:
    """Someone with a name, a kind and pronouns.

    Args:
        role: the gold label of every word that refers to them.
        name: the words of the name.
        kind: `girl`, `boy`, an animal, a job, or None for kin.
        adjectives: what the introduction calls them.
    """

    def __init__(self, role: str, name: Phrase, kind: Phrase | None, gender: str, adjectives: Phrase) -> None:
        self.role = role
        self.name = self._labelled(name)
        self.kind = kind
        self.gender = gender
        he, him, his, self_ = _PRONOUNS[gender]
        number = "Plur" if gender == "they" else "Sing"
        self.pronouns = {
            form: Entry(text, tag, character=role, number=number)
            for form, text, tag in (
                ("he", he, "PRON"),
                ("him", him, "PRON"),
                ("his", his, "DET"),
                ("self", self_, "PRON"),
            )
        }
        self.introduction = self.name
        self.by_kind = self.name
        if kind is not None:
            self.introduction = self._labelled((_A, *adjectives, *kind, _NAMED)) + self.name
            self.by_kind = self._labelled((_THE, *kind))

    def _labelled(self, phrase: Phrase) -> Phrase:
        return tuple(entry._replace(character=self.role) for entry in phrase)


class Cast:
    """Role -> character. `both` is the hero and the friend together."""

    def __init__(self, rand: Random) -> None:
        self.rand = rand
        self.animals = rand() < 0.4
        self.members: dict[str, Character] = {}
        self.introduced: set[str] = set()

    def __getitem__(self, role: str) -> "_Speaker":
        return _Speaker(self, role)

    def character(self, role: str) -> Character:
        """The character of a role, created on the first call."""
        found = self.members.get(role)
        if found is None:
            found = self.members[role] = self._adult(role) if role == "helper" else self._young(role)
        return found

    def named_alike(self, character: Character) -> bool:
        """Whether `the girl` could mean more than one of them."""
        kind = character.kind[-1].text
        return sum(m.kind is not None and m.kind[-1].text == kind for m in self.members.values()) > 1

    def _name(self, names: Zipf, invented: float) -> Phrase:
        taken = {member.name[-1].text for member in self.members.values()}
        while True:
            text = invented_name(self.rand) if self.rand() < invented else names.draw(self.rand)
            if text not in taken:
                return (Entry(text, "NOUN", number="Sing", sentiment="neutral", topic="people"),)

    def _young(self, role: str) -> Character:
        gender = "she" if self.rand() < 0.5 else "he"
        adjectives = WORDS["naughty" if role == "rival" else "kind"].draw(self.rand)
        if self.rand() < 0.3:
            adjectives += (_LITTLE,)
        if self.animals:
            kinds = {member.kind[-1].text for member in self.members.values() if member.kind}
            kind = NOUNS["animal"].draw(self.rand).forms["Sing"]
            while kind[-1].text in kinds:
                kind = NOUNS["animal"].draw(self.rand).forms["Sing"]
            return Character(role, self._name(_PETS, 0.5), kind, gender, adjectives)
        name = self._name(_GIVEN[gender], 0.3)
        return Character(role, name, (_CHILD_NOUNS[gender],), gender, adjectives)

    def _adult(self, role: str) -> Character:
        style = self.rand()
        if style < 0.35 and not self.animals:
            title, gender = _KIN.draw(self.rand)
            name = (Entry(title, "NOUN", number="Sing", sentiment="neutral", topic="people"),)
            if title in ("Auntie", "Uncle"):
                name += self._name(_GIVEN[gender], 0.3)
            return Character(role, name, None, gender, ())
        gender = "she" if self.rand() < 0.5 else "he"
        adjectives = (*WORDS["kind"].draw(self.rand), *((_OLD,) if self.rand() < 0.4 else ()))
        titles = (
            ("Mrs" if self.rand() < 0.5 else "Miss") if gender == "she" else "Mr",
            invented_place(self.rand),
        )
        name = tuple(Entry(t, "NOUN", number="Sing", sentiment="neutral", topic="people") for t in titles)
        kind = NOUNS["animal" if self.animals else "job"].draw(self.rand).forms["Sing"]
        if kind[-1].text.endswith("man") and gender == "she":
            kind = (grammar_word("neighbour"),)
        return Character(role, name, kind, gender, adjectives)


class _Speaker:
    """What `@role` compiles to: one way of referring to the character."""

    def __init__(self, cast: Cast, role: str) -> None:
        self.cast, self.role = cast, role

    def say(self, form: str, out: list[Entry], rand: Random) -> None:
        """Appends the words of one reference."""
        cast = self.cast
        if self.role == "both":
            self._say_both(form, out, rand)
            return
        who = cast.character(self.role)
        if self.role not in cast.introduced and form != "n":
            cast.introduced.add(self.role)
            out += who.introduction
            if form in ("s", "his"):
                out.append(Entry("'s", "PRT", character=self.role))
        elif form in who.pronouns:
            out.append(who.pronouns[form])
        elif form in ("mention", "intro") and who.kind is not None and rand() < 0.2 and not cast.named_alike(who):
            out += who.by_kind
        else:
            out += who.name
            if form == "s":
                out.append(Entry("'s", "PRT", character=self.role))

    def _say_both(self, form: str, out: list[Entry], rand: Random) -> None:
        if form in _BOTH_PRONOUNS:
            out.append(_BOTH_PRONOUNS[form])
            return
        roles = ["hero", "friend"] if rand() < 0.7 or "friend" not in self.cast.introduced else ["friend", "hero"]
        for role, link in zip(roles, ([_AND], []), strict=True):
            _Speaker(self.cast, role).say("n" if role in self.cast.introduced else "intro", out, rand)
            out += link
        if form == "s":
            out.append(Entry("'s", "PRT", character="both"))


_BOTH_PRONOUNS = {
    form: Entry(text, tag, character="both", number="Plur")
    for form, text, tag in (
        ("he", "they", "PRON"),
        ("him", "them", "PRON"),
        ("his", "their", "DET"),
        ("self", "themselves", "PRON"),
    )
}
