"""Values of a recipe that are each allowed and contradict one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def cross_problems(recipe: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, reason) for every contradiction between values that are each allowed."""
    yield from _data_problems(recipe)
    yield from _hub_problems(recipe)
    model = recipe.get("model") or {}
    if not model.get("pretrained"):
        yield from _model_problems(model, recipe.get("data") or {}, schema)


def _data_problems(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    data = recipe.get("data") or {}
    training = recipe.get("training") or {}
    if data.get("streaming") and (training.get("max_steps") or -1) < 1:
        yield "data.streaming", "needs training.max_steps, since a stream has no length"
    if training.get("dataloader_prefetch_factor") and not training.get("dataloader_num_workers"):
        yield "training.dataloader_prefetch_factor", "needs training.dataloader_num_workers of at least 1"
    if data.get("tokenizer") is not None and data.get("vocab_size") is not None:
        yield (
            "data.vocab_size",
            "is the size of a tokenizer trained on the corpus; remove it or data.tokenizer",
        )


def _hub_problems(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    hub, training, sweep = (recipe.get(name) or {} for name in ("hub", "training", "sweep"))
    if hub.get("push", "none") == "none":
        return
    if hub["push"] == "steps" and training.get("save_strategy") == "no":
        yield "hub.push", "steps pushes checkpoints, and training.save_strategy is no; choose steps or epoch"
    several = sweep.get("grid") or len(sweep.get("seeds") or ()) > 1
    if several and hub.get("repo") and "{run}" not in hub["repo"]:
        yield "hub.repo", "is one repository for several runs; put {run}, the run's name, into it"


def _model_problems(model: Mapping, data: Mapping, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model_type = model.get("model_type") or schema["model"]["model_type"]["default"]
    described = schema["models"][model_type]
    fields, aliases = described["fields"], described["aliases"]

    def of(name: str) -> tuple[str, Any]:
        name = aliases.get(name, name)
        return name, model[name] if name in model else fields.get(name, {}).get("default")

    positions_key, positions = of("max_position_embeddings")
    block_size = data.get("block_size", schema["data"]["block_size"]["default"])
    if positions is not None and block_size > positions:
        where = "data.block_size" if "block_size" in data else f"model.{positions_key}"
        yield (
            where,
            f"data.block_size {block_size} is longer than model.{positions_key} {positions}",
        )
    width_key, width = of("hidden_size")
    heads_key, heads = of("num_attention_heads")
    if model.get("head_dim", fields.get("head_dim", {}).get("default")) is None and width % heads:
        where = heads_key if heads_key in model else width_key
        yield (
            f"model.{where}",
            f"model.{width_key} {width} is no multiple of model.{heads_key} {heads}",
        )
    groups = of("num_key_value_heads")[1]
    if groups is not None and heads % groups:
        yield (
            f"model.{'num_key_value_heads' if 'num_key_value_heads' in model else heads_key}",
            f"model.{heads_key} {heads} is no multiple of model.num_key_value_heads {groups}",
        )
    rows, tokens = model.get("vocab_size"), data.get("vocab_size")
    if rows is not None and tokens is not None and rows < tokens:
        yield (
            "model.vocab_size",
            f"model.vocab_size {rows} is smaller than data.vocab_size {tokens}",
        )
