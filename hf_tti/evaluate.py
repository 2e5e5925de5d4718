"""A saved model measured: from a run, a checkpoint, any folder with config.json or a Hub id to a `Report`.

`from_pretrained` in float32 with the model's own tokenizer, the validation split only: one streaming pass for metrics,
the loop of training-time evaluation, and a sample of whole documents for studies; then the nulls, in the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tti.activations import resolve_sites
from hf_tti.components import component_names
from hf_tti.data import DataConfig, PreparedValidation, prepare_validation
from hf_tti.data._files import corpus_files, files_named_for
from hf_tti.data._tokenizers import tokenizer_fingerprint
from hf_tti.errors import UserError, did_you_mean
from hf_tti.labels import build_sample
from hf_tti.loading import Checkpoint, check_vocabulary, find_checkpoint, load_model, load_tokenizer
from hf_tti.measures import Measures, default_measures, named_measures
from hf_tti.metrics.base import Metric
from hf_tti.passes import Found, Stream, run_studies
from hf_tti.provenance import git_commit, versions
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import EvaluationSection
from hf_tti.report import NULL_ROWS, DataFacts, ModelFacts, Report, vocabulary_arrays
from hf_tti.studies.sample import Sample

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
    labels: str | None = None,
    sample_tokens: int | None = None,
    nulls: Sequence[str] | None = None,
    reference: str | Path | None = None,
    files: Path | None = None,
    cache_dir: Path | None = None,
    progress: bool = False,
) -> Report:
    """Measure a saved model on a validation split.

    Args:
        checkpoint: a run folder (its `final/`), a checkpoint folder, a folder with `config.json`, or a Hub id.
        revision: branch, tag or commit on the Hub.
        data: a file or folder of text, a builder's name, or a `DataConfig`. Default: the recipe's, else
            `synthetic_stories`. A folder with train* and validation* files means the latter.
        metrics: labels of the recipe and names of built-in metrics and studies, or label -> Metric. Default: the
            recipe's, and every built-in one that it does not use already (see `default_measures`).
        max_tokens: stop after the row that reaches this.
        batch_size: default: the recipe's `per_device_eval_batch_size`, else 8.
        metric_batches: batches that metrics see, as in training; None is all. Cross-entropy always sees all.
        labels, sample_tokens: of the studies' sample, see `hf_tti.labels.build_sample`; default: the recipe's
            `evaluation:` section, else the corpus's own labels and 16,384 tokens.
        nulls: rows of `NULL_ROWS`; default: the recipe's, else all.
        reference: another model with the same tokenizer, for studies that compare.
        files: folder for what studies leave in files, such as SAEs; hand it to `Report.save`.
        cache_dir: of prepared data; default $HF_TTI_CACHE, else ~/.cache/hf_tti.
        progress: bars on standard error.

    Raises:
        UserError: nothing there, weights that are truncated or missing, a tokenizer larger than the model's vocabulary,
            a reference with another tokenizer, an unknown metric, null or corpus, a study's library that is not
            installed, damaged labels, no token to predict.
    """
    place = checkpoint if isinstance(checkpoint, Checkpoint) else find_checkpoint(checkpoint, revision)
    recipe = place.recipe
    if data is None and place.data_problem:
        raise UserError(f"{place.given}: {place.data_problem}; name what to measure it on with --data")
    measures = _measures(metrics, recipe)
    wishes = _wishes(recipe, labels=labels, sample_tokens=sample_tokens, nulls=nulls)
    tokenizer, model = _load(place, measures)
    compared = None if reference is None else _reference(reference, tokenizer)
    config = _data_config(data, recipe, model, max_tokens)
    prepared = prepare_validation(config, tokenizer, cache_dir=cache_dir, progress=progress)
    training = recipe.training if recipe else {}
    stream = Stream(
        rows=prepared.rows,
        batch_size=batch_size or training.get("per_device_eval_batch_size", BATCH_SIZE),
        rows_continue=config.packing,
        eos_token_id=tokenizer.eos_token_id,
        excluded_token_ids=tuple(training.get("excluded_token_ids") or ()),
        metric_batches=metric_batches,
        progress=progress,
    )
    sample = None
    if measures.studies:  # before the metrics, which take long: labels may be damaged or not there
        length = min(config.block_size, _block_size(model))
        sample = build_sample(
            tokenizer, data=config, labels=wishes.labels, max_tokens=wishes.sample_tokens, max_length=length
        )
    model.to(_device())
    found = Found()
    shards = stream.measure(model, measures.metrics, wishes.nulls, found)
    if not found.metrics["num_tokens"]:
        raise UserError(f"{config.name}: no token to predict: every row holds a single token")
    if sample is not None:
        run_studies(
            model, sample, measures.studies, wishes.nulls, found, reference=compared, files=files, progress=progress
        )
    found.arrays |= _vocabulary(found.arrays, tokenizer)
    return Report(
        name=place.name,
        model=_model_facts(place, model),
        step=place.step,
        seed=training.get("seed"),
        recipe=recipe.to_dict() if recipe else None,
        data=_data_facts(config, prepared, tokenizer),
        metrics=found.metrics,
        loss_shards=shards,
        nulls=found.nulls,
        metric_settings=measures.settings(),
        metric_facts=measures.facts(),
        evaluation=_evaluation_facts(stream, model, wishes, sample, reference),
        versions=versions(),
        git_commit=git_commit(),
        arrays=found.arrays,
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


def _data_facts(config: DataConfig, prepared: PreparedValidation, tokenizer: PreTrainedTokenizerBase) -> DataFacts:
    changed = {
        item.name: getattr(config, item.name)
        for item in dataclasses.fields(config)
        if getattr(config, item.name) != item.default
    }
    return DataFacts(
        name=config.name,
        fingerprint=prepared.fingerprint,
        split="validation",
        num_tokens=prepared.num_tokens,
        tokenizer_sha256=tokenizer_fingerprint(tokenizer),
        settings=changed,
    )


def _evaluation_facts(
    stream: Stream,
    model: PreTrainedModel,
    wishes: EvaluationSection,
    sample: Sample | None,
    reference: str | Path | None,
) -> dict[str, Any]:
    return {
        "batch_size": stream.batch_size,
        "metric_batches": stream.metric_batches,
        "excluded_token_ids": list(stream.excluded_token_ids),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "nulls": list(wishes.nulls),
        "sample": None if sample is None else _sample_facts(sample),
        "reference": None if reference is None else str(reference),
    }


def _sample_facts(sample: Sample) -> dict[str, Any]:
    return {
        "labels": sample.source,
        "fields": sorted(sample.labels),
        "num_tokens": sample.num_tokens,
        "num_documents": len(sample.rows),
        "fingerprint": sample.fingerprint,
    }


def _vocabulary(arrays: Mapping[str, np.ndarray], tokenizer: PreTrainedTokenizerBase) -> dict[str, np.ndarray]:
    """The texts of the tokens that arrays of contexts speak of."""
    contexts = [array for name, array in arrays.items() if "/tokens/" in name]
    if not contexts:
        return {}
    ids = np.unique(np.concatenate([np.unique(array) for array in contexts]))
    ids = ids[ids >= 0].tolist()
    texts = tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    return vocabulary_arrays(dict(zip(ids, texts, strict=True)))


def _device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


# ---- What the user asked for -------------------------------------------------------------------


def _measures(metrics: Sequence[str] | Mapping[str, Metric] | None, recipe: Recipe | None) -> Measures:
    if isinstance(metrics, Mapping):
        return Measures(dict(metrics), {})
    return default_measures(recipe) if metrics is None else named_measures(metrics, recipe)


def _wishes(recipe: Recipe | None, **given: Any) -> EvaluationSection:
    """The recipe's `evaluation:` section with what was given in its place."""
    own = dict(recipe.evaluation) if recipe else {}
    wishes = EvaluationSection(**{**own, **{name: value for name, value in given.items() if value is not None}})
    for row in wishes.nulls:
        if row not in NULL_ROWS:
            raise UserError(f"--nulls {row}: unknown{did_you_mean(row, NULL_ROWS)}; choices: {', '.join(NULL_ROWS)}")
    return wishes


def _load(place: Checkpoint, measures: Measures) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Tokenizer and model, once it is known that they fit each other and what is to be measured."""
    tokenizer, model = load_tokenizer(place), load_model(place)
    check_vocabulary(place, model, tokenizer)
    for study in measures.studies.values():
        study.check()
        resolve_sites(model, study.sites)
    return tokenizer, model


def _reference(reference: str | Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    place = find_checkpoint(reference)
    if tokenizer_fingerprint(load_tokenizer(place)) != tokenizer_fingerprint(tokenizer):
        raise UserError(f"--reference {reference}: has another tokenizer than the model")
    return load_model(place)


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
