"""Recipes for property tests, each kind a hypothesis strategy, and the law that all of them are held to.

Law: `load_recipe` gives a recipe or a RecipeError of lines `file:line key: reason`, each printable. A recipe reads back
from its own YAML to the same content and digest, as do the runs of its sweep, whose names are safe and distinct.
"""

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import yaml
from hypothesis import strategies as st

from hf_tti.recipe import Recipe, RecipeError, expand_sweep, load_recipe
from hf_tti.recipe.check import SWEPT_SECTIONS
from hf_tti.recipe.schema import OWNED, SECTIONS
from hf_tti.run_folder import default_run_dir, resolve_paths
from test_recipe_malformed import KEYS, good_value

ROOT = Path(__file__).parent.parent
PATHS = [path for path in sorted((ROOT / "recipes").glob("*/*.yaml")) if path.parent.name != "accelerate"]
ALONE = [text for text in (path.read_text(encoding="utf-8") for path in PATHS) if "\nextends:" not in text]
SHIPPED = ALONE + [load_recipe(path).to_yaml() for path in PATHS]
TOKEN = "hf_" + "Ab3" * 12
NASTY = [
    *(
        "",
        "~",
        "null",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "True",
        "1e-3",
        "1E400",
        "-0",
        "+1",
        "0x1f",
        "0o17",
        "0b1",
        "010",
    ),
    *("1_000", "12:30:45", "1:2", "2026-11-23", "2001-12-14t21:59:43.10-05:00", ".inf", "-.Inf", ".nan", "9" * 400),
    *(
        "1e308",
        "9223372036854775808",
        "-1",
        "0",
        "1.5",
        "<<",
        "=",
        "!!python/object/apply:os.system [id]",
        "!!int 3",
        "!",
    ),
    *(
        "&a",
        "*a",
        "&a [*a]",
        "%YAML 1.1",
        "---",
        "...",
        "- a",
        "? a",
        ": a",
        "a: b",
        "#x",
        "{",
        "}",
        "[",
        "]",
        ",",
        "|",
    ),
    *(">", "|2", "'", '"', "`", "@x", "\t", "a\tb", "\r", "a\rb", "\x00", "\x1b[31mred", "\x7f", "\x85", "\u2028"),
    *(
        "\u202egpj.exe",
        "\u2066x\u2069",
        "\ufeff",
        "\u200b",
        "\xa0",
        "é",
        "👩‍👩‍👧",
        "'\\0'",
        '"\\0"',
        '"\\ud800"',
        '"\\u202e"',
    ),
    *(
        '"\\UFFFFFFFF"',
        '"\\x1b"',
        '"a\\nb"',
        "../../etc/passwd",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "os:system",
        "a" * 300,
    ),
    *(TOKEN, f'"hf\\x5f{TOKEN[3:]}"', "${HF_TOKEN}", "{{ 7 * 7 }}", "%(x)s", "{0.__class__}", "a/../b", "..", "."),
]
NAMES = sorted(
    {".".join(key[0]) for key in KEYS} | {f"{section}.{name}" for section in OWNED for name in OWNED[section]}
)
GOOD = {".".join(key[0]): good_value(key[1]) for key in KEYS}
WORDS = sorted({part for name in NAMES for part in name.split(".")} | set(SECTIONS))
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,110}")


class Case(NamedTuple):
    """A recipe's bytes, `--set` overrides, and another recipe beside it."""

    content: bytes
    overrides: tuple[str, ...] = ()
    base: bytes = b"model: {n_layer: 2}\n"


# ---- The law -----------------------------------------------------------------------------------


def outcome(case: Case, folder: Path) -> str:
    """`valid` or `refused`; raises AssertionError, or what the package raised beside a RecipeError."""
    path = folder / "recipe.yaml"
    path.write_bytes(case.content)
    (folder / "base.yaml").write_bytes(case.base)
    try:
        recipe = load_recipe(path, case.overrides)
    except RecipeError as error:
        check_lines(error, folder)
        return "refused"
    check_reads_back(recipe, folder)
    runs = expand_sweep(recipe)
    assert len({run.run_name for run in runs}) == len(runs), [run.run_name for run in runs]
    for run in runs:
        assert SAFE_NAME.fullmatch(run.run_name), run.run_name
    for run in (runs[0], runs[-1]):
        check_reads_back(run, folder)
        resolve_paths(run)
        place = (folder / default_run_dir(run)).resolve()
        assert place.parent.parent == (folder / "runs").resolve(), place
    return "valid"


