"""What a checkpoint and the run that resumes it must agree on: arguments, the model's configuration, rows of the data.

Facts are JSON-able values by name, kept in a checkpoint's manifest. The world size, the batch and the accumulation may
differ where only their product is held to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, TrainingArguments

_SPLIT = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps")
_HELD_TO = (
    *("max_steps", "num_train_epochs", "warmup_steps", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "optim_args", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"),
    *("train_sampling_strategy", "dataloader_drop_last", "excluded_token_ids", "bf16", "fp16", "full_determinism"),
)
_NOT_OF_THE_MODEL = ("transformers_version", "_name_or_path", "architectures", "dtype", "use_cache")


def facts_of_arguments(args: TrainingArguments) -> dict[str, Any]:
    """How the batch is split, seeds, optimizer, schedule and what else of the arguments changes an update."""
    facts = {
        "world_size": args.world_size,
        "per_device_train_batch_size": args.train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "seed": args.seed,
        "data_seed": args.data_seed,
        "optimizer": str(getattr(args.optim, "value", args.optim)),
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        **{name: getattr(args, name) for name in _HELD_TO},
    }
    return _as_json(facts)


def facts_of_model(config: PreTrainedConfig) -> dict[str, Any]:
    """What its configuration says of a model's computation, as `model.<key>`."""
    return _as_json(
        {
            f"model.{name}": value
            for name, value in config.to_dict().items()
            if name not in _NOT_OF_THE_MODEL and not name.endswith("_token_id")
        }
    )


def rows_sha256(data: Any) -> str | None:
    """Hex digest of the first, middle and last row of a dataset; None of a stream, or where a row changes by itself."""
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")) or not len(data):
        return None
    first, again = (_digest([data[i] for i in (0, len(data) // 2, len(data) - 1)]) for _ in range(2))
    return first if first == again else None


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    plain = [{name: np.asarray(row[name]).tolist() for name in sorted(row)} for row in rows]
    return hashlib.sha256(json.dumps(plain, default=str).encode()).hexdigest()


def _as_json(facts: dict[str, Any]) -> dict[str, Any]:
    """As they come back from a manifest."""
    return json.loads(json.dumps(facts, default=str))


def differences(was: Mapping[str, Any], now: Mapping[str, Any], *, elastic: bool = False) -> list[str]:
    """What a run's facts say otherwise than a checkpoint's, in words. What only one of them knows is no difference:
    another version of hf_tti or transformers wrote the other.

    Args:
        elastic: let world size, batch and accumulation differ as long as their product is the same.
    """
    ignored = _SPLIT if elastic and _product(was) == _product(now) else ()
    names = [name for name in was if name in now and name not in ignored and was[name] != now[name]]
    return [f"{name} was {was[name]}, is {now[name]}" for name in names]


def _product(facts: Mapping[str, Any]) -> int:
    return int(np.prod([facts.get(name) or 0 for name in _SPLIT]))
