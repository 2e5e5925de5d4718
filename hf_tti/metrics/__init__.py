"""Metrics, one a file. `from hf_tti.metrics import SomeClass` imports that file alone."""

from hf_tti.components import component_names, load_component


def __getattr__(name: str) -> type:
    for stem in component_names("metrics"):
        if stem.replace("_", "") == name.lower():
            cls = load_component("metrics", stem)
            if cls.__name__ == name:
                return cls
    raise AttributeError(f"module 'hf_tti.metrics' has no metric {name!r}")