def check_lines(error: RecipeError, folder: Path) -> None:
    """Every line begins with a place and gives a reason, and shows nothing that a terminal would act on."""
    assert error.problems and str(error) == "\n".join(error.problems)
    for line in error.problems:
        assert line.isprintable(), repr(line)
        assert TOKEN not in line, line
        place, _, reason = line.partition(": ")
        assert place and reason.strip(), line
        assert line.startswith("--set") or re.match(rf"{re.escape(str(folder))}/.+?(:[1-9]\d*)?( .+)?: ", line), line


def check_reads_back(recipe: Recipe, folder: Path) -> None:
    """load(dump(recipe)) says the same, types and all."""
    again = folder / "again.yaml"
    again.write_text(recipe.to_yaml(), encoding="utf-8")
    other = load_recipe(again)
    assert json.dumps(other.to_dict()) == json.dumps(recipe.to_dict()), recipe.to_yaml()
    assert other.digest() == recipe.digest(), recipe.to_yaml()


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# ---- What recipes are made of ------------------------------------------------------------------

odd_texts = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=12), st.text(alphabet="[]{}?:-&*!|>'\"%@`#, \n\t", max_size=8)
)
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.dates(), odd_texts),
    st.sampled_from(WORDS),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | odd_texts, inner, max_size=4),
    max_leaves=8,
)


def mostly(usual: st.SearchStrategy, odd: st.SearchStrategy) -> st.SearchStrategy:
    """The usual, and in about one case of four the odd."""
    return st.sampled_from([usual, usual, usual, odd]).flatmap(lambda chosen: chosen)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _dumped(content, flow: bool) -> str:
    try:
        return yaml.safe_dump(content, allow_unicode=True, default_flow_style=flow, sort_keys=False)
    except yaml.YAMLError:  # PyYAML cannot write what we made up
        return repr(content)


@st.composite
def whole_recipes(draw) -> dict:
    """Keys of the schema with values that each of them takes; now and then one that it does not."""
    names = draw(st.lists(st.sampled_from(sorted(GOOD)), max_size=6, unique=True))
    content: dict = {}
    for name in names:
        value = yaml.safe_load(GOOD[name]) if draw(st.integers(0, 19)) else draw(values)
        *above, last = name.split(".")
        section = content
        for part in above:
            section = section.setdefault(part, {})
        section[last] = value
        if above[0] == "objectives":
            section.setdefault("weight", 1)
    return content


@st.composite
def schema_recipes(draw) -> Case:
    return Case(_encoded(_dumped(draw(whole_recipes()), draw(st.booleans()))))


@st.composite
def random_yaml(draw) -> Case:
    """Any content under the names of sections, or instead of them."""
    sections = st.dictionaries(
        st.sampled_from([*SECTIONS, "experiment", "question", "extends"]) | odd_texts, values, max_size=4
    )
    return Case(_encoded(_dumped(draw(sections | values), draw(st.booleans()))))


