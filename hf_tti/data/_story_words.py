"""The words of the synthetic stories, by class, most frequent first, and their English inflection.

A class line is `name field polarity: words`. The field is a content word's gold topic (`-`: none),
the polarity its gold sentiment (+, - or 0). `_` stands for a space inside one entry; place entries
carry their preposition (`beach:at`).
"""

_NOUNS = """
toy toy 0: ball doll kite drum puzzle puppet balloon block robot teddy marble whistle top yo-yo
  rattle scooter wagon trumpet flute violin guitar piano jigsaw rocket crayon sticker mask wand
  crown boat train truck bucket sandcastle hoop skateboard sled snowglobe kaleidoscope tambourine
  xylophone accordion
thing tool 0: book box key lamp cup bag basket hammer rope bell clock map letter picture pencil
  brush spoon ladder bottle jar blanket pillow candle mirror lantern umbrella bowl plate button
  needle ribbon coin ring necklace bracelet feather shell pebble stone stick leaf compass telescope
  notebook envelope suitcase kettle teapot broom shovel rake saw nail bolt spade wheel magnet
  thimble trunk chest goblet vase quilt pouch locket medal trophy badge flag banner postcard diary
  quill inkpot hourglass anchor oar paddle pulley barrel crate bobbin spindle chisel trowel padlock
  thermometer microscope
clothes clothes 0: hat coat scarf shoe boot sock glove mitten dress shirt sweater jacket cap belt
  cloak apron vest slipper sandal skirt raincoat bonnet cape tunic shawl poncho cardigan
food food 0: apple cake cookie pie sandwich banana carrot pear muffin pancake egg peach plum berry
  cherry biscuit bun lemon strawberry tomato potato pumpkin doughnut waffle pretzel melon pineapple
  mango cupcake tart omelette dumpling noodle turnip radish walnut chestnut fig apricot raspberry
  blueberry gooseberry pickle sausage cracker coconut papaya
animal animal 0: dog cat bird rabbit mouse duck fish frog bear fox squirrel owl turtle bee
  butterfly pig cow horse sheep goat hen lion elephant monkey kitten puppy hedgehog beaver badger
  otter mole deer swan goose parrot robin crow sparrow snail ladybug caterpillar cricket firefly
  spider ant worm lizard toad penguin seal whale dolphin crab octopus giraffe zebra camel kangaroo
  koala panda raccoon skunk weasel pony donkey lamb calf piglet chick duckling pigeon magpie heron
  pelican newt tadpole moth beetle grasshopper dragonfly porcupine armadillo chipmunk
plant nature 0: tree flower bush rose daisy tulip sunflower oak willow fern mushroom vine lily
  poppy dandelion pine birch maple cactus bluebell buttercup clover thistle violet daffodil orchid
  marigold hollyhock lavender foxglove snowdrop primrose
outdoors nature 0: park:in garden:in forest:in beach:at river:by lake:by hill:on meadow:in field:in
  pond:by mountain:on cave:in valley:in bridge:on orchard:in stream:by shore:on farm:on cliff:on
  waterfall:by island:on swamp:in desert:in harbour:at riverbank:on clearing:in glade:in
  vineyard:in lagoon:by canyon:in marsh:in dune:on jetty:on
indoors home 0: house:in kitchen:in school:at barn:in attic:in library:in bedroom:in shop:in
  market:at castle:in tower:in cellar:in museum:in bakery:in workshop:in hall:in cottage:in
  playground:in station:at theatre:at hospital:at mill:in lighthouse:in greenhouse:in stable:in
  tent:in treehouse:in post_office:at fire_station:at windmill:in inn:at
job people 0: baker farmer teacher doctor gardener fisherman painter postman builder tailor
  librarian miller carpenter shopkeeper shepherd blacksmith sailor clockmaker beekeeper cook potter
  weaver nurse firefighter policeman dancer singer pilot cobbler toymaker ferryman juggler
  lighthouse_keeper inventor astronomer mapmaker
weather weather 0: rain snow wind fog sunshine mist frost hail drizzle
bodypart body 0: hand arm leg foot head nose ear knee eye finger shoulder elbow toe chin
"""

