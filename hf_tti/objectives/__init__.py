"""Objectives, one a file. `from hf_tti.objectives import SomeClass` imports that file alone."""

from hf_tti.components import component_names, load_component


def __getattr__(name: str) -> type:
    for stem in component_names("objectives"):
        if stem.replace("_", "") == name.lower():
            cls = load_component("objectives", stem)
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module 'hf_tti.objectives' has no objective {name!r}")
