"""Generates the JSON that recipes are checked against, from the live dataclasses.

    python -m hf_tti.recipe.schema_build          # after a change to any of them
    python -m hf_tti.recipe.schema_build --check  # says what is out of date; exit code 1

Writes `hf_tti.json`, which no version of transformers changes, and the `transformers-X.Y.json` of
the version at hand; one is shipped for each end of the supported range.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import operator
import sys
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal

from hf_tti.components import component_names, load_component
from hf_tti.recipe import sections
from hf_tti.recipe.schema import OWNED, SCHEMA_DIR
from hf_tti.recipe.schema_limits import MODEL_LIMITS, TRAINING_LIMITS

COMPONENT_KINDS = ("objectives", "metrics", "studies", "callbacks")
_ORDER = ("null", "bool", "int", "float", "str", "list", "dict")
_SCALARS = {NoneType: "null", bool: "bool", int: "int", float: "float", str: "str"}
_LIMITS = ("min", "max", "exclusive_min", "exclusive_max", "choices", "pattern")


def describe_type(hint: Any) -> dict[str, Any]:
    """What YAML may hold for a type annotation; types that YAML cannot write are left out.

    >>> describe_type(tuple[str, ...] | None)
    {'types': ['null', 'list'], 'items': {'types': ['str']}}
    """
    spec: dict[str, Any] = {"types": []}
    for option in _options(hint):
        part = _describe_one(option)
        spec["types"] += part.pop("types", [])
        spec |= part
    spec["types"] = sorted(set(spec["types"]), key=_ORDER.index)
    return spec


def _options(hint: Any) -> Sequence[Any]:
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [option for inner in typing.get_args(hint) for option in _options(inner)]
    return [hint]


def _describe_one(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {"types": list(_ORDER)}
    if hint in _SCALARS:
        return {"types": [_SCALARS[hint]]}
    if origin is Literal:
        return {"types": [_SCALARS[type(value)] for value in args], "choices": list(args)}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"types": ["str"], "choices": [member.value for member in hint]}
    kind = origin or hint
    if kind is dict or kind is typing.Mapping or kind is Mapping or typing.is_typeddict(kind):
        return {"types": ["dict"]}
    if isinstance(kind, type) and issubclass(kind, list | tuple | set | frozenset | Sequence):
        return {"types": ["list"], **_describe_items(kind, args)}
    return {}


def _describe_items(kind: type, args: tuple) -> dict[str, Any]:
    if not args:
        return {}
    if kind is tuple and Ellipsis not in args:
        return {
            "items": describe_type(functools.reduce(operator.or_, args)),
            "min_items": len(args),
            "max_items": len(args),
        }
    return {"items": describe_type(args[0])}


def describe_fields(cls: type, *, defaults: bool = True) -> dict[str, dict[str, Any]]:
    """Key -> specification of a dataclass's init fields, with the limits of their metadata."""
    assert dataclasses.is_dataclass(cls), cls
    hints = typing.get_type_hints(cls, _namespace(cls))
    return {
        item.name: _describe_field(item, describe_type(hints[item.name]), defaults)
        for item in dataclasses.fields(cls)
        if item.init
    }


def _namespace(cls: type) -> dict[str, Any]:
    """Names that annotations of transformers' dataclasses use without importing them."""
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names |= vars(sys.modules[base.__module__])
    if "torch" in sys.modules:
        names["torch"] = sys.modules["torch"]
    return names


def _describe_field(item: dataclasses.Field, spec: dict[str, Any], defaults: bool) -> dict[str, Any]:
    default = _default(item)
    if default is dataclasses.MISSING:
        spec["required"] = True
    elif defaults:
        spec["default"] = default
    only_list = set(spec["types"]) <= {"null", "list"}
    target = spec.setdefault("items", {"types": list(_ORDER)}) if only_list else spec
    for name in _LIMITS:
        if item.metadata.get(name) is not None:
            value = item.metadata[name]
            target[name] = list(value) if name == "choices" else value
    if item.name == "sites":
        spec |= {"items": {"types": ["str"], "format": "site"}, "min_items": 1, "unique": True}
    if item.metadata.get("unique"):
        spec["unique"] = True
    if "component" in item.metadata:
        spec["component"] = item.metadata["component"]
    if "help" in item.metadata and defaults:
        spec["help"] = item.metadata["help"]
    return spec


def _default(item: dataclasses.Field) -> Any:
    value = item.default
    if item.default_factory is not dataclasses.MISSING:
        value = item.default_factory()
    if value is dataclasses.MISSING:
        return value
    value = value.value if isinstance(value, Enum) else value
    return json.loads(json.dumps(list(value) if isinstance(value, set | frozenset) else value))


