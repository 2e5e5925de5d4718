"""Tiny recipes on generated text, for tests of runs, sweeps and the command line."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_WORDS = "the cat dog Lily Tom saw ran to liked a big tree red ball and then was happy sad".split()

TINY_MODEL = {
    "model_type": "gpt2",
    "n_layer": 2,
    "n_embd": 16,
    "n_head": 2,
    "n_positions": 32,
}
TINY_DATA = {"name": "text_files", "train": "stories.jsonl", "vocab_size": 280, "block_size": 32}
TINY_TRAINING = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 16,
    "learning_rate": 0.01,
    "logging_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "metric_batches": 1,
    "seed": 7,
}
TINY_STORIES = {"generate_stories": {"num_stories": 2, "max_new_tokens": 8, "prompt": "the cat"}}


def write_stories(folder: Path) -> Path:
    """300 short generated stories."""
    draw = random.Random(0)
    lines = (json.dumps({"text": " ".join(draw.choices(_WORDS, k=30)) + "."}) for _ in range(300))
    path = folder / "stories.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_recipe(folder: Path, name: str = "tiny", **sections: Mapping[str, Any]) -> Path:
    """A recipe that trains in a second; `training` and `callbacks` are merged over it."""
    if not (folder / "stories.jsonl").exists():
        write_stories(folder)
    content: dict[str, Any] = {
        "experiment": "tiny_runs",
        "question": "Does it run?",
        "model": TINY_MODEL,
        "data": TINY_DATA,
        "training": TINY_TRAINING,
        "objectives": {"orthogonality": {"sites": ["mlp.out"], "weight": 0.1}},
        "callbacks": TINY_STORIES,
    }
    for section, value in sections.items():
        merged = section in ("training", "callbacks")
        content[section] = {**content[section], **value} if merged else value
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