_ADJECTIVES = """
size - 0: big little small tiny huge large tall long short round wide enormous giant thin narrow
colour colour 0: red blue green yellow white black brown pink purple orange grey golden silver
  violet turquoise scarlet crimson ivory lilac emerald amber
material - 0: wooden paper glass metal woollen tin leather stone velvet copper clay straw silk
  rubber cardboard brass porcelain felt wicker bamboo ivory iron bronze marble linen
look - 0: old new shiny soft striped clean smooth heavy light plain strange spotted painted dusty
  fluffy polished wobbly crooked curly sparkly bumpy faded folded patched hollow tangled carved
  rusty woven glittering speckled lopsided battered weathered
nice - +: beautiful lovely pretty special wonderful good nice fine perfect magical precious
  delightful splendid charming amazing marvellous dazzling
tasty - +: sweet delicious tasty juicy warm fresh crunchy yummy ripe sticky buttery creamy
kind - +: kind brave clever friendly cheerful gentle helpful funny honest polite curious happy
  careful playful patient generous lively thoughtful hopeful merry bright bold loyal wise graceful
  adventurous tidy
naughty - -: naughty lazy selfish grumpy rude greedy careless stubborn bossy sneaky jealous proud
  noisy clumsy impatient cranky boastful
glad - +: happy glad proud excited cheerful thankful delighted pleased calm joyful grateful hopeful
  relieved overjoyed thrilled content
upset - -: sad angry upset worried scared lonely tired afraid sorry cross unhappy nervous
  frightened ashamed disappointed miserable gloomy anxious embarrassed puzzled jealous homesick
  heartbroken
sunny weather +: sunny warm bright clear mild breezy golden pleasant balmy
stormy weather -: rainy cold windy stormy grey dark foggy cloudy chilly gloomy snowy frosty misty
"""

_ADVERBS = """
nicely - +: happily gently kindly carefully softly bravely proudly cheerfully quietly politely
  patiently gladly eagerly warmly gracefully calmly merrily joyfully tenderly playfully
badly - -: sadly angrily nervously slowly loudly crossly unhappily gloomily anxiously rudely
  impatiently miserably grumpily fearfully bitterly
neutrally - 0: quickly slowly suddenly quietly finally soon again together silently steadily
  briefly curiously
fast - 0: quickly slowly quietly carefully steadily silently eagerly swiftly
"""

_VERBS = """
move - 0: walk run go hurry climb march skip hop wander rush race tiptoe stroll dash gallop trot
  crawl scramble trudge hike stomp jog
say - 0: say whisper call murmur announce exclaim remark
sayglad - +: laugh cheer giggle smile chuckle beam grin
sayupset - -: cry sob sigh moan grumble groan wail whimper shout complain
search - 0: look search hunt peek
make - 0: make build paint draw fix clean decorate fold sew carve
play - +: play dance sing laugh jump swing slide splash giggle draw whistle hum juggle
gaze - 0: look stare gaze peer
"""

NAMES_F = """Lily Mia Anna Lucy Sara Emma Ella Rosie Molly Daisy Amy Jane Kate Ruby Nora Clara Zoe
Ivy Maya Alice Grace Ada Hazel Leila Priya Ines Freya Elsa Tara Wendy Olive Yuki Amara Beatrice
Matilda Florence Greta Saskia Ingrid Zadie Ottilie Marguerite Philippa""".split()
NAMES_M = """Tom Ben Max Sam Tim Jack Leo Finn Oscar Henry Noah Peter Billy Theo Hugo Alfie Omar
Ravi Kofi Luca Milo Otto Arlo Jonas Felix Ezra Diego Kenji Rufus Walter Edgar Magnus Tobias Barnaby
Caspian Leopold Humphrey Thaddeus Ignatius Bartholomew""".split()
PETS = """Pip Coco Buddy Biscuit Pepper Patch Nibbles Bramble Hazelnut Toffee Bubbles Whiskers
Pebbles Sunny Tumble Sprout Clover Pickles Waffles Marmalade Snowy Button Socks Mopsy Rusty Acorn
Truffle Dumpling Crumpet Sorrel Juniper Quill""".split()
ONSETS = """b br bl c ch cl d dr f fl g gl gr h j k l m n p pl qu r s sh sl sp st sw t th tr v w wh
y z
""".split()
NUCLEI = "a e i o u ee oo ai ou a e i o".split()
CODAS = "l n r m t ck sh ll nn rt nd mp x ff bb zz ss".split()
NAME_ENDS = "a o i ie y us in el et en elle ina ora imo ick op um ander ette illo".split()
PLACE_HEADS = """Willow Apple Maple Thistle Honey Silver River Rose Clover Bramble Oak Fern Hazel
Pebble Cherry Amber Badger Robin Copper Feather Foxglove Ginger Heather Juniper Lantern Meadow Moss
Nettle Otter Pepper Primrose Raven Sparrow Stone Summer Sun Swan Thorn Walnut Winter Ash Barley
Cinder Daisy Elder Frost Gold Hollow Iris Linden Marsh Myrtle Nutmeg Puddle Quill Rain Sable
Tanager Umber Violet Wren Yarrow Birch Plum Quince Sorrel Tansy Wheat""".split()
PLACE_TAILS = """brook field wood dale ford ton bridge hill wick mere well bury combe stead worth
hurst haven cliff gate croft ridge down moor hollow""".split()

PERIODS = "morning afternoon evening day summer_day winter_day spring_morning autumn_afternoon".split()

