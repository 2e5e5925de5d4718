"""Observers change nothing: with any metric, callback, tracker or log on, a training with dropout ends with the bits
and the global generators of one without.

Driven by the folders: a metric or callback that is added is held to this with its defaults, or with the values that
`SETTINGS` has for it. A callback that is meant to change training belongs into `NO_OBSERVERS`, with a law of its own.
"""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_tti import InterpTrainer
from hf_tti.components import component_names, load_component
from hf_tti.data import CausalLMCollator
from hf_tti.objectives import Orthogonality
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.saving import generator_states
from hf_tti.tracking import TRACKERS
from test_callbacks import Letters
from test_tracking import OFFLINE
from tiny import arguments, rows, tiny_model, without_dropout
from tiny_runs import write_recipe

SETTINGS: dict[str, dict[str, Any]] = {  # where the defaults would not act in four steps
    "early_stopping": {"patience": 99},
    "generate_stories": {"num_stories": 2, "max_new_tokens": 4, "prompt": "ab"},
    "progress_line": {"bar": True},
}
NO_OBSERVERS: set[str] = set()


def same(a: Any, b: Any) -> bool:
    """Bitwise, for nested tensors, arrays, numbers and texts."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b


@dataclass(frozen=True)
class Outcome:
    """What a training leaves: weights, optimizer and global generators."""

    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    generators: dict[str, Any]


def assert_neutral(observed: Outcome, alone: Outcome) -> None:
    for name in ("weights", "optimizer", "generators"):
        assert same(getattr(observed, name), getattr(alone, name)), f"another {name}"


def train(folder: Path, *, model=tiny_model, metrics=None, callbacks=(), **changes: Any) -> Outcome:
    """Four steps with dropout and an objective, evaluated every second one."""
    settings = {"eval_strategy": "steps", "eval_steps": 2, "seed": 5, **changes}
    trainer = InterpTrainer(
        model(),
        arguments(folder, **settings),
        objectives=[Orthogonality().weighted(0.1)],
        metrics=metrics or {},
        train_dataset=rows(32, ragged=True),
        eval_dataset=rows(6, seed=9),
        processing_class=Letters(),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    return Outcome(weights, trainer.optimizer.state_dict(), generator_states())


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Outcome:
    return train(tmp_path_factory.mktemp("alone"))


class Watched(TrainerCallback):
    """Another callback whose every hook must leave the global generators where they were."""

    def __init__(self, callback: TrainerCallback):
        self.callback = callback
        self.heard: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        own = getattr(type(self.callback), name) is not getattr(TrainerCallback, name)

        def hook(*args: Any, **kwargs: Any) -> Any:
            before = generator_states()
            result = getattr(self.callback, name)(*args, **kwargs)
            assert same(generator_states(), before), f"{type(self.callback).__name__}.{name} moved a global generator"
            self.heard |= {name} if own else set()
            return result

        return hook


class Draws(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        torch.rand(1)


def component(kind: str, name: str) -> Any:
    """With its known-good values."""
    try:
        return load_component(kind, name)(**SETTINGS.get(name, {}))
    except TypeError as error:
        pytest.fail(f"hf_tti/{kind}/{name}.py has no defaults that work; put some into SETTINGS of {__file__}: {error}")


@pytest.mark.parametrize("name", component_names("metrics"))
def test_a_metric_changes_nothing(alone, tmp_path, name):
    assert_neutral(train(tmp_path, metrics={name: component("metrics", name)}), alone)


@pytest.mark.parametrize("name", sorted(set(component_names("callbacks")) - NO_OBSERVERS))
def test_a_callback_changes_nothing(alone, tmp_path, name):
    watched = Watched(component("callbacks", name))
    assert_neutral(train(tmp_path, callbacks=[watched]), alone)
    assert watched.heard, f"{name} has no hook that four steps call"


def test_one_number_drawn_by_a_callback_would_be_noticed(alone, tmp_path):
    drawn = train(tmp_path / "drawn", callbacks=[Draws()])
    assert not same(drawn.weights, alone.weights) and not same(drawn.generators, alone.generators)
    with pytest.raises(AssertionError, match="Draws.on_step_end moved a global generator"):
        train(tmp_path / "watched", callbacks=[Watched(Draws())])


@pytest.mark.parametrize(
    "changes",
    [
        {"force_ratio_steps": 1},
        {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2},
        {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": False, "metric_for_best_model": "loss"},
        {"logging_steps": 3},
        {"logging_strategy": "no"},
        {"disable_tqdm": False},
        {"include_num_input_tokens_seen": "all"},
        {"metric_batches": 1, "metrics": "all"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_what_is_logged_and_saved_changes_nothing(alone, tmp_path, changes):
    if changes.get("metrics") == "all":
        changes = changes | {"metrics": {name: component("metrics", name) for name in component_names("metrics")}}
    assert_neutral(train(tmp_path, **changes), alone)


def moved_by(evaluate: Callable[[], Any]) -> dict[str, Any]:
    """The global generators after `evaluate`, seeded before it."""
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    evaluate()
    return generator_states()


def test_an_evaluation_moves_the_generators_as_the_stock_trainers_does(tmp_path):
    """Its data loader draws one seed from torch's, whatever is measured; with dropout this is why a training that
    evaluates differs from one that does not, here as there."""
    metrics = {name: component("metrics", name) for name in component_names("metrics")}
    data = rows(6, seed=9)
    ours = InterpTrainer(tiny_model(), arguments(tmp_path), metrics=metrics, eval_dataset=data)
    args = TrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True)
    stock = Trainer(tiny_model(), args, eval_dataset=data, data_collator=CausalLMCollator(pad_token_id=0))
    assert same(moved_by(ours.evaluate), moved_by(stock.evaluate))


def test_without_dropout_evaluating_or_not_gives_the_same_weights(tmp_path):
    never = train(tmp_path / "never", model=without_dropout, eval_strategy="no")
    often = train(tmp_path / "often", model=without_dropout, eval_steps=1)
    assert same(never.weights, often.weights) and same(never.optimizer, often.optimizer)


# ---- Whole runs of a recipe ----


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("observed")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**OFFLINE, "HF_TTI_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        patch.delenv("TRACKIO_DIR", raising=False)
        yield folder


def run(folder: Path, name: str, **sections: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(weights of `final/`, global generators after it) of a recipe's run in which nothing observes but `sections`."""
    quiet = {"max_steps": 4, "save_strategy": "no"}
    training = quiet | sections.pop("training", {})
    callbacks = {"generate_stories": {"num_stories": 0}} | sections.pop("callbacks", {})
    recipe = write_recipe(folder, name, training=training, callbacks=callbacks, **sections)
    train_run(expand_sweep(load_recipe(recipe))[0], folder / "runs" / name)
    return load_file(folder / "runs" / name / "final" / "model.safetensors"), generator_states()


@pytest.fixture(scope="module")
def run_alone(runs):
    return run(runs, "alone")


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_changes_nothing(runs, run_alone, tracker):
    pytest.importorskip(TRACKERS[tracker])
    assert same(run(runs, tracker, tracking={"tracker": tracker}), run_alone)
    if tracker == "wandb":
        sys.modules["wandb"].teardown()


def test_a_run_that_watches_everything_ends_as_one_that_watches_nothing(runs, run_alone):
    pytest.importorskip("tensorboard")
    everything = run(
        runs,
        "everything",
        training={"save_strategy": "steps", "save_steps": 1, "force_ratio_steps": 1, "metric_batches": 8},
        metrics={name: {} for name in component_names("metrics")},
        callbacks={name: SETTINGS.get(name, {}) for name in component_names("callbacks") if name not in NO_OBSERVERS},
        tracking={"tracker": "tensorboard"},
    )
    assert same(everything, run_alone)
