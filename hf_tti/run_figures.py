"""A run in figures: parameters, tokens a step and in all, and the lines that it begins with."""

from __future__ import annotations

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.data import DataConfig, PreparedData
from hf_tti.recipe import Recipe
from hf_tti.run_folder import RunFolder
from hf_tti.trainer import InterpTrainer


def num_parameters(trainer: InterpTrainer) -> int:
    """Of the model, tied ones once; what objectives own is attached while it trains only."""
    return trainer.model.num_parameters()


def _rows_per_step(args: InterpTrainingArguments) -> int:
    return args.train_batch_size * args.world_size * args.gradient_accumulation_steps


def tokens_per_step(recipe: Recipe, args: InterpTrainingArguments, data: PreparedData) -> float:
    """Real tokens in an optimizer step: exact for packed rows, the mean over rows otherwise."""
    per_row = DataConfig(**recipe.data).block_size
    if data.num_train_tokens is not None:
        per_row = data.num_train_tokens / len(data.train)
    return per_row * _rows_per_step(args)


def tokens_seen(trainer: InterpTrainer, data: PreparedData, tokens_per_step: float) -> int:
    """Real tokens in all steps so far."""
    steps = trainer.state.global_step
    if data.num_train_tokens is None:
        return round(steps * tokens_per_step)
    steps_per_epoch = -(-len(data.train) // _rows_per_step(trainer.args))
    epochs, rest = divmod(steps, steps_per_epoch)
    return round(epochs * data.num_train_tokens + rest * tokens_per_step)


def headline(recipe: Recipe, folder: RunFolder, trainer: InterpTrainer, data: PreparedData) -> str:
    """The lines that a run begins with: model, device, data, objectives."""
    args = trainer.args
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
    source = recipe.model.get("pretrained") or recipe.model.get("model_type", "gpt2")
    tokens = "a stream" if data.num_train_tokens is None else f"{data.num_train_tokens:,} tokens"
    objectives = [f"{label} ({entry['weight']:g})" for label, entry in recipe.objectives.items()]
    processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    corpus = recipe.data.get("name", DataConfig().name)
    return "\n".join(
        [
            f"{recipe.run_name} in {folder.path}",
            f"model {source}, {num_parameters(trainer):,} parameters; {args.device.type}, {precision}, {processes}",
            f"data {corpus}, {tokens}, vocabulary {len(data.tokenizer):,}",
            f"objectives {', '.join(objectives) or 'none beside cross-entropy'}",
        ]
    )
