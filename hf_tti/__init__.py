"""Train language models to be interpretable, and measure what that costs.

Importing this package loads no torch: each public name is imported when it is first used.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "InterpTrainer": "hf_tti.trainer",
    "InterpTrainingArguments": "hf_tti.arguments",
    "ForwardPass": "hf_tti.activations",
    "Site": "hf_tti.activations",
    "capture": "hf_tti.activations",
    "Objective": "hf_tti.objectives.base",
    "Scope": "hf_tti.objectives.base",
    "Term": "hf_tti.objectives.base",
    "WeightedObjective": "hf_tti.objectives.base",
    "Metric": "hf_tti.metrics.base",
    "per_layer_mean": "hf_tti.objectives.base",
    "evaluate_metrics": "hf_tti.evaluation",
    "Recipe": "hf_tti.recipe",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_tti' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
