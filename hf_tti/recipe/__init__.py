"""A recipe: one YAML file that says everything about a run, checked before anything is loaded.

    recipe = load_recipe("recipes/quickstart/orthogonality.yaml", ["training.max_steps=20"])
    for run in expand_sweep(recipe): ...

Checking imports neither torch nor transformers. `recipes/README.md` describes the keys.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_tti.errors import UserError
from hf_tti.recipe.check import SWEPT_SECTIONS, check, combine
from hf_tti.recipe.parse import Node, Place, Problem, Unreadable, read_file, read_text, resolve_scalar
from hf_tti.recipe.schema import SECTIONS
from hf_tti.recipe.tree import canonical, merge, plain, split_key, with_value
from hf_tti.redaction import TOKENS_ELSEWHERE, masked, printable, secret_in

DEFAULT_SEED = 42  # of TrainingArguments
_LONGEST_RUN_NAME = 96


class RecipeError(UserError):
    """What is wrong with a recipe.

    Attributes:
        problems: one line each, `file:line key: reason`; the message is these lines.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = [printable(masked(str(problem))) for problem in problems]
        ValueError.__init__(self, "\n".join(self.problems))


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. Sections are plain dicts of what was written: no defaults filled in.

    Attributes:
        path: the file that was read; relative paths under `data:` start from its folder.
        name: the file's stem, as a folder may be called.
        run_name: name of this run among those of the sweep; `name` before `expand_sweep`.
    """

    path: Path
    name: str
    experiment: str = ""
    question: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    analysis: dict[str, Any] = field(default_factory=dict)
    tracking: dict[str, Any] = field(default_factory=dict)
    hub: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, Any] = field(default_factory=dict)
    run_name: str = ""

    def __post_init__(self) -> None:
        if not self.run_name:
            object.__setattr__(self, "run_name", self.name)

    def to_dict(self) -> dict[str, Any]:
        """As it would be written, `extends` and overrides resolved; empty sections left out."""
        names = ("experiment", "question", *SECTIONS)
        return {name: copy.deepcopy(getattr(self, name)) for name in names if getattr(self, name)}

    def to_yaml(self) -> str:
        """YAML that `load_recipe` reads back to the same content."""
        return yaml.dump(self.to_dict(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)

    def digest(self) -> str:
        """Hex sha256 of what determines the result: not names, places, wording, tracking, hub or what is
        measured afterwards."""
        content = {name: canonical(getattr(self, name)) for name in (*SWEPT_SECTIONS, "sweep")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a YAML file.
        overrides: `section.key=value` each, the value in YAML; they win over the file.

    Raises:
        RecipeError: everything that is wrong, one line each.
    """
    path = Path(path)
    try:
        root, problems = _read_with_base(path)
    except Unreadable as error:
        raise RecipeError([error.problem]) from error
    for override in overrides:
        root, more = _override(root, override)
        problems += more
    problems += check(root, unread=bool(problems))
    if problems:
        raise RecipeError(_in_order(problems))
    content = plain(root)
    content.pop("extends", None)
    return Recipe(path=path, name=_safe(path.stem), **_without_nulls(content))


