"""From the sections of a recipe to the objects of a run: arguments, configuration, model,
objectives, metrics, callbacks.

What transformers refuses comes back as one line that names the section.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.utils import is_torch_bf16_gpu_available

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.components import load_component
from hf_tti.errors import UserError, did_you_mean
from hf_tti.metrics.base import Metric
from hf_tti.objectives.base import WeightedObjective
from hf_tti.own_files import check_model
from hf_tti.recipe import Recipe
from hf_tti.studies.base import Study
from hf_tti.trainer import default_metrics

ALWAYS_ON = ("progress_line", "metrics_jsonl", "generate_stories")
_NOT_OF_THE_CONFIG = ("model_type", "pretrained", "revision", "attn_implementation")


def has_bf16() -> bool:
    """Whether the device computes in bf16 itself; CUDA emulates it where it does not, slowly."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return is_torch_bf16_gpu_available()


def check_steps(recipe: Recipe) -> None:
    """
    Raises:
        UserError: no step at all, which transformers would take for `num_train_epochs`.
    """
    if recipe.training.get("max_steps") == 0:
        raise UserError("training.max_steps: 0 trains nothing; leave it out to train num_train_epochs")


def build_arguments(recipe: Recipe, run_dir: Path) -> InterpTrainingArguments:
    """The `training:` section with what the run owns. Trackers are set later, in `report_to`.

    Raises:
        UserError: what transformers refuses, and a precision that this device does not have.
    """
    section = dict(recipe.training)
    check_steps(recipe)
    precision = section.pop("precision", "auto")
    if precision == "auto":
        precision = "bf16" if has_bf16() and not section.get("use_cpu") else "fp32"
    elif precision == "bf16" and not has_bf16() or precision == "fp16" and not torch.cuda.is_available():
        raise UserError(f"training.precision: {precision!r} needs a GPU that has it; choose auto or fp32 here")
    section.update(_direction_of_best(recipe))
    if not torch.accelerator.is_available():
        section.setdefault("dataloader_pin_memory", False)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            section["use_cpu"] = True  # else accelerate takes each of the processes for the only one
    with blamed_on("training"):
        return InterpTrainingArguments(
            output_dir=str(run_dir),
            run_name=recipe.run_name,
            report_to="none",
            disable_tqdm=True,
            bf16=precision == "bf16",
            fp16=precision == "fp16",
            **section,
        )


def _direction_of_best(recipe: Recipe) -> dict[str, bool]:
    """`greater_is_better` where transformers would guess it from the metric's name, and guess wrong.

    Raises:
        UserError: no evaluation has such a value, or it does not say which way is better.
    """
    best = recipe.training.get("metric_for_best_model")
    if best is None:
        return {}
    key = best.removeprefix("eval_")
    metrics = build_metrics(recipe) or default_metrics()
    if key.split("/")[0] not in {"loss", "perplexity", *metrics}:
        choices = ["eval_loss", "eval_perplexity", *(f"eval_{label}/mean" for label in metrics)]
        raise UserError(
            f"training.metric_for_best_model: no evaluation has {best!r}{did_you_mean(best, choices)}; "
            f"choices: {', '.join(choices)}"
        )
    if recipe.training.get("greater_is_better") is not None:
        return {}
    greater = False if key in ("loss", "perplexity") else metrics[key.split("/")[0]].greater_is_better
    if greater is None:
        raise UserError(
            f"training.metric_for_best_model: {best!r} does not say which way is better; set training.greater_is_better"
        )
    return {"greater_is_better": greater}


