"""The file name is the registry: `objectives/token_entropy.py` -> `TokenEntropy` -> `token_entropy:` in a recipe.

`package.module:Class` names a class of your own. Listing the names imports nothing.
"""

import importlib
import operator
from dataclasses import fields
from pathlib import Path

from hf_tti.errors import UserError, did_you_mean

KINDS = ("objectives", "metrics", "studies", "callbacks", "data")
_NOT_COMPONENTS = {"__init__", "base", "sample", "subject"}
_BASES = {
    "objectives": ("hf_tti.objectives.base", "Objective"),
    "metrics": ("hf_tti.metrics.base", "Metric"),
    "studies": ("hf_tti.studies.base", "Study"),
    "callbacks": ("transformers", "TrainerCallback"),
    "data": ("hf_tti.data.base", "StoryBuilder"),
}
_LIMITS = {
    "min": (operator.ge, "at least"),
    "exclusive_min": (operator.gt, "above"),
    "max": (operator.le, "at most"),
    "exclusive_max": (operator.lt, "below"),
}


def component_names(kind: str) -> list[str]:
    """Names of the built-in components of one kind, sorted: the stems of the folder's public files."""
    assert kind in KINDS, kind
    folder = Path(__file__).parent / kind
    stems = {path.stem for path in folder.glob("*.py")}
    return sorted(stem for stem in stems - _NOT_COMPONENTS if not stem.startswith("_"))


def load_component(kind: str, name: str) -> type:
    """The class behind a recipe name, or behind `package.module:Class`.

    Raises:
        UserError: no such file, module or class; names the choices.
    """
    if ":" in name:
        return _load_foreign(kind, name)
    names = component_names(kind)
    if name not in names:
        raise UserError(
            f"{kind}: unknown name {name!r}{did_you_mean(name, names)}; choices: {', '.join(names)}, "
            "or package.module:Class"
        )
    module = importlib.import_module(f"hf_tti.{kind}.{name}")
    wanted = name.replace("_", "")
    found = [value for key, value in vars(module).items() if key.lower() == wanted and isinstance(value, type)]
    assert len(found) == 1, f"hf_tti/{kind}/{name}.py must define one class called like the file"
    return found[0]


def component_name(cls: type) -> str:
    """The recipe name of a class: its file's stem when built in, else `package.module:Class`."""
    module = cls.__module__
    package, _, stem = module.rpartition(".")
    if package.startswith("hf_tti.") and cls.__name__.lower() == stem.replace("_", ""):
        return stem
    return f"{module}:{cls.__qualname__}"


def check_limits(component: object) -> None:
    """Hold a component's values to the limits in its fields' metadata, as a recipe's are.

    Raises:
        UserError: a value outside `choices`, `min`, `exclusive_min`, `max` or `exclusive_max`; names the field.
    """
    for f in fields(component):
        value, limits = getattr(component, f.name), f.metadata
        place = f"{component_name(type(component))}.{f.name}"
        if "choices" in limits and value not in limits["choices"]:
            choices = [str(choice) for choice in limits["choices"]]
            raise UserError(f"{place}: {value!r}{did_you_mean(str(value), choices)}; choices: {', '.join(choices)}")
        for limit, (holds, words) in _LIMITS.items():
            if value is not None and limit in limits and not holds(value, limits[limit]):
                raise UserError(f"{place}: {value!r} must be {words} {limits[limit]}")


def _load_foreign(kind: str, name: str) -> type:
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{kind}: cannot import {module_name!r} of {name!r}: {error}") from error
    cls = getattr(module, class_name, None)
    if not isinstance(cls, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UserError(f"{kind}: {module_name!r} has no class {class_name!r}{did_you_mean(class_name, classes)}")
    base_module, base_name = _BASES[kind]
    if not issubclass(cls, getattr(importlib.import_module(base_module), base_name)):
        raise UserError(f"{kind}: {name!r} is no {base_name}; derive it from {base_module}.{base_name}")
    return cls