def _without_nulls(content: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of which nothing is written left out, entries of which nothing is written empty."""
    sections = {name: value for name, value in content.items() if value is not None}
    for name in ("objectives", "metrics", "studies", "callbacks"):
        if name in sections:
            sections[name] = {label: entry or {} for label, entry in sections[name].items()}
    return sections


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """File by file as first met, and by line within a file."""
    sources = list(dict.fromkeys(problem.place.source for problem in problems))
    return sorted(problems, key=lambda problem: (sources.index(problem.place.source), problem.place.line))


def _read_with_base(path: Path) -> tuple[Node, list[Problem]]:
    root, problems = read_file(path, str(path))
    node = root.value.get("extends")
    if node is None or not isinstance(node.value, str):
        return root, problems
    if Path(node.value).is_absolute():
        raise Unreadable(node.place, f"{node.value!r} is absolute; a path relative to this file", "extends")
    base_path = path.parent / node.value
    try:
        base, more = read_file(base_path, str(base_path))
    except Unreadable as error:
        if error.problem.place.line:
            raise
        raise Unreadable(node.place, f"{node.value!r} {error.problem.reason}", "extends") from error
    if "extends" in base.value:
        raise Unreadable(
            base.value["extends"].place,
            "a recipe that others extend cannot extend one itself",
            "extends",
        )
    return merge(base, root), [*more, *problems]


def _override(root: Node, override: str) -> tuple[Node, list[Problem]]:
    if what := secret_in(override):
        return root, [Problem(Place("--set"), "", f"holds {what}; {TOKENS_ELSEWHERE}")]
    key, equals, text = override.partition("=")
    key = key.strip()
    place = Place(f"--set {' '.join(key.split())}")
    if not equals or not all(split_key(key)):
        return root, [Problem(place, "", "expected section.key=value")]
    if key.split(".")[0] == "extends":
        return root, [Problem(place, key, "stands in the file only")]
    try:
        node, problems = read_text(text, place.source, lines=False)
        problems = [dataclasses.replace(p, key=".".join(filter(None, [key, p.key]))) for p in problems]
        return with_value(root, key, dataclasses.replace(node, place=place)), problems
    except Unreadable as error:
        return root, [dataclasses.replace(error.problem, key=key)]


def expand_sweep(recipe: Recipe) -> list[Recipe]:
    """One recipe per run: every combination of the grid with every seed, the seed varying fastest.

    A run has no sweep, its own `run_name`, and both `training.seed` and `training.data_seed` set.
    Without a sweep there is one run, with the recipe's own seed.
    """
    grid: dict[str, list] = recipe.sweep.get("grid") or {}
    seeds: list[int | None] = list(recipe.sweep.get("seeds") or [None])
    names = _short_names([*grid, "training.seed"])
    runs = [_run(recipe, chosen, seed, names) for chosen in combine(grid) for seed in seeds]
    counts = {run.run_name: 0 for run in runs}
    for run in runs:
        counts[run.run_name] += 1
    return [run if counts[run.run_name] == 1 else _distinct(run) for run in runs]


def _run(recipe: Recipe, chosen: Mapping[str, Any], seed: int | None, names: Mapping[str, str]) -> Recipe:
    content = copy.deepcopy({name: getattr(recipe, name) for name in SWEPT_SECTIONS})
    for key, value in chosen.items():
        _assign(content, key.split("."), copy.deepcopy(value))
    content = {**dict.fromkeys(SWEPT_SECTIONS, {}), **_without_nulls(content)}
    training = content["training"] = dict(content["training"])
    if seed is not None:
        training["seed"] = training["data_seed"] = seed
    training.setdefault("seed", DEFAULT_SEED)
    if training.get("data_seed") is None:
        training["data_seed"] = training["seed"]
    parts = [recipe.name, *(f"{names[key]}{_label(value)}" for key, value in chosen.items())]
    if "training.seed" not in chosen:
        parts.append(f"seed{training['seed']}")
    return dataclasses.replace(recipe, **content, sweep={}, run_name=_safe("-".join(parts)))


def _assign(content: dict, parts: Sequence[str], value: Any) -> None:
    for part in parts[:-1]:
        if content.get(part) is None:
            content[part] = {}
        content = content[part]
    content[parts[-1]] = value


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ends of keys that tell them apart: `weight`, or `a.weight` and `b.weight`."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        others = [other for other in keys if other != key]
        names[key] = next((e for e in ends if not any(f".{o}".endswith(f".{e}") for o in others)), key)
    return names


def _label(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return "+".join(_label(item) for item in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)


def _safe(name: str) -> str:
    """The name as a folder's: ordinary characters, not hidden, no option, and a hash of the rest where it is long."""
    clean = re.sub(r"[^A-Za-z0-9._+-]+", "_", name).lstrip(".+-") or "recipe"
    if len(clean) <= _LONGEST_RUN_NAME:
        return clean
    return f"{clean[: _LONGEST_RUN_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _distinct(run: Recipe) -> Recipe:
    return dataclasses.replace(run, run_name=f"{run.run_name}-{run.digest()[:8]}")


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this reader or a YAML 1.1 reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = None if isinstance(resolve_scalar(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
