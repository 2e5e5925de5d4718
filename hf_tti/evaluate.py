"""A saved model measured: from a run, a checkpoint, any folder with config.json or a Hub id to a `Report`.

`from_pretrained` in float32 with the model's own tokenizer, the validation split only, and the loop of training-time
evaluation. Without other instructions data, metrics and batch size are those of the recipe beside the checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from hf_tti.components import component_name, component_names, load_component
from hf_tti.data import CausalLMCollator, DataConfig, prepare_validation
from hf_tti.data._files import corpus_files, files_named_for
from hf_tti.data._tokenizers import tokenizer_fingerprint
from hf_tti.errors import UserError, did_you_mean
from hf_tti.evaluation import MetricAccumulator, accumulate
from hf_tti.from_recipe import build_metrics
from hf_tti.loading import Checkpoint, check_vocabulary, find_checkpoint, load_model, load_tokenizer
from hf_tti.metrics.base import Metric
from hf_tti.provenance import git_commit, versions
from hf_tti.recipe import Recipe
from hf_tti.report import DataFacts, ModelFacts, Report
from hf_tti.trainer import default_metrics

BATCH_SIZE = 8  # of TrainingArguments
LONGEST_BLOCK = 512  # of DataConfig


def evaluate_checkpoint(
    checkpoint: str | Path | Checkpoint,
    *,
    revision: str | None = None,
    data: str | DataConfig | None = None,
    metrics: Sequence[str] | Mapping[str, Metric] | None = None,
    max_tokens: int | None = None,
    batch_size: int | None = None,
    metric_batches: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Report:
    """Measure a saved model on a validation split.

    Args:
        checkpoint: a run folder (its `final/`), a checkpoint folder, a folder with `config.json`, or a Hub id.
        revision: branch, tag or commit on the Hub.
        data: a file or folder of text, a builder's name, or a `DataConfig`. Default: the recipe's, else
            `synthetic_stories`. A folder with train* and validation* files means the latter.
        metrics: labels of the recipe and names of built-in metrics, or label -> Metric. Default: the recipe's, else all
            built-in ones.
        max_tokens: stop after the row that reaches this.
        batch_size: default: the recipe's `per_device_eval_batch_size`, else 8.
        metric_batches: batches that metrics see, as in training; None is all. Cross-entropy always sees all.
        cache_dir: of prepared data; default $HF_TTI_CACHE, else ~/.cache/hf_tti.
        progress: bars on standard error.

    Raises:
        UserError: nothing there, weights that are truncated or missing, a tokenizer larger than the model's vocabulary,
            an unknown metric or corpus, no token to predict.
    """
    place = checkpoint if isinstance(checkpoint, Checkpoint) else find_checkpoint(checkpoint, revision)
    recipe = place.recipe
    chosen = _chosen_metrics(metrics, recipe)
    tokenizer, model = load_tokenizer(place), load_model(place)
    check_vocabulary(place, model, tokenizer)
    config = _data_config(data, recipe, model, max_tokens)
    prepared = prepare_validation(config, tokenizer, cache_dir=cache_dir, progress=progress)
    training = recipe.training if recipe else {}
    batch_size = batch_size or training.get("per_device_eval_batch_size", BATCH_SIZE)
    excluded = tuple(training.get("excluded_token_ids") or ())
    model.to(_device())
    accumulator = MetricAccumulator(
        model, chosen, max_batches=metric_batches, eos_token_id=tokenizer.eos_token_id, excluded_token_ids=excluded
    )
    loader = DataLoader(prepared.rows, batch_size=batch_size, collate_fn=CausalLMCollator())
    accumulate(model, loader, accumulator, progress=progress)
    values = accumulator.finalize()
    if not values["num_tokens"]:
        raise UserError(f"{config.name}: no token to predict: every row holds a single token")
    return Report(
        name=place.name,
        model=_model_facts(place, model),
        step=place.step,
        seed=training.get("seed"),
        recipe=recipe.to_dict() if recipe else None,
        data=DataFacts(
            name=config.name,
            fingerprint=prepared.fingerprint,
            split="validation",
            num_tokens=prepared.num_tokens,
            tokenizer_sha256=tokenizer_fingerprint(tokenizer),
            settings=_changed(config),
        ),
        metrics=values,
        metric_settings={label: _settings(metric) for label, metric in chosen.items()},
        evaluation={
            "batch_size": batch_size,
            "metric_batches": metric_batches,
            "excluded_token_ids": list(excluded),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
        },
        versions=versions(),
        git_commit=git_commit(),
        arrays=accumulator.arrays(),
    )


# ---- The report's facts ------------------------------------------------------------------------


def _model_facts(place: Checkpoint, model: PreTrainedModel) -> ModelFacts:
    return ModelFacts(
        source=place.given,
        revision=place.revision,
        commit=place.commit,
        model_type=model.config.model_type,
        num_parameters=model.num_parameters(),
        weights_sha256=weights_sha256(model),
    )


def weights_sha256(model: torch.nn.Module) -> str:
    """Hex sha256 over name, type, shape and bytes of every tensor of the state dict, in the order of names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


# ---- Data and metrics --------------------------------------------------------------------------


def _data_config(
    data: str | DataConfig | None, recipe: Recipe | None, model: PreTrainedModel, max_tokens: int | None
) -> DataConfig:
    own = DataConfig(**recipe.data) if recipe else None
    if isinstance(data, DataConfig):
        config = data
    elif data is None and own is not None:
        config = own
    else:
        block_size = own.block_size if own else _block_size(model)
        config = DataConfig(block_size=block_size, **_source_of(data or DataConfig.name))
    if max_tokens is not None:
        config = dataclasses.replace(config, max_validation_tokens=max_tokens)
    return config


def _block_size(model: PreTrainedModel) -> int:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(positions or LONGEST_BLOCK, LONGEST_BLOCK)


def _source_of(data: str) -> dict[str, Any]:
    """The keys of a `DataConfig` that say where text comes from."""
    path, names = Path(data), component_names("data")
    if data in names or not path.exists() and ":" in data:
        return {"name": data}
    if not path.exists():
        raise UserError(
            f"--data {data}: no such file or folder, and no corpus{did_you_mean(data, names)}: {', '.join(names)}, or "
            "package.module:Class"
        )
    files = corpus_files(path, place="--data")
    has_both = path.is_dir() and all(files_named_for(split, files) for split in ("train", "validation"))
    return {"name": "text_files", "train": data, "validation": None if has_both else data}


def _changed(config: DataConfig) -> dict[str, Any]:
    return {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if getattr(config, item.name) != item.default
    }


def _chosen_metrics(metrics: Sequence[str] | Mapping[str, Metric] | None, recipe: Recipe | None) -> dict[str, Metric]:
    if isinstance(metrics, Mapping):
        return dict(metrics)
    known = (build_metrics(recipe) or default_metrics()) if recipe else {}
    names = component_names("metrics")
    if metrics is None:
        return known if recipe else {name: load_component("metrics", name)() for name in names}
    chosen = {}
    for name in metrics:
        if name not in known and name not in names and ":" not in name:
            choices = sorted({*known, *names})
            raise UserError(f"--metrics {name}: unknown{did_you_mean(name, choices)}; choices: {', '.join(choices)}")
        chosen[name] = known[name] if name in known else load_component("metrics", name)()
    return chosen


def _settings(metric: Metric) -> dict[str, Any]:
    """As a recipe writes it."""
    values = {
        item.name: list(value) if isinstance(value := getattr(metric, item.name), tuple) else value
        for item in dataclasses.fields(metric)
    }
    return {"metric": component_name(type(metric)), **values}
