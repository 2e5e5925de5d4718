"""Checks values against their specifications: type, range, choices, pattern, items."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hf_tti.errors import did_you_mean
from hf_tti.recipe.parse import UNREAD, Node, Problem, describe, join
from hf_tti.recipe.schema import bad_component, bad_site, listed, load_schema

ANYTHING: dict[str, Any] = {"types": ["null", "bool", "int", "float", "str", "list", "dict"]}


class ValueChecker:
    """Walks a recipe's nodes and collects problems; never raises for what a recipe says."""

    def __init__(self) -> None:
        self.schema = load_schema()
        self.problems: list[Problem] = []

    def report(self, node: Node, key: str, reason: str) -> None:
        self.problems.append(Problem(node.place, key, reason))

    def mapping(self, node: Node, key: str) -> dict[str, Node]:
        """The entries of a mapping; nothing written is an empty one, anything else a problem."""
        if isinstance(node.value, dict):
            return node.value
        if node.value is not None and node.value is not UNREAD:
            self.report(node, key, f"expected a mapping; found {describe(node.value)}")
        return {}

    def fields(
        self,
        entries: Mapping[str, Node],
        key: str,
        specs: Mapping[str, dict],
        *,
        owned: Mapping[str, str] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Check every entry against its specification, and name the unknown ones."""
        for name, node in entries.items():
            path = join(key, name)
            if name in specs:
                self.value(node, path, specs[name])
            elif node.value is UNREAD:
                continue
            elif name in (owned or {}):
                self.report(node, path, owned[name])
            else:
                self.unknown(node, path, name, specs, aliases or {})

    def unknown(self, node: Node, path: str, name: str, known: Iterable[str], aliases: Mapping[str, str]) -> None:
        known = list(known)
        guess = f" (did you mean {aliases[name]!r}?)" if name in aliases else did_you_mean(name, known)
        if not guess:
            guess = f"; none of {len(known)} keys is like it" if len(known) > 14 else f"; choices: {listed(known)}"
        self.report(node, path, f"unknown key{guess}")

    def required(self, entries: Mapping[str, Node], key: str, specs: Mapping[str, dict], node: Node) -> None:
        for name, spec in specs.items():
            if spec.get("required") and name not in entries:
                self.report(node, join(key, name), "missing; it has no default")

    def value(self, node: Node, key: str, spec: Mapping[str, Any]) -> None:
        """Check one value: its type first, then its range or choices, then its items."""
        value = node.value
        if value is UNREAD:
            return
        if isinstance(value, int | float) and not isinstance(value, bool) and self._unusable(node, key):
            return
        found = _type_name(value)
        if found not in spec["types"] and not (found == "int" and "float" in spec["types"]):
            hint = "; remove the quotes" if _looks_like_number(value, spec) else ""
            self.report(node, key, f"expected {_expected(spec)}; found {describe(value)}{hint}")
        elif isinstance(value, list):
            self._list(node, key, spec)
        elif isinstance(value, dict):
            self.free(node, key)
        elif value is not None:
            reason = _out_of_range(value, spec) or self._bad_text(value, spec)
            if reason:
                self.report(node, key, reason)

    def free(self, node: Node, key: str) -> None:
        """Values whose keys are somebody else's: only numbers that no run can use are problems."""
        if isinstance(node.value, dict):
            for name, child in node.value.items():
                self.free(child, join(key, name))
        elif isinstance(node.value, list):
            for index, child in enumerate(node.value):
                self.free(child, f"{key}[{index}]")
        elif isinstance(node.value, int | float) and not isinstance(node.value, bool):
            self._unusable(node, key)

    def _unusable(self, node: Node, key: str) -> bool:
        if isinstance(node.value, float) and not math.isfinite(node.value):
            self.report(node, key, f"not a finite number: {node.value}")
        elif isinstance(node.value, int) and abs(node.value) >= 2**63:
            self.report(node, key, "out of range: does not fit in 64 bits")
        else:
            return False
        return True

    def _list(self, node: Node, key: str, spec: Mapping[str, Any]) -> None:
        items = node.value
        least, most = spec.get("min_items", 0), spec.get("max_items", math.inf)
        if not least <= len(items) <= most:
            count = f"at least {least}" if most == math.inf else f"{least}" if least == most else f"{least} to {most}"
            self.report(
                node,
                key,
                f"expected {count} item{'s' * (count[-2:].strip() != '1')}; found {len(items)}",
            )
        seen: set[Any] = set()
        for index, item in enumerate(items):
            self.value(item, f"{key}[{index}]", spec.get("items", ANYTHING))
            if spec.get("unique") and not isinstance(item.value, list | dict):
                if item.value in seen:
                    self.report(item, f"{key}[{index}]", f"{describe(item.value)} occurs twice")
                seen.add(item.value)

    def _bad_text(self, value: Any, spec: Mapping[str, Any]) -> str | None:
        if not isinstance(value, str):
            return None
        if "pattern" in spec and not re.fullmatch(spec["pattern"], value):
            return f"{describe(value)} has other characters than letters, digits, '.', '_', '-'"
        if spec.get("format") == "site":
            return bad_site(value, self.schema["sites"])
        if "component" in spec:
            return bad_component(spec["component"], value)
        return None


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _looks_like_number(value: Any, spec: Mapping[str, Any]) -> bool:
    if not isinstance(value, str) or not {"int", "float"} & set(spec["types"]):
        return False
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", value) is not None


def _expected(spec: Mapping[str, Any]) -> str:
    if len(spec["types"]) >= 6:
        return "a value"
    names = {
        "bool": "true or false",
        "str": "text",
        "dict": "a mapping",
        "null": "null",
        "int": "a whole number",
    }
    names |= {"float": "a number", "list": "a list, such as [a, b]"}
    types = [t for t in spec["types"] if not (t == "int" and "float" in spec["types"])]
    words = [names[t] for t in types]
    if "choices" in spec and "str" in types:
        words[types.index("str")] = f"one of {listed(spec['choices'])}"
    return " or ".join(words)


_BOUNDS = {
    "min": (operator.ge, "at least"),
    "exclusive_min": (operator.gt, "above"),
    "max": (operator.le, "at most"),
    "exclusive_max": (operator.lt, "below"),
}


def _out_of_range(value: Any, spec: Mapping[str, Any]) -> str | None:
    if isinstance(value, bool):
        return None
    if "choices" in spec and value not in spec["choices"]:
        guess = did_you_mean(str(value), map(str, spec["choices"]))
        return f"expected one of {listed(spec['choices'])}; found {describe(value)}{guess}"
    if isinstance(value, str):
        return None
    for name, (holds, words) in _BOUNDS.items():
        if name in spec and not holds(value, spec[name]):
            return f"out of range: {value} must be {words} {spec[name]}"
    return None
