"""Tiny random models and data for tests."""

import random

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)

from hf_tti import InterpTrainingArguments

VOCAB = 61
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}


def tiny_configs() -> dict[str, PretrainedConfig]:
    common = {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 32,
        **SPECIAL,
    }
    return {
        "gpt2": GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCAB, n_positions=32, **SPECIAL),
        "llama": LlamaConfig(num_key_value_heads=2, **common),
        "gpt_neox": GPTNeoXConfig(**common),
        "qwen2": Qwen2Config(num_key_value_heads=2, **common),
    }


def tiny_model(kind: str = "gpt2", seed: int = 0, **changes):
    config = tiny_configs()[kind]
    for key, value in changes.items():
        assert key in config.to_dict(), key
        setattr(config, key, value)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def without_dropout(kind: str = "gpt2", seed: int = 0):
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {}
    return tiny_model(kind, seed, **off)


def rows(count: int = 32, length: int = 16, *, ragged: bool = False, seed: int = 0) -> list[dict]:
    """Rows of token ids with some structure to learn; ragged rows have from 2 to `length` tokens."""
    draw = random.Random(seed)
    result = []
    for _ in range(count):
        size = draw.randint(2, length) if ragged else length
        start, stride = draw.randrange(1, VOCAB), draw.choice((1, 2, 3))
        ids = [(start + i * stride + (draw.random() < 0.1)) % (VOCAB - 1) + 1 for i in range(size)]
        result.append({"input_ids": ids})
    return result


def arguments(folder, **changes) -> InterpTrainingArguments:
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
        **changes,
    }
    return InterpTrainingArguments(**settings)


def training_logs(trainer) -> list[dict]:
    return [line for line in trainer.state.log_history if "loss" in line]
