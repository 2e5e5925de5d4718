"""The words that the rules of the synthetic stories spell out, with their gold labels.

A line is `label: words`. Where a word has two tags, a rule writes the rarer one as `word/TAG`.
"""

from hf_tti.data._story_entry import Entry
from hf_tti.data._story_words import plural

_CLOSED = """
DET: the a this that these those every each no some any all another both
ADP: in on at by with for from of into near under behind over through along about across around
  after before until because than like as without between inside beside past if while during toward
  above below down off since though although unless
CONJ: and but or so yet
PRON: I you we me us nobody everyone everything something nothing someone anyone who what which it
  they them he she him
ADV: very too not when where there then again now here away home never always once soon already
  back together still just also even almost only how why first ever inside outside later sometimes
  often today tomorrow yesterday tonight everywhere forever far longer much more well nearby indeed
  really instead suddenly finally quickly quietly carefully gently softly slowly happily warmly
  proudly upstairs else maybe perhaps apart twice next-door anywhere somewhere most rather quite
  high loudly tightly
PRT: to up out 's
NUM: one
X: please yes oh hello goodbye hooray wow oops
.: . , ! ? ; :
"""
_NOUNS_BY_TOPIC = """
time: time day night morning moment hour week year minute evening breakfast lunch supper dinner
  bedtime birthday winter summer spring autumn sunset dawn afternoon
people: friend child girl boy brother sister mother father man woman family neighbour visitor
  stranger everybody crowd people grown-up
nature: sun sky moon star cloud ground grass water sand path tree wind rain snow storm mud branch
  roof puddle rainbow seed bud root hole thunder lightning petal shadow light wave
home: door window table bed house picture corner floor room wall home chair gate fence shelf garden
  stairs drawer yard oven fire paint paper glue wood
feeling: heart smile tear laugh hug voice idea dream fear courage secret trouble promise surprise
  worry kindness mistake lesson thought joke fun joy luck anger hope tears shame wish way
-: story name thing side end place word noise sound piece game race song turn team prize party
  present guest treasure journey adventure work help middle line finish start half edge top bottom
  front clue kind bit pair lot next rest mess dust medicine soup tea milk honey bread step map
  crumb wing tail paw nest doctor shop world village town crack page plan trick market
"""
_ADJECTIVES_BY_SENTIMENT = """
positive: happy good best better kind safe true brave ready proud sure dear fair lucky right easy
negative: bad sad sorry wrong hard lost broken scared alone afraid empty sick worse ill dangerous
neutral: old new little big other same own last first long small high deep whole warm cold next
  short black patient tall dark quiet loud busy different full late early second third many few
  sore great tired wet muddy
"""
_NOUNS_BY_SENTIMENT = """
positive: friend smile laugh hug kindness fun joy luck treasure surprise hope dream courage prize
  party present joke
negative: tear tears fear trouble worry mistake anger storm thunder shame mess
"""
_VERBS_BY_TENSE_AND_NUMBER = """
Pres Sing: am is has
Pres Plur: are
Past Sing: was
Past Plur: were
Pres -: can will must do have may
Past -: could would should did
- -: let be
"""
_PRONOUNS_BY_NUMBER = """
Sing: I me it he she him my its
Plur: we us they them our their
"""
_POSSESSIVES = ("my", "your", "our", "their", "its")


def _lines(block: str) -> dict[str, list[str]]:
    pairs = (line.split(":", 1) for line in block.strip().replace("\n  ", " ").splitlines())
    return {label: words.split() for label, words in pairs}


def _by_word(block: str) -> dict[str, str]:
    return {word: label for label, words in _lines(block).items() for word in words}


def _grammar_words() -> dict[tuple[str, str], Entry]:
    entries: dict[tuple[str, str], Entry] = {}

    def add(text: str, pos: str, **labels: str | None) -> None:
        entries.setdefault((text, pos), Entry(text, pos, **labels))

    numbers, moods = _by_word(_PRONOUNS_BY_NUMBER), _by_word(_NOUNS_BY_SENTIMENT)
    for tag, words in _lines(_CLOSED).items():
        for word in words:
            add(word, tag, number=numbers.get(word) if tag == "PRON" else None)
    for word in _POSSESSIVES:
        add(word, "DET", number=numbers.get(word))
    for label, words in _lines(_VERBS_BY_TENSE_AND_NUMBER).items():
        tense, number = (None if part == "-" else part for part in label.split())
        for word in words:
            add(word, "VERB", number=number, tense=tense, sentiment="neutral")
    for topic, words in _lines(_NOUNS_BY_TOPIC).items():
        shared = {"topic": None if topic == "-" else topic}
        for word in words:
            shared["sentiment"] = moods.get(word, "neutral")
            add(word, "NOUN", number="Sing", **shared)
            add(plural(word), "NOUN", number="Plur", **shared)
    for mood, words in _lines(_ADJECTIVES_BY_SENTIMENT).items():
        for word in words:
            add(word, "ADJ", sentiment=mood)
    return entries


GRAMMAR_WORDS = _grammar_words()


def grammar_word(token: str) -> Entry:
    """The entry of a word of a rule: `word`, `word/TAG`, or `word.s`, the plural of a noun."""
    word, slash, tag = token.partition("/")
    number = "Sing"
    if word.endswith(".s"):
        word, slash, tag, number = plural(word[:-2]), "/", "NOUN", "Plur"
    if slash:
        mood = "neutral" if tag in ("NOUN", "VERB", "ADJ") else None
        made = Entry(word, tag, number=number if tag == "NOUN" else None, sentiment=mood)
        return GRAMMAR_WORDS.get((word, tag)) or made
    found = [entry for (text, _), entry in GRAMMAR_WORDS.items() if text == word]
    assert found, f"the grammar's word {word!r} has no entry; write word/TAG"
    return found[0]
