"""Every shipped recipe trains two steps with its own objectives, metrics and callbacks, on a tiny
model and text.
"""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from tiny_runs import TINY_DATA, TINY_MODEL, write_stories

RECIPES = Path(__file__).parents[1] / "recipes"
SHIPPED = sorted(path for path in RECIPES.glob("*/*.yaml") if path.parent.name != "accelerate")
SMOKE = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 8,
    "logging_steps": 1,
    "eval_steps": 2,
    "save_steps": 2,
    "metric_batches": 1,
    "force_ratio_steps": 1,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
}


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> Path:
    return write_stories(tmp_path_factory.mktemp("stories"))


def smoke(path: Path, stories: Path):
    """The recipe's first run with an objective in force, made small."""
    run = max(
        expand_sweep(load_recipe(path))[:20],
        key=lambda run: sum(o["weight"] for o in run.objectives.values()),
    )
    run = copy.deepcopy(run)
    run.training.update({key: value for key, value in SMOKE.items()})
    return dataclasses.replace(run, model=dict(TINY_MODEL), data={**TINY_DATA, "train": str(stories)})


def test_there_are_recipes():
    assert len(SHIPPED) >= 10


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_recipe_trains(path, stories, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TTI_CACHE", str(stories.parent / "cache"))
    run = smoke(path, stories)
    result = train_run(run, tmp_path / "run")
    assert result.num_steps == 2
    assert torch.isfinite(torch.tensor(result.metrics["eval_loss"]))
    for label in run.metrics:
        assert any(key.startswith(f"eval_{label}/") for key in result.metrics), label
