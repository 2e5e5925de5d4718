"""Checks a recipe: every section against the schema, then the sections against one another."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from hf_tti.errors import did_you_mean
from hf_tti.recipe.contradictions import cross_problems
from hf_tti.recipe.parse import UNREAD, Node, Problem, Unreadable, describe, join
from hf_tti.recipe.schema import OWNED, SECTIONS, bad_component, bad_label, component_fields
from hf_tti.recipe.tree import canonical, find, plain, with_value
from hf_tti.recipe.values import ValueChecker

MAX_RUNS = 1000
SWEPT_SECTIONS = ("model", "data", "training", "objectives", "metrics", "callbacks")
_PRETRAINED_KEYS = ("pretrained", "revision", "attn_implementation")


def check(root: Node, *, unread: bool = False) -> list[Problem]:
    """Every problem of a recipe's tree, in the order of its sections.

    Sections are compared with one another only where each is in order by itself; `unread` says that
    parts of the file could not be read.
    """
    checker = RecipeChecker()
    checker.sections(root)
    if "sweep" in root.value:
        checker.sweep(root)
    if not checker.problems and not unread:
        checker.combinations(root)
    return checker.problems


class RecipeChecker(ValueChecker):
    """The sections of a recipe."""

    def sections(self, root: Node) -> None:
        """Everything except the sweep and what depends on several sections."""
        head = self.schema["head"]
        known = [*head, *SECTIONS]
        for name, node in root.value.items():
            if name in head:
                self.value(node, name, head[name])
            elif name not in SECTIONS:
                if node.value is not UNREAD:
                    self.unknown(node, name, name, known, {})
            elif name != "sweep":
                getattr(self, f"_{name}")(node)

    def _data(self, node: Node) -> None:
        self.fields(self.mapping(node, "data"), "data", self.schema["data"])

    def _training(self, node: Node) -> None:
        entries = self.mapping(node, "training")
        self.fields(entries, "training", self.schema["training"], owned=OWNED["training"])

    def _tracking(self, node: Node) -> None:
        self.fields(self.mapping(node, "tracking"), "tracking", self.schema["tracking"])

    def _hub(self, node: Node) -> None:
        self.fields(self.mapping(node, "hub"), "hub", self.schema["hub"])

    def _model(self, node: Node) -> None:
        entries = self.mapping(node, "model")
        common = self.schema["model"]
        if "pretrained" in entries and entries["pretrained"].value is not None:
            extra = {name: child for name, child in entries.items() if name not in _PRETRAINED_KEYS}
            for name, child in extra.items():
                self.report(
                    child,
                    f"model.{name}",
                    "cannot stand beside model.pretrained, which brings its own",
                )
            kept = {name: child for name, child in entries.items() if name not in extra}
            self.fields(kept, "model", common)
            return
        if "revision" in entries and entries["revision"].value is not None:
            self.report(
                entries["revision"],
                "model.revision",
                "is a revision of model.pretrained, which is not given",
            )
        model_type = entries["model_type"].value if "model_type" in entries else common["model_type"]["default"]
        if not isinstance(model_type, str) or model_type not in self.schema["models"]:
            self.fields({name: child for name, child in entries.items() if name in common}, "model", common)
            return
        described = self.schema["models"][model_type]
        specs = {**common, **described["fields"]}
        self.fields(entries, "model", specs, owned=OWNED["model"], aliases=described["aliases"])

    def _objectives(self, node: Node) -> None:
        self._components(node, "objectives", "objective")

    def _metrics(self, node: Node) -> None:
        self._components(node, "metrics", "metric")

    def _studies(self, node: Node) -> None:
        self._components(node, "studies", "study")

    def _evaluation(self, node: Node) -> None:
        self.fields(self.mapping(node, "evaluation"), "evaluation", self.schema["evaluation"])

    def _analysis(self, node: Node) -> None:
        entries = self.mapping(node, "analysis")
        composite = entries.get("composite")
        rest = {name: child for name, child in entries.items() if name != "composite"}
        self.fields(rest, "analysis", self.schema["analysis"])
        for label, part in self.mapping(composite, "analysis.composite").items() if composite else ():
            key = join("analysis.composite", label)
            self.fields(self.mapping(part, key), key, self.schema["composite"])
            self.required(self.mapping(part, key), key, self.schema["composite"], part)

    def _components(self, section: Node, kind: str, which: str) -> None:
        entry_specs = self.schema[which]
        for label, node in self.mapping(section, kind).items():
            key = join(kind, label)
            if node.value is UNREAD:
                continue
            if reason := bad_label(label):
                self.report(node, key, reason)
                continue
            before = len(self.problems)
            entries = self.mapping(node, key)
            named = entries.get(which)
            if len(self.problems) > before or named is not None and named.value is UNREAD:
                continue
            if named is not None and not isinstance(named.value, str | None):
                self.value(named, join(key, which), entry_specs[which])
                continue
            name = named.value if named is not None and named.value is not None else label
            if reason := bad_component(kind, name):
                if name == label and named is None:
                    reason += f"; under another label, give {which}: <name>"
                self.report(named or node, join(key, which) if named else key, reason)
                continue
            self._component(entries, key, kind, name, entry_specs)
            self.required(entries, key, entry_specs, node)

    def _component(self, entries: Mapping[str, Node], key: str, kind: str, name: str, entry_specs: Mapping) -> None:
        if ":" not in name:
            self.fields(entries, key, {**entry_specs, **component_fields(kind, name)})
            return
        for (
            field,
            node,
        ) in entries.items():  # a class of the user's own: its keys are its own affair
            if field in entry_specs:
                self.value(node, join(key, field), entry_specs[field])
            else:
                self.free(node, join(key, field))

    def _callbacks(self, section: Node) -> None:
        for name, node in self.mapping(section, "callbacks").items():
            key = join("callbacks", name)
            if node.value is UNREAD:
                continue
            if reason := bad_component("callbacks", name):
                self.report(node, key, reason)
            else:
                self._component(self.mapping(node, key), key, "callbacks", name, {})

    def sweep(self, root: Node) -> None:
        """Seeds, and every value of the grid as if it stood in its place."""
        section = root.value["sweep"]
        entries = self.mapping(section, "sweep")
        self.fields({k: v for k, v in entries.items() if k != "grid"}, "sweep", self.schema["sweep"])
        if "grid" not in entries:
            return
        grid = self.mapping(entries["grid"], "sweep.grid")
        for key, axis in grid.items():
            above = next((other for other in grid if key.startswith(f"{other}.")), None)
            if above is not None:
                self.report(axis, f"sweep.grid.{key}", f"lies inside {above}, which is an axis itself")
        bare = Node({k: v for k, v in root.value.items() if k != "sweep"}, root.place)
        known = {(problem.key, problem.reason) for problem in self.problems}
        for key, values in grid.items():
            self._axis(bare, key, values, known, bool(entries.get("seeds") and entries["seeds"].value))

    def _axis(self, bare: Node, key: str, values: Node, known: set[tuple[str, str]], has_seeds: bool) -> None:
        place = f"sweep.grid.{key}"
        if values.value is UNREAD:
            return
        if key.split(".")[0] not in SWEPT_SECTIONS:
            guess = did_you_mean(key.split(".")[0], SWEPT_SECTIONS)
            self.report(
                values,
                place,
                f"cannot be swept{guess}; dotted keys of: {', '.join(SWEPT_SECTIONS)}",
            )
        elif has_seeds and key in ("training.seed", "training.data_seed"):
            self.report(values, place, "is set by sweep.seeds")
        elif not isinstance(values.value, list) or not values.value:
            found = "an empty list" if values.value == [] else describe(values.value)
            self.report(values, place, f"expected a list of values; found {found}")
        elif len(values.value) > MAX_RUNS:
            self.report(values, place, f"{len(values.value):,} values; at most {MAX_RUNS:,} runs")
        else:
            self._axis_values(bare, key, values.value, known)

    def _axis_values(self, bare: Node, key: str, values: list[Node], known: set[tuple[str, str]]) -> None:
        said: set[tuple[str, str]] = set()
        seen: set[str] = set()
        for node in values:
            value = plain(node)
            same = json.dumps(canonical(value), sort_keys=True)
            if same in seen:
                self.report(node, f"sweep.grid.{key}", f"{describe(value)} occurs twice")
            seen.add(same)
            for problem in self._as_if_set(bare, key, node):
                identity = (problem.key, problem.reason)
                if identity not in known | said:
                    said.add(identity)
                    self.report(Node(None, problem.place), f"sweep.grid.{problem.key}", problem.reason)

    @staticmethod
    def _as_if_set(bare: Node, key: str, node: Node) -> list[Problem]:
        trial = RecipeChecker()
        try:
            trial.sections(with_value(bare, key, node))
        except Unreadable as error:
            return [error.problem]
        return trial.problems

    def combinations(self, root: Node) -> None:
        """What one section asks of another, in the recipe itself and in every run of its sweep."""
        reported = set()
        for key, reason in cross_problems(plain(root), self.schema):
            reported.add(reason)
            self.report(find(root, key), key, reason)
        sweep = self.mapping(root.value.get("sweep", Node(None, root.place)), "sweep")
        grid_node = sweep.get("grid", Node({}, root.place))
        grid = {key: axis.value for key, axis in (grid_node.value or {}).items()}
        num_seeds = len(sweep["seeds"].value) if "seeds" in sweep else 1
        num_runs = math.prod(map(len, grid.values())) * max(num_seeds, 1)
        if num_runs > MAX_RUNS:
            self.report(grid_node, "sweep", f"{num_runs:,} runs; at most {MAX_RUNS:,}")
            return
        for combination in combine(grid):
            tree = root
            for key, node in combination.items():
                tree = with_value(tree, key, node)
            for _, reason in cross_problems(plain(tree), self.schema):
                if reason not in reported:
                    reported.add(reason)
                    self.report(grid_node, "sweep.grid", reason)


def combine(grid: Mapping[str, list]) -> Iterator[dict[str, Any]]:
    """Every combination of a grid's values, the last key fastest; one empty one without a grid."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))