@st.composite
def mutated_recipes(draw) -> Case:
    """A shipped recipe with up to four edits."""
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.sampled_from([1, 0, 1, 2, 3, 4]))):
        text = _edited(draw, text)
    content = _encoded(text)
    if content and draw(st.sampled_from([False] * 9 + [True])):
        place = draw(st.integers(0, len(content) - 1))
        content = draw(st.sampled_from([content[:place], content[:place] + b"\xff" + content[place + 1 :]]))
    return Case(draw(st.sampled_from([content] * 6 + [b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n")])))


def _edited(draw, text: str) -> str:
    lines = text.split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    line, edit = (
        lines[at],
        draw(
            st.sampled_from(
                ["value", "value", "drop", "twice", "move", "indent", "value", "key", "insert", "join", "odd"]
            )
        ),
    )
    key, colon, _ = line.partition(":")
    odd = draw(odd_texts)
    changed = {
        "drop": [],
        "twice": [line, line],
        "move": [lines[draw(st.integers(0, len(lines) - 1))], line],
        "indent": [draw(st.sampled_from(["  ", " ", "\t", "- ", "? "])) + line],
        "value": [f"{key}{colon} {draw(mostly(st.sampled_from(sorted(set(GOOD.values()))), odd_texts))}"],
        "key": [f"{odd}: {line}"],
        "insert": [line, odd],
        "join": [f"{line} {odd}"],
        "odd": [line[: len(line) // 2] + odd + line[len(line) // 2 :]],
    }[edit]
    return "\n".join([*lines[:at], *changed, *lines[at + 1 :]])


@st.composite
def raw_contents(draw) -> Case:
    return Case(draw(st.binary(max_size=200) | st.text(max_size=200).map(_encoded) | odd_texts.map(_encoded)))


@st.composite
def deep_recipes(draw) -> Case:
    opening = draw(
        st.lists(
            st.sampled_from(["[", "{", "{a: ", "? ", "- ", "[{? ", "a: ", "{? [", "!!x ", "&a "]),
            min_size=1,
            max_size=4,
        )
    )
    head = draw(st.sampled_from(["", "callbacks: ", "sweep: {grid: {", "objectives:\n  a: ", "? "]))
    return Case(_encoded(head + "".join(opening) * draw(st.sampled_from([3, 12, 13, 200, 3000]))))


@st.composite
def override_cases(draw) -> Case:
    """A recipe with `--set` strings."""
    usual = st.sampled_from([f"{name}={value}" for name, value in GOOD.items()])
    one = mostly(
        usual,
        st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(sorted(GOOD.values())) | odd_texts)
        | st.builds("{}={}".format, odd_texts, odd_texts)
        | st.builds("{}={}".format, st.sampled_from(NAMES), values.map(lambda value: _dumped(value, True).strip()))
        | odd_texts,
    )
    text = draw(st.sampled_from(["model: {n_layer: 2}\n", *SHIPPED]))
    return Case(_encoded(text), tuple(draw(st.lists(one, min_size=1, max_size=3))))


@st.composite
def sweep_cases(draw) -> Case:
    keys = (
        st.sampled_from([*NAMES, "model", "data", "objectives", "objectives.orthogonality", "metrics", "callbacks"])
        | odd_texts
    )
    good = st.sampled_from(sorted(name for name in GOOD if name.split(".")[0] in SWEPT_SECTIONS))
    axes = draw(st.lists(good | good | good | keys, max_size=3, unique=True))
    grid = {key: draw(_axis_values(key)) for key in axes}
    some = st.lists(st.integers(0, 2**32 - 1), max_size=4, unique=True)
    seeds = draw(some | some | st.lists(st.integers(-1, 2**32), max_size=4) | values)
    sweep = {"grid": grid} if draw(st.booleans()) else {"grid": grid, "seeds": seeds}
    return Case(_encoded(_dumped({**draw(whole_recipes()), "sweep": sweep}, draw(st.booleans()))))


def _axis_values(key: str):
    good = [yaml.safe_load(GOOD[key])] if key in GOOD else [None, {"n_layer": 2}, {"orthogonality": {"weight": 1}}]
    one = st.sampled_from(good) | st.integers(0, 5) | st.floats(0, 2) | values
    some = st.lists(st.sampled_from(good), min_size=1, max_size=2)
    return (
        some
        | some
        | st.lists(st.sampled_from(good) | st.integers(1, 5), max_size=3)
        | st.lists(one, max_size=3)
        | values
    )


@st.composite
def extends_cases(draw) -> Case:
    paths = [
        "./base.yaml",
        "recipe.yaml",
        ".",
        "..",
        "",
        "none.yaml",
        "/etc/passwd",
        "../../../etc/passwd",
    ]
    odd_paths = st.sampled_from([*paths, "base.yaml\0", "a" * 5000, "base.yaml/x", "~/base.yaml", "file:base.yaml"])
    path = draw(mostly(st.just("base.yaml"), odd_paths | odd_texts))
    base = draw(mostly(st.sampled_from(ALONE), st.just(f"extends: {path}\n") | odd_texts))
    base = _edited(draw, base) if draw(st.sampled_from([False, False, True])) else base
    own = _dumped({"extends": path, **draw(whole_recipes())}, False)
    return Case(_encoded(own), base=_encoded(base))


KINDS = {
    "shipped recipes with edits": mutated_recipes(),
    "keys of the schema": schema_recipes(),
    "any YAML under the names of sections": random_yaml(),
    "any text and bytes": raw_contents(),
    "nested deeply": deep_recipes(),
    "overrides": override_cases(),
    "sweeps": sweep_cases(),
    "extends": extends_cases(),
}