def build_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None, vocab_size: int | None) -> PretrainedConfig:
    """The model's configuration: the recipe's keys; `vocab_size` (None: the architecture's own) and the tokenizer's
    special tokens as defaults.

    Raises:
        UserError: a configuration that cannot be read, or that transformers refuses.
    """
    section = recipe.model
    if section.get("pretrained"):
        with blamed_on("model.pretrained"):
            check_model(section["pretrained"], section.get("revision"))
            return AutoConfig.from_pretrained(
                section["pretrained"], revision=section.get("revision"), trust_remote_code=False
            )
    keys = {key: value for key, value in section.items() if key not in _NOT_OF_THE_CONFIG}
    defaults = {"use_cache": True, "bos_token_id": 0, "eos_token_id": 0}
    if vocab_size is not None:
        defaults["vocab_size"] = vocab_size
    if tokenizer is not None:
        # Not pad_token_id: where it is EOS, an embedding with padding_idx would never learn EOS.
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        defaults |= {"bos_token_id": eos if bos is None else bos, "eos_token_id": eos}
    with blamed_on("model"):
        return AutoConfig.for_model(section.get("model_type", "gpt2"), **{**defaults, **keys})


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """The model in float32. The same seed gives the same initial weights whatever else the recipe
    says.

    Raises:
        UserError: the tokenizer has more tokens than the model, or a block more positions.
    """
    config = build_config(recipe, tokenizer, vocab_size=len(tokenizer))
    _check_sizes(config, tokenizer, recipe.data.get("block_size", 512))
    section = recipe.model
    attention = {key: section[key] for key in ("attn_implementation",) if section.get(key)}
    set_seed(seed)
    with blamed_on("model"):
        if section.get("pretrained"):
            model = AutoModelForCausalLM.from_pretrained(
                section["pretrained"],
                revision=section.get("revision"),
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                **attention,
            )
        else:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **attention)
    # The Trainer sets these as well, with a warning for each that differs.
    for settings in (model.config, model.generation_config):
        settings.pad_token_id = tokenizer.pad_token_id
    return model


def _check_sizes(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
    text = config.get_text_config()
    if len(tokenizer) > text.vocab_size:
        raise UserError(
            f"model.vocab_size: {text.vocab_size:,} is smaller than the tokenizer's "
            f"{len(tokenizer):,} tokens; "
            "leave it out to take the tokenizer's, or choose a smaller tokenizer under data:"
        )
    positions = getattr(text, "max_position_embeddings", None)  # models without a limit have no such key
    if positions is not None and block_size > positions:
        key = text.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        raise UserError(
            f"data.block_size: {block_size} is longer than model.{key} = {positions}; make one of them fit the other"
        )


def count_parameters(config: PretrainedConfig) -> int:
    """Parameters of a model with this configuration, tied ones once; allocates nothing."""
    with torch.device("meta"), blamed_on("model"):
        return AutoModelForCausalLM.from_config(config).num_parameters()


def build_objectives(recipe: Recipe) -> list[WeightedObjective]:
    """The `objectives:` section, in its order.

    Raises:
        UserError: an unknown objective, or values that it refuses.
    """
    objectives = []
    for label, entry in recipe.objectives.items():
        own = {key: value for key, value in entry.items() if key not in ("objective", "weight", "warmup_steps")}
        objective = _build("objectives", label, entry.get("objective") or label, own)
        warmup_steps = entry.get("warmup_steps", 0)
        objectives.append(objective.weighted(entry["weight"], warmup_steps=warmup_steps, label=label))
    return objectives


def build_metrics(recipe: Recipe) -> dict[str, Metric] | None:
    """The `metrics:` section by label, or None (the trainer's default pair) where there is none."""
    if not recipe.metrics:
        return None
    return _build_labelled("metrics", "metric", recipe.metrics)


def build_studies(recipe: Recipe) -> dict[str, Study]:
    """The `studies:` section by label; empty where there is none."""
    return _build_labelled("studies", "study", recipe.studies)


def _build_labelled(kind: str, which: str, entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Label -> component; an entry names its component under `which`, else by its label."""
    return {
        label: _build(kind, label, entry.get(which) or label, {k: v for k, v in entry.items() if k != which})
        for label, entry in entries.items()
    }


def build_callbacks(recipe: Recipe) -> list[TrainerCallback]:
    """The `callbacks:` section and what every run has unless the recipe sets it differently."""
    entries = {**{name: {} for name in ALWAYS_ON}, **recipe.callbacks}
    return [_build("callbacks", label, label, entry) for label, entry in entries.items()]


def _build(kind: str, label: str, name: str, fields: Mapping[str, Any]) -> Any:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    with blamed_on(f"{kind}.{label}"):
        return load_component(kind, name)(**values)


@contextmanager
def blamed_on(place: str) -> Iterator[None]:
    """What a library raises inside, as one line that begins with the place in the recipe."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, OSError, ImportError, AttributeError, KeyError, SafetensorError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{place}: {message or type(error).__name__}") from error
