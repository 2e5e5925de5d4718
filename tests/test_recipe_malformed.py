"""Every fault that can be made at every key gives one line, which names the file, the line and the key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hf_tti.recipe import RecipeError, load_recipe
from hf_tti.recipe.schema import OWNED, load_schema

# The section of every key, as (sections above it, specification, what else must stand in that section).
Key = tuple[tuple[str, ...], dict[str, Any], dict[str, str]]


class Case(NamedTuple):
    """A recipe, and the line and key at which it has its one fault."""

    text: str
    line: int
    key: str

    def __repr__(self) -> str:
        return self.key


def keys() -> Iterator[Key]:
    schema = load_schema()
    for section in ("data", "training", "tracking", "hub"):
        for name, spec in schema[section].items():
            yield (section, name), spec, {}
    for model_type, described in schema["models"].items():
        for name, spec in described["fields"].items():
            yield ("model", name), spec, {"model_type": model_type}
    for kind, entry in (("objectives", {"weight": "1"}), ("metrics", {}), ("callbacks", {})):
        for name, fields in schema[kind].items():
            for field, spec in fields.items():
                yield (kind, name, field), spec, entry
    yield ("objectives", "orthogonality", "weight"), schema["objective"]["weight"], {}
    yield ("objectives", "orthogonality", "warmup_steps"), schema["objective"]["warmup_steps"], {"weight": "1"}
    yield ("sweep", "seeds"), schema["sweep"]["seeds"], {}


def recipe(parts: tuple[str, ...], written: str, beside: dict[str, str]) -> Case:
    """A recipe in block style with `written` (one or two lines) as the last line of its section."""
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts[:-1])]
    indent = "  " * (len(parts) - 1)
    lines += [f"{indent}{name}: {value}" for name, value in beside.items()]
    lines += [indent + line for line in written.split("\n")]
    return Case("\n".join(["# a recipe", *lines, ""]), len(lines) + 1, ".".join(parts))


def good_value(spec: dict[str, Any]) -> str:
    """A value that the specification takes, written in YAML."""
    if "component" in spec:
        return "tinystories"
    if "choices" in spec and "str" in spec["types"]:
        return spec["choices"][0]
    if set(spec["types"]) <= {"list", "null"}:
        item = spec.get("items", {})
        return "[mlp.out]" if item.get("format") == "site" else f"[{good_value(item)}]" if item.get("types") else "[1]"
    for name, text in (("bool", "true"), ("str", "abc"), ("dict", "{a: 1}")):
        if name in spec["types"]:
            return text
    if "exclusive_max" in spec:
        return str(spec["exclusive_max"] / 2)
    return str(spec["max"] if "max" in spec else max(spec.get("min", 0), spec.get("exclusive_min", 0)) + 1)


def wrong_types(spec: dict[str, Any]) -> str | None:
    types = set(spec["types"])
    candidates = [("dict", "{a: 1}"), ("list", "[[]]"), ("bool", "true"), ("null", "null"), ("str", "some text")]
    return next((text for name, text in candidates if name not in types), None)


def out_of_range(spec: dict[str, Any]) -> Iterator[str]:
    item = spec.get("items", {}) if set(spec["types"]) <= {"null", "list"} else spec
    whole = "float" not in item.get("types", [])
    step = 1 if whole else 0.5
    outside = {
        "min": lambda bound: bound - step,
        "max": lambda bound: bound + step,
        "exclusive_min": lambda bound: bound,
        "exclusive_max": lambda bound: bound,
    }
    for name, beyond in outside.items():
        if name in item:
            yield f"[{beyond(item[name])}]" if item is not spec else str(beyond(item[name]))


def faults(key: Key) -> Iterator[tuple[str, Case]]:
    parts, spec, beside = key
    name, good = parts[-1], good_value(spec)
    needed = {name: good} if spec.get("required") else {}
    yield "misspelt", recipe((*parts[:-1], f"{name}_x"), f"{name}_x: {good}", {**beside, **needed})
    yield "twice", recipe(parts, f"{name}: {good}\n{name}: {good}", beside)
    yield "alias", recipe(parts, f"{name}: *there", beside)
    yield "anchor", recipe(parts, f"{name}: &here {good}", beside)
    yield "tag", recipe(parts, f"{name}: !!python/name:os.system {'' if good[0] in '[{' else good}", beside)
    yield "not finite", recipe(parts, f"{name}: .nan", beside)
    if (wrong := wrong_types(spec)) is not None:
        yield "wrong type", recipe(parts, f"{name}: {wrong}", beside)
    for number, value in enumerate(out_of_range(spec)):
        yield f"out of range {number}", recipe(parts, f"{name}: {value}", beside)
    if {"int", "float"} & set(spec["types"]) and "str" not in spec["types"]:
        yield "quoted", recipe(parts, f"{name}: '1e-3'", beside)
        yield "too large", recipe(parts, f"{name}: {10**30}", beside)
    if "choices" in spec and "str" in spec["types"]:
        yield "no such choice", recipe(parts, f"{name}: no_such_choice", beside)
    if spec["types"] == ["int"]:
        yield "a fraction", recipe(parts, f"{name}: 1.5", beside)
    if spec.get("items", {}).get("format") == "site":
        yield "no such site", recipe(parts, f"{name}: [mlp.neuron]", beside)
        yield "no sites", recipe(parts, f"{name}: []", beside)
        yield "site twice", recipe(parts, f"{name}: [resid, resid]", beside)
    if spec.get("component"):
        yield "no such component", recipe(parts, f"{name}: no_such_component", beside)


KEYS = list(keys())
CASES = [(fault, case) for key in KEYS for fault, case in faults(key)]


def problems_of(folder: Path, text: str) -> tuple[Path, list[str]]:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return path, caught.value.problems


def test_there_are_faults_at_every_key():
    assert len(KEYS) > 150 and len(CASES) > 8 * len(KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join((*key[2].values(), *key[0])))
def test_a_fault_is_one_line_with_its_place(tmp_path, key):
    for fault, case in faults(key):
        path, problems = problems_of(tmp_path, case.text)
        assert len(problems) == 1, (fault, case.text, problems)
        (line,) = problems
        assert line.startswith(f"{path}:{case.line} {case.key}"), (fault, case.text, line)
        assert "\n" not in line


@pytest.mark.parametrize("key", KEYS, ids=lambda key: ".".join((*key[2].values(), *key[0])))
def test_without_the_fault_the_key_itself_is_accepted(tmp_path, key):
    """So that no line above is about something else. What other sections have to say is left aside."""
    parts, spec, beside = key
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(parts, f"{parts[-1]}: {good_value(spec)}", beside).text, encoding="utf-8")
    try:
        load_recipe(path)
    except RecipeError as error:
        words = ("multiple of", "longer than", "needs training.", "smaller than", "is a revision", "brings its own")
        assert all(any(word in line for word in words) for line in error.problems), error.problems


@pytest.mark.parametrize(("section", "name"), [(section, name) for section, names in OWNED.items() for name in names])
def test_a_key_that_the_run_owns_says_where_it_belongs(tmp_path, section, name):
    path, problems = problems_of(tmp_path, f"{section}:\n  {name}: x\n")
    assert problems == [f"{path}:2 {section}.{name}: {OWNED[section][name]}"]


WHOLE_FILES = {
    "empty": (b"", ":1: a recipe is a mapping of sections; found nothing"),
    "comments": (b"# nothing\n", ":1: a recipe is a mapping of sections; found nothing"),
    "a list": (b"\n- a\n", ":2: a recipe is a mapping of sections; found a list"),
    "text": (b"hello", ":1: a recipe is a mapping of sections; found the text 'hello'"),
    "not UTF-8": (b"model: {}\ndata: {name: \xff}\n", ":2: not UTF-8: byte 0xff"),
    "UTF-16": ("model: {}".encode("utf-16"), ":1: not UTF-8: byte 0xff"),
    "control character": (b"model: {}\ndata: {name: a\x00b}", ":2: not YAML: the character U+0000 is not allowed"),
    "syntax": (b"model: {}\ndata: {name: [}\n", ":2: not YAML: "),
    "tab": (b"model:\n\tn_layer: 2\n", ":2: not YAML: "),
    "indentation": (b"model:\n  n_layer: 2\n n_head: 2\n", ":3: not YAML: "),
    "beyond Unicode": (b'question: "\\UFFFFFFFF"\n', ":1: not YAML: "),
    "two documents": (b"model: {}\n---\nmodel: {}\n", ":2: a second YAML document; a recipe is one"),
    "deep": (b"callbacks: " + b"[" * 2000 + b"]" * 2000, ":1 callbacks"),
    "bomb": (b"question: &a x\n", ":1 question: anchor &a is not read"),
    "key is a list": (b"? [a, b]\n: 1\n", ":1: a key is plain text"),
    "merge key": (b"model:\n  <<: {n_layer: 2}\n", ":2 model.<<: unknown key"),
    "too large": (b"# " + b"x" * 200_000, ": larger than 200,000 bytes"),
    "section is a number": (b"\ntraining: 3\n", ":2 training: expected a mapping; found the number 3"),
    "entry is a number": (b"metrics:\n  correlation: 3\n", ":2 metrics.correlation: expected a mapping"),
    "unknown section": (b"\n\ntrainer: {}\n", ":3 trainer: unknown key (did you mean 'training'?)"),
    "odd key": (b'"a\\nb": 1\n', r":1 'a\nb': unknown key"),
    "label": (b"metrics:\n  a b: {metric: correlation}\n", ":2 'metrics.a b': a label has letters"),
    "label of objective": (b"objectives: {1st: {objective: selectivity, weight: 1}}", ":1 objectives.1st: a label has"),
    "no weight": (b"objectives:\n  selectivity: {}\n", ":2 objectives.selectivity.weight: missing"),
    "component is a number": (b"metrics: {a: {metric: 3}}", ":1 metrics.a.metric: expected null or text"),
    "unknown label": (b"objectives: {selectivty: {weight: 1}}", ":1 objectives.selectivty: unknown objective"),
    "unknown metric": (b"metrics: {a: {metric: corelation}}", ":1 metrics.a.metric: unknown metric 'corelation' (did"),
    "unknown callback": (b"callbacks: {early_stop: {}}", ":1 callbacks.early_stop: unknown callback"),
    "unknown model": (b"model:\n  model_type: gtp2\n", ":2 model.model_type: expected one of gpt2"),
    "experiment": (b"experiment: a/b\n", ":1 experiment: the text 'a/b' has other characters"),
    "grid is a list": (b"sweep: {grid: [1]}", ":1 sweep.grid: expected a mapping; found a list"),
    "axis is a number": (b"sweep: {grid: {data.seed: 1}}", ":1 sweep.grid.data.seed: expected a list of values"),
    "axis is empty": (b"sweep: {grid: {data.seed: []}}", ":1 sweep.grid.data.seed: expected a list of values; found"),
    "axis repeats": (b"sweep: {grid: {data.seed: [1, 1]}}", ":1 sweep.grid.data.seed: the number 1 occurs twice"),
    "axis of unknown key": (b"sweep: {grid: {data.sed: [1, 2]}}", ":1 sweep.grid.data.sed: unknown key (did you mean"),
    "axis of a section": (b"sweep: {grid: {hub.private: [true]}}", ":1 sweep.grid.hub.private: cannot be swept"),
    "axis below a value": (
        b"data: {seed: 1}\nsweep: {grid: {data.seed.x: [1]}}",
        ":2 sweep.grid.data.seed.x: data.seed is the number 1, not a mapping",
    ),
    "axis of the wrong type": (
        b"sweep:\n  grid:\n    training.max_steps:\n      - 1\n      - x\n",
        ":5 sweep.grid.training.max_steps: expected a whole number; found the text 'x'",
    ),
    "axis of an owned key": (b"sweep: {grid: {training.bf16: [true]}}", ":1 sweep.grid.training.bf16: set by"),
    "seeds twice": (
        b"sweep: {seeds: [1], grid: {training.seed: [1]}}",
        ":1 sweep.grid.training.seed: is set by sweep.seeds",
    ),
    "seed repeats": (b"sweep: {seeds: [1, 1]}", ":1 sweep.seeds[1]: the number 1 occurs twice"),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_file_that_is_wrong_as_a_whole_is_one_line(tmp_path, name):
    content, said = WHOLE_FILES[name]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}{said}"), line


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        (line,) = caught.value.problems
        assert line.startswith(f"{path}: cannot be read: ")


def test_all_faults_are_reported_together_in_the_order_of_their_lines(tmp_path):
    text = "training:\n  max_steps: x\n  seed: -1\n  seed: 2\nmodel:\n  n_layer: 0\nqestion: a\n"
    path, problems = problems_of(tmp_path, text)
    keys = ["training.max_steps", "training.seed", "training.seed", "model.n_layer", "qestion"]
    assert [line.split(":")[1] for line in problems] == [
        f"{n} {key}" for n, key in zip([2, 3, 4, 6, 7], keys, strict=True)
    ]
