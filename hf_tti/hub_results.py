"""A report's values as evaluation results of a model card on the HuggingFace Hub (`model-index`).

    ModelCardData(model_name=report.name, eval_results=eval_results(report))

Builds metadata and sends nothing. Specification: github.com/huggingface/hub-docs, modelcard.md.
"""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult

from hf_tti.components import component_names, load_component
from hf_tti.data._hub import HubStories
from hf_tti.report import Report

_OF_CROSS_ENTROPY = {"loss": "Cross-entropy (nats per token)", "perplexity": "Perplexity"}


def eval_results(report: Report, *, layers: bool = False) -> list[EvalResult]:
    """One result a value: `loss`, `perplexity` and the means over layers. Values that are not finite are left out.

    The metric's type is the name of the metric, or of its class; its name the key in the report; its arguments all of
    its settings. The corpus's arguments are what tells the rows apart: fingerprint, number of tokens, tokenizer.

    Args:
        layers: also each layer's value.
    """
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Causal language modeling",
            dataset_type=_dataset_id(report.data.name),
            dataset_name=report.data.name,
            dataset_split=report.data.split,
            dataset_args={
                "fingerprint": report.data.fingerprint,
                "num_tokens": report.data.num_tokens,
                "tokenizer_sha256": report.data.tokenizer_sha256,
            },
            metric_value=value,
            **_metric_of(report, key),
        )
        for key, value in report.metrics.items()
        if value is not None and (key in _OF_CROSS_ENTROPY or _is_mean(key) or layers and "/" in key)
    ]


def _dataset_id(name: str) -> str:
    """Of the Hub where the corpus is from there, else the corpus's name."""
    builder = load_component("data", name) if name in component_names("data") else None
    return builder.hub_id if builder is not None and issubclass(builder, HubStories) else name


def _metric_of(report: Report, key: str) -> dict[str, Any]:
    if key in _OF_CROSS_ENTROPY:
        return {"metric_type": key, "metric_name": _OF_CROSS_ENTROPY[key]}
    settings = dict(report.metric_settings[key.partition("/")[0]])
    kind = "study" if "study" in settings else "metric"
    return {"metric_type": settings.pop(kind), "metric_name": key, "metric_args": settings}


def _is_mean(key: str) -> bool:
    return key.rpartition("/")[2] == "mean"