def component_schema(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Key -> specification of one built-in component."""
    fields = describe_fields(load_component(kind, name))
    entry = {
        "objectives": sections.ObjectiveEntry,
        "metrics": sections.MetricEntry,
        "studies": sections.StudyEntry,
    }.get(kind)
    taken = {item.name for item in dataclasses.fields(entry)} if entry else set()
    assert not taken & set(fields), f"{kind}/{name}.py: {taken & set(fields)} are keys of every entry"
    return fields


def build_ours() -> dict[str, Any]:
    """Everything that does not depend on transformers' version."""
    from hf_tti.activations import SITES
    from hf_tti.data import DataConfig

    return {
        "sites": list(SITES),
        "head": describe_fields(sections.Head),
        "model": describe_fields(sections.ModelSource),
        "data": describe_fields(DataConfig),
        "training": {**own_training_fields(), **describe_fields(sections.Precision)},
        "objective": describe_fields(sections.ObjectiveEntry),
        "metric": describe_fields(sections.MetricEntry),
        "study": describe_fields(sections.StudyEntry),
        **{kind: {name: component_schema(kind, name) for name in component_names(kind)} for kind in COMPONENT_KINDS},
        "evaluation": describe_fields(sections.EvaluationSection),
        "analysis": describe_fields(sections.AnalysisSection),
        "composite": describe_fields(sections.CompositePart),
        "tracking": describe_fields(sections.TrackingSection),
        "hub": describe_fields(sections.HubSection),
        "sweep": describe_fields(sections.SweepSection),
    }


def own_training_fields() -> dict[str, dict[str, Any]]:
    """Fields that `InterpTrainingArguments` adds or declares anew."""
    from hf_tti.arguments import InterpTrainingArguments

    own = {name for base in _own_bases(InterpTrainingArguments) for name in base.__annotations__}
    own -= OWNED["training"].keys()
    return {name: spec for name, spec in describe_fields(InterpTrainingArguments).items() if name in own}


def _own_bases(cls: type) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith("hf_tti.")]


def build_transformers() -> dict[str, Any]:
    """What the installed transformers takes: training arguments, and configurations by type."""
    import torch  # noqa: F401  annotations name it
    from transformers import TrainingArguments

    training = describe_fields(TrainingArguments, defaults=False)
    return {
        "training": _with_limits(training, TRAINING_LIMITS, OWNED["training"]),
        "models": {model_type: describe_model(model_type) for model_type in sections.MODEL_TYPES},
    }


def describe_model(model_type: str) -> dict[str, Any]:
    """The keys of a configuration class, and the common names that it spells in its own way."""
    from transformers import CONFIG_MAPPING
    from transformers.activations import ACT2FN

    cls = CONFIG_MAPPING[model_type]
    activations = {"choices": sorted(ACT2FN)}
    limits = {**MODEL_LIMITS, "activation_function": activations, "hidden_act": activations}
    fields = _with_limits(describe_fields(cls), limits, OWNED["model"])
    aliases = {name: own for name, own in cls.attribute_map.items() if own in fields}
    spelled = {own: name for name, own in CONFIG_MAPPING["gpt2"].attribute_map.items()} if model_type != "gpt2" else {}
    spelled |= {"n_inner": "intermediate_size"} if model_type != "gpt2" else {"intermediate_size": "n_inner"}
    return {
        "fields": fields,
        "aliases": {**aliases, **{k: v for k, v in spelled.items() if v in fields}},
    }


def _with_limits(fields: dict, limits: Mapping[str, dict], owned: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    kept = {name: spec for name, spec in fields.items() if name not in owned and spec["types"]}
    return {name: {**spec, **limits.get(name, {})} for name, spec in kept.items()}


def build() -> dict[str, dict[str, Any]]:
    """File name -> content, for the environment at hand."""
    import transformers

    major, minor = transformers.__version__.split(".")[:2]
    return {"hf_tti.json": build_ours(), f"transformers-{major}.{minor}.json": build_transformers()}


def to_json(content: Mapping[str, Any]) -> str:
    """The text of a schema file: stable, one key a line, for readable diffs."""
    lines = []
    for section, body in sorted(content.items()):
        lines.append(f" {json.dumps(section)}: " + _block(body, 1))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _block(body: Any, depth: int) -> str:
    if not isinstance(body, dict) or not body or "types" in body or not all(isinstance(v, dict) for v in body.values()):
        return json.dumps(body, sort_keys=True, ensure_ascii=False)
    pad = " " * (depth + 1)
    inner = [f"{pad}{json.dumps(name)}: {_block(value, depth + 1)}" for name, value in sorted(body.items())]
    return "{\n" + ",\n".join(inner) + "\n" + " " * depth + "}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hf_tti.recipe.schema_build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit code 1 where a file is out of date",
    )
    check_only = parser.parse_args(arguments).check
    stale = []
    for name, content in build().items():
        path, text = SCHEMA_DIR / name, to_json(content)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check_only:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    said = "out of date" if check_only else "written"
    sys.stdout.write("".join(f"{name} {said}\n" for name in stale) or "schema is up to date\n")
    return 1 if check_only and stale else 0


if __name__ == "__main__":
    sys.exit(main())
