"""Laws of the callbacks: observers change nothing, a line is written once, early stopping survives
a resume.
"""

import json
import random

import numpy as np
import pytest
import torch
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from hf_tti import InterpTrainer
from hf_tti.callbacks._observe import isolated_rng
from hf_tti.callbacks.early_stopping import EarlyStopping
from hf_tti.callbacks.generate_stories import GenerateStories
from hf_tti.callbacks.metrics_jsonl import MetricsJsonl, clean, truncate_metrics
from hf_tti.callbacks.progress_line import ProgressLine
from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from hf_tti.table import duration
from tiny import arguments, rows, tiny_model


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


class Letters:
    """The least of a tokenizer that generation needs."""

    bos_token_id = eos_token_id = pad_token_id = 0

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % 60 for letter in text]}

    def decode(self, ids) -> str:
        return " ".join(str(int(i)) for i in ids)

    def batch_decode(self, batch, skip_special_tokens: bool) -> list[str]:
        return [self.decode(ids) for ids in batch]

    def save_pretrained(self, folder) -> None: ...


class GeneratesAtEveryStep(GenerateStories):
    def on_step_end(self, args, state, control, model=None, processing_class=None, **kwargs):
        assert model.training
        self.stories(model, Letters(), seed=state.global_step)
        assert model.training


@pytest.mark.parametrize("name", component_names("callbacks"))
def test_a_callback_file_has_a_callback_with_defaults(name):
    assert isinstance(load_component("callbacks", name)(), TrainerCallback)


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    seed_all()
    expected = [draw(), draw()]
    seed_all()
    actual = [draw()]
    with isolated_rng(5):
        first = draw()
    with isolated_rng(5):
        assert draw() == first
    actual.append(draw())
    assert actual == expected


def test_random_numbers_are_restored_after_an_exception():
    seed_all()
    expected = draw()
    seed_all()
    with pytest.raises(RuntimeError), isolated_rng(5):
        draw()
        raise RuntimeError
    assert draw() == expected


def test_weights_are_bitwise_the_same_with_and_without_observers(tmp_path, capsys):
    def train(callbacks) -> dict[str, torch.Tensor]:
        args = arguments(tmp_path, eval_strategy="steps", eval_steps=2)
        trainer = InterpTrainer(tiny_model(), args, train_dataset=rows(), eval_dataset=rows(4), callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return {name: value.clone() for name, value in trainer.model.state_dict().items()}

    alone = train([])
    observed = train([MetricsJsonl(), ProgressLine(), GeneratesAtEveryStep(max_new_tokens=4)])
    assert all(torch.equal(alone[name], observed[name]) for name in alone)
    assert "step 4/4" in capsys.readouterr().out


@pytest.mark.parametrize("prompt", ["ab", "", "a" * 40])
def test_stories_are_reproducible_and_fit_the_context(prompt):
    model = tiny_model()
    teller = GenerateStories(num_stories=2, max_new_tokens=50, prompt=prompt)
    stories = teller.stories(model, Letters(), seed=3)
    assert stories == teller.stories(model, Letters(), seed=3)
    assert all(len(story.split()) <= max(32, len(prompt)) for story in stories)


def test_clean_drops_what_depends_on_the_clock_and_keeps_json():
    logs = {
        "loss": 1.0,
        "eval_loss": float("nan"),
        "eval_runtime": 3.0,
        "eval_samples_per_second": 1.0,
        "x": 1,
    }
    assert clean(logs) == {"loss": 1.0, "eval_loss": None, "x": 1}


def test_truncated_metrics_are_what_had_been_written_at_that_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"step": 1},
        {"step": 2},
        {"step": 2, "eval_loss": 1.0},
        {"step": 2, "final": True},
        {"step": 3},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "lo')
    truncate_metrics(path, 2)
    assert [json.loads(text) for text in path.read_text().splitlines()] == lines[:3]


def evaluations(losses: list[float]) -> list[dict]:
    return [{"step": 2 * i, "eval_loss": loss} for i, loss in enumerate(losses, start=1)]


def stops_after(losses: list[float], tmp_path, *, resumed_at: int, **fields) -> int | None:
    """At which evaluation a run stops that is resumed after `resumed_at` of them."""
    args = arguments(tmp_path, eval_strategy="steps", eval_steps=2)
    state, stopper = TrainerState(), EarlyStopping(**fields)
    stopper.on_init_end(args, state, TrainerControl())
    stopper.on_train_begin(args, state, TrainerControl())
    for number, line in enumerate(evaluations(losses)):
        if number == resumed_at:
            stopper = EarlyStopping(**fields)
            stopper.on_train_begin(args, state, TrainerControl())
        control = TrainerControl()
        state.global_step = line["step"]
        state.log_history.append(line)
        stopper.on_evaluate(args, state, control, metrics=line)
        if control.should_training_stop:
            return number
        if state.best_metric is None or line["eval_loss"] < state.best_metric:
            state.best_metric = line["eval_loss"]
    return None


LOSSES = [3.0, 2.0, 2.5, 2.1, 1.9, 1.95, 1.96, 1.97, 1.0]


@pytest.mark.parametrize("resumed_at", range(len(LOSSES) + 1))
@pytest.mark.parametrize(("patience", "threshold", "stop"), [(1, 0.0, 2), (2, 0.0, 3), (3, 0.0, 7), (3, 0.5, 4)])
def test_early_stopping_counts_the_same_across_a_resume(tmp_path, patience, threshold, stop, resumed_at):
    fields = {"patience": patience, "threshold": threshold}
    assert stops_after(LOSSES, tmp_path, resumed_at=resumed_at, **fields) == stop


def test_early_stopping_without_evaluations_is_refused(tmp_path):
    with pytest.raises(UserError, match="eval_strategy"):
        InterpTrainer(tiny_model(), arguments(tmp_path), callbacks=[EarlyStopping()])


def test_early_stopping_on_a_metric_that_is_not_there_names_those_that_are(tmp_path):
    args = arguments(tmp_path, eval_strategy="steps", metric_for_best_model="eval_losss")
    stopper = EarlyStopping()
    with pytest.raises(UserError, match="eval_losss.*eval_loss"):
        stopper.on_evaluate(args, TrainerState(), TrainerControl(), metrics={"eval_loss": 1.0})


@pytest.mark.parametrize(("seconds", "text"), [(7.2, "0:07"), (59.6, "1:00"), (750, "12:30"), (11045, "3:04:05")])
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text
