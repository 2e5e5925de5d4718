"""The form of `report.json`, held to before anything relies on it: every field there, of its type, and no other.

A report may come from anywhere: whatever is wrong with it is one line that names the file and the place.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hf_tti.errors import UserError


def from_json(cls: type, parts: Mapping[str, type], path: Path, text: str, *, version: int) -> Any:
    """The dataclass that a file's text holds; its `arrays` are not in it.

    Args:
        parts: its fields that are dataclasses of their own.
        path: for messages.
        version: of the format.

    Raises:
        UserError: not JSON, another version, a field that is missing, unknown or of another type.
    """
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: truncated or not JSON ({error.msg}, line {error.lineno}); run hf-tti evaluate again"
        ) from error
    except (RecursionError, ValueError) as error:  # too deep; a number of thousands of digits
        raise UserError(f"{path}: not a report of hf-tti evaluate ({error})") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found is None:
        raise UserError(f"{path}: not a report of hf-tti evaluate")
    if found != version:
        raise UserError(f"{path}: format version {found!r}; this hf_tti reads {version}: run hf-tti evaluate again")
    del content["format_version"]
    for name, facts in parts.items():
        if name in content:
            content[name] = _built(facts, content[name], path, f"{name}.")
    _check_numbers(content.get("metrics", {}), path, "metrics")
    for row, values in _object(content.get("nulls"), path, "nulls").items():
        _check_numbers(values, path, f"nulls.{row}")
    for name, values in _FACTS.items():
        for label, facts in _object(content.get(name), path, name).items():
            for key, is_right in values.items():
                if key in _object(facts, path, f"{name}.{label}") and not is_right(facts[key]):
                    raise UserError(f"{path}: {name}.{label}.{key}: {str(facts[key])[:60]!r} is not what it may be")
    return _built(cls, content, path, "")


_FACTS = {  # what others rely on, where it is there
    "metric_facts": {
        "greater_is_better": lambda value: value is None or isinstance(value, bool),
        "summary": lambda value: isinstance(value, str),
    },
    "metric_settings": {
        "sites": lambda value: isinstance(value, list) and all(isinstance(site, str) for site in value),
        **{kind: lambda value: isinstance(value, str) for kind in ("metric", "study")},
    },
}


def _object(values: Any, path: Path, place: str) -> dict[str, Any]:
    """A JSON object; {} for null and where there is none."""
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: {place}: an object is wanted, not {type(values).__name__}")
    return values or {}


def _built(cls: type, values: Any, path: Path, place: str) -> Any:
    """The dataclass of exactly these values; arrays are not among them."""
    wanted = {item.name for item in dataclasses.fields(cls)} - {"arrays"}
    if not isinstance(values, dict):
        raise UserError(f"{path}: {place.rstrip('.')}: an object is wanted, not {type(values).__name__}")
    for name in sorted(wanted ^ values.keys()):
        raise UserError(f"{path}: {place}{name}: {'missing' if name in wanted else 'unknown'}")
    hints = get_type_hints(cls)
    for name, value in values.items():
        if not _is_of(value, hints[name]):
            raise UserError(f"{path}: {place}{name}: {str(value)[:60]!r} is not what a report has there")
    return cls(**values)


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value of a JSON file has the type of a field: plain types, unions, lists and dicts of them."""
    of, parts = get_origin(hint), get_args(hint)
    if of is UnionType:
        return any(_is_of(value, part) for part in parts)
    if of is dict:
        return isinstance(value, dict) and all(_is_of(item, parts[1]) for item in value.values())
    if of is list:
        return isinstance(value, list) and all(_is_of(item, parts[0]) for item in value)
    if hint is float or hint is int:
        return not isinstance(value, bool) and isinstance(value, (int, hint)) and not abs(value) >= 2**63  # or NaN
    return hint is Any or isinstance(value, hint)


def _check_numbers(values: Any, path: Path, place: str) -> None:
    for name, value in _object(values, path, place).items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UserError(f"{path}: {place}.{name}: {value!r} is not a number")