_PLURALS = dict(
    pair.split("/")
    for pair in """
mouse/mice goose/geese sheep/sheep fish/fish deer/deer leaf/leaves calf/calves
policeman/policemen postman/postmen fisherman/fishermen ferryman/ferrymen scarf/scarves
potato/potatoes tomato/tomatoes wolf/wolves mango/mangoes piano/pianos man/men woman/women
foot/feet child/children

""".split()
)
_IRREGULAR = {  # lemma: past, participle
    verb: (past_, participle_)
    for verb, past_, participle_ in (
        forms.split("/")
        for forms in """
run/ran/run go/went/gone say/said/said sing/sang/sung make/made/made build/built/built
draw/drew/drawn sew/sewed/sewn swing/swung/swung slide/slid/slid have/had/had do/did/done
see/saw/seen find/found/found give/gave/given take/took/taken come/came/come know/knew/known
think/thought/thought feel/felt/felt tell/told/told lose/lost/lost keep/kept/kept hold/held/held
put/put/put sit/sat/sat stand/stood/stood hear/heard/heard eat/ate/eaten break/broke/broken
fall/fell/fallen get/got/got leave/left/left bring/brought/brought buy/bought/bought
begin/began/begun wake/woke/woken grow/grew/grown hide/hid/hidden forget/forgot/forgotten
blow/blew/blown shine/shone/shone fly/flew/flown win/won/won teach/taught/taught
spend/spent/spent sleep/slept/slept dig/dug/dug meet/met/met let/let/let lie/lay/lain
stick/stuck/stuck shake/shook/shaken rise/rose/risen set/set/set throw/threw/thrown
catch/caught/caught bend/bent/bent become/became/become understand/understood/understood
hurt/hurt/hurt write/wrote/written read/read/read wear/wore/worn light/lit/lit ring/rang/rung
swim/swam/swum ride/rode/ridden steal/stole/stolen speak/spoke/spoken send/sent/sent
creep/crept/crept lead/led/led drink/drank/drunk tear/tore/torn sell/sold/sold lend/lent/lent
can/could/could will/would/would shut/shut/shut bite/bit/bitten hit/hit/hit
""".split()
    )
}
_DOUBLING = set(
    """
skip hop hit run trot jog sob sit get put win dig hum stop hug drop plan let nod clap grab pat set
swim shut begin forget wag slip tap beg step rub tug mop scrub grin
""".split()
)
_VOWELS = "aeiou"


def plural(noun: str) -> str:
    """The plural of a noun; of its last word when it has several."""
    *front, last = noun.split(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith("y") and last[-2] not in _VOWELS:
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    else:
        last += "s"
    return " ".join([*front, last])


def third_person(verb: str) -> str:
    """he/she/it walks"""
    special = {"be": "is", "have": "has", "can": "can", "will": "will"}
    if verb in special:
        return special[verb]
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def past(verb: str) -> str:
    """walked, ran"""
    return _IRREGULAR[verb][0] if verb in _IRREGULAR else _regular_past(verb)


def participle(verb: str) -> str:
    """(has) walked, run"""
    if verb == "be":
        return "been"
    return _IRREGULAR[verb][1] if verb in _IRREGULAR else _regular_past(verb)


def gerund(verb: str) -> str:
    """walking, running"""
    if verb in ("lie", "die"):
        return verb[0] + "ying"
    if verb in _DOUBLING:
        return verb + verb[-1] + "ing"
    if verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")) and verb != "be":
        return verb[:-1] + "ing"
    return verb + "ing"


def _regular_past(verb: str) -> str:
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in _VOWELS:
        return verb[:-1] + "ied"
    return verb + (verb[-1] if verb in _DOUBLING else "") + "ed"


def takes_an(word: str) -> bool:
    """Whether the indefinite article before this word is `an`."""
    word = word.lower()
    if word.startswith(("uni", "use", "eu", "one", "ukulele")) and not word.startswith("unin"):
        return False
    return word[0] in _VOWELS or word.startswith(("hour", "honest"))


def word_classes() -> dict[str, tuple[str, str | None, str, list[str]]]:
    """Class name -> (universal tag, topic or None, sentiment, entries in order of frequency)."""
    sources = {"NOUN": _NOUNS, "ADJ": _ADJECTIVES, "ADV": _ADVERBS, "VERB": _VERBS}
    polarity = {"+": "positive", "-": "negative", "0": "neutral"}
    classes = {}
    for tag, source in sources.items():
        for block in source.strip().replace("\n  ", " ").splitlines():
            head, _, words = block.partition(":")
            name, field, sign = head.split()
            entries = [word.replace("_", " ") for word in words.split()]
            assert name not in classes and len(set(entries)) == len(entries), name
            classes[name] = (tag, None if field == "-" else field, polarity[sign], entries)
    return classes
