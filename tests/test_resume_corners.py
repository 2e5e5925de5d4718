"""Laws of resuming where only some settings can tell: in a logging window, by length, with workers, after a NaN."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import DataLoaderDispatcher
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl
from transformers.trainer_callback import ExportableState

from hf_tti import InterpTrainer
from hf_tti.callbacks.early_stopping import EarlyStopping
from hf_tti.errors import UserError
from hf_tti.logging_window import WINDOW_FILE
from hf_tti.objectives import Orthogonality
from hf_tti.signals import BrokenOff
from hf_tti.state_files import load_state, save_state
from tiny import arguments, rows, tiny_model

_OF_THE_CLOCK = ("runtime", "per_second", "preparation_time", "total_flos", "train_loss")


def build(folder: Path, **changes) -> InterpTrainer:
    """With dropout, a save at every step, and two epochs of eight steps."""
    given = {name: changes.pop(name) for name in ("objectives", "callbacks") if name in changes}
    evaluated = changes.pop("eval_dataset", rows(8, ragged=True, seed=3))
    settings = {"save_strategy": "steps", "save_steps": 1, **changes}
    return InterpTrainer(
        tiny_model(),
        arguments(folder, **settings),
        metrics={},
        train_dataset=rows(32, ragged=True),
        eval_dataset=evaluated,
        **given,
    )


def ledger(trainer) -> list[dict]:
    lines = [{k: v for k, v in line.items() if not k.endswith(_OF_THE_CLOCK)} for line in trainer.state.log_history]
    return [line for line in lines if line.keys() - {"step", "epoch"}]


def seed_globals(seed: int) -> None:
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)


def assert_resumes(tmp_path: Path, make: Callable[[Path], InterpTrainer], *steps: int) -> InterpTrainer:
    """Resumed from each of the steps, with other global generators, it ends as what nothing stopped."""
    seed_globals(5)
    whole = make(tmp_path / "whole")
    whole.train()
    for step in steps:
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", folder / f"checkpoint-{step}")
        seed_globals(step + 6)
        again = make(folder)
        again.train(resume_from_checkpoint=True)
        assert ledger(again) == ledger(whole), f"from step {step}"
        state = whole.model.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())
    return whole


# ---- Logging windows ---------------------------------------------------------------------------


def with_objective(**changes) -> Callable[[Path], InterpTrainer]:
    return lambda folder: build(folder, objectives=[Orthogonality().weighted(0.1)], **changes)


def test_a_resume_inside_a_logging_window_logs_the_same_means(tmp_path):
    changes = {"max_steps": 7, "logging_steps": 3, "force_ratio_steps": 2, "gradient_accumulation_steps": 2}
    whole = assert_resumes(tmp_path, with_objective(**changes), 2, 3, 4)
    assert [line["step"] for line in ledger(whole)] == [3, 6]
    assert {"ce_loss", "objective/orthogonality", "force_ratio/orthogonality"} <= ledger(whole)[1].keys()


def test_a_resume_with_one_line_an_epoch_logs_the_same_lines(tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 2, "logging_strategy": "epoch"}
    whole = assert_resumes(tmp_path, with_objective(**changes), 5, 8, 11)
    assert [line["step"] for line in ledger(whole)] == [8, 16]


def test_a_run_resumed_at_its_end_logs_the_last_epochs_line(tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 1, "logging_strategy": "epoch"}
    assert_resumes(tmp_path, with_objective(**changes), 8)


def test_checkpoints_without_a_window_resume(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(InterpTrainer, "_window", lambda self: None)
        build(tmp_path, max_steps=4).train()
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-3" / WINDOW_FILE).exists()
    again = build(tmp_path, max_steps=6, logging_steps=5)
    with pytest.raises(UserError, match="max_steps was 4, is 6"):
        again.train(resume_from_checkpoint=True)
    again = build(tmp_path, max_steps=4, logging_steps=4)
    again.train(resume_from_checkpoint=True)
    assert [line["step"] for line in ledger(again)] == [1, 2, 3, 4]


def test_a_window_that_is_missing_is_noticed(tmp_path):
    build(tmp_path, max_steps=2).train()
    (tmp_path / "checkpoint-2" / WINDOW_FILE).unlink()
    with pytest.raises(UserError, match=f"checkpoint-2/{WINDOW_FILE}: missing"):
        build(tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_window_of_another_kind_is_one_line(tmp_path):
    trainer = build(tmp_path)
    trainer.create_optimizer_and_scheduler(4)
    save_state(trainer.optimizer.state_dict(), tmp_path / "optimizer.safetensors")
    save_state(trainer.lr_scheduler.state_dict(), tmp_path / "scheduler.safetensors")
    for other in ([], [{}], {"loss": 1}, [{"loss": 1}], [{"loss": torch.zeros(()), "num_steps": "x"}]):
        save_state(other, tmp_path / WINDOW_FILE)
        with pytest.raises(UserError, match=f"{WINDOW_FILE}: not the sums of a logging window"):
            trainer._load_optimizer_and_scheduler(str(tmp_path))


def test_a_second_training_begins_its_own_window(tmp_path):
    trainer = build(tmp_path, max_steps=4, logging_steps=3, save_strategy="no")
    trainer.train()
    trainer.train()
    fresh = trainer._means.state()
    assert fresh["num_steps"] == 1.0  # step 4 of the second alone


def test_other_ranks_hold_the_mean_of_those_that_were(tmp_path):
    trainer = with_objective(max_steps=1, logging_steps=3)(tmp_path)
    trainer.train()
    window = load_state(tmp_path / "checkpoint-1" / WINDOW_FILE)[0]
    twice = {**window, "loss": 3 * window["loss"]}
    assert torch.equal(trainer._window_of([window, twice])["loss"], 2 * window["loss"])
    sums = trainer._window_of([window, window])["means"]["sums"]
    assert sums.keys() == window["means"]["sums"].keys() >= {"ce_loss", "weight/orthogonality"}
    assert all(float(total) == pytest.approx(float(window["means"]["sums"][name])) for name, total in sums.items())


# ---- The order of the data ---------------------------------------------------------------------


def test_rows_grouped_by_length_come_in_the_same_order_after_a_resume(tmp_path):
    changes = {"max_steps": -1, "num_train_epochs": 3, "train_sampling_strategy": "group_by_length"}
    assert_resumes(tmp_path, lambda folder: build(folder, eval_strategy="epoch", **changes), 3, 8, 11, 16, 20)


def test_the_order_by_length_is_the_seeds_and_the_epochs_alone(tmp_path):
    trainer = build(tmp_path, train_sampling_strategy="group_by_length", data_seed=4)
    sampler = trainer._get_train_sampler()
    orders = {}
    for epoch in (0, 1):
        trainer._epoch = epoch
        orders[epoch] = list(sampler)
        torch.rand(3)
        assert list(sampler) == orders[epoch] and sorted(orders[epoch]) == list(range(32))
    assert orders[0] != orders[1]
    other = build(tmp_path, train_sampling_strategy="group_by_length", data_seed=5)
    assert list(other._get_train_sampler()) != orders[0]
    before = torch.random.get_rng_state()
    evaluated = [list(trainer._get_eval_sampler(trainer.eval_dataset)) for _ in range(2)]
    assert evaluated[0] == evaluated[1] and torch.equal(before, torch.random.get_rng_state())


def test_workers_that_outlast_an_epoch_are_refused(tmp_path):
    with pytest.raises(UserError, match="dataloader_persistent_workers: a resumed run would draw other random"):
        arguments(tmp_path, dataloader_num_workers=1, dataloader_persistent_workers=True)


# ---- Evaluations -------------------------------------------------------------------------------


def with_two_sets(**changes) -> Callable[[Path], InterpTrainer]:
    two = {"x": rows(8, ragged=True, seed=3), "y": rows(6, ragged=True, seed=4)}
    return lambda folder: build(folder, eval_dataset=two, eval_strategy="steps", eval_steps=2, **changes)


def test_evaluations_of_several_data_sets_are_not_done_again(tmp_path):
    whole = assert_resumes(tmp_path, with_two_sets(max_steps=5), 2, 3)
    assert [line["step"] for line in ledger(whole) if "eval_y_loss" in line] == [2, 4, 5]


class BreaksOff(TrainerCallback):
    """As a signal does, in the second data set of the evaluation after step 2."""

    def __init__(self):
        self.batches = 0

    def on_prediction_step(self, args, state, control, **kwargs):
        self.batches += 1
        if self.batches == 3:
            raise BrokenOff


def test_an_evaluation_that_broke_off_in_its_second_data_set_is_done_whole(tmp_path):
    whole = with_two_sets(max_steps=5)(tmp_path / "whole")
    whole.train()
    with pytest.raises(BrokenOff):
        with_two_sets(max_steps=5, callbacks=[BreaksOff()])(tmp_path / "stopped").train()
    again = with_two_sets(max_steps=5)(tmp_path / "stopped")
    again.train(resume_from_checkpoint=True)
    assert ledger(again) == ledger(whole)


# ---- Callbacks ---------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize("values", [[NAN, 3.0, 2.0, 1.0], [3.0, NAN, 2.0, 2.5], [NAN, NAN], [INF, 2.0, 3.0, 4.0]])
def test_early_stopping_replays_a_log_with_nan_as_it_was_lived(tmp_path, values, greater):
    changes = {"metric_for_best_model": "eval_loss", "greater_is_better": greater}
    trainer = build(tmp_path, eval_strategy="steps", **changes)
    live, control = EarlyStopping(patience=2), TrainerControl()
    for step, value in enumerate(values, start=1):
        control, metrics = TrainerControl(), {"eval_loss": value}
        live.on_evaluate(trainer.args, trainer.state, control, metrics=metrics)
        trainer._determine_best_metric(metrics, None)
        trainer.state.log_history.append({"step": step, **metrics})
        assert EarlyStopping(patience=2).has_stopped(trainer.args, trainer.state) == control.should_training_stop


def test_the_stock_early_stopping_is_refused_and_ours_is_named(tmp_path):
    changes = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"}
    trainer = build(tmp_path, callbacks=[EarlyStoppingCallback(3)], load_best_model_at_end=True, **changes)
    with pytest.raises(UserError, match=r"EarlyStoppingCallback: .*early_stopping.EarlyStopping\(patience=3, thresh"):
        trainer.train()


class Counts(TrainerCallback, ExportableState):
    def __init__(self, steps: int = 0):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {"steps": self.steps}, "attributes": {}}


def counts_of(folder: Path) -> object:
    return json.loads((folder / "trainer_state.json").read_text())["stateful_callbacks"].get("Counts")


def test_a_callback_with_a_state_may_join_or_leave_at_a_resume(tmp_path):
    build(tmp_path, max_steps=4).train()
    shutil.rmtree(tmp_path / "checkpoint-4"), shutil.rmtree(tmp_path / "checkpoint-3")
    build(tmp_path, max_steps=4, callbacks=[Counts()]).train(resume_from_checkpoint=True)
    assert counts_of(tmp_path / "checkpoint-4") == {"args": {"steps": 2}, "attributes": {}}
    shutil.rmtree(tmp_path / "checkpoint-4")
    build(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    assert counts_of(tmp_path / "checkpoint-4") is None


def test_the_states_of_two_callbacks_of_one_class_are_restored(tmp_path):
    restore = {"max_steps": 4, "restore_callback_states_from_checkpoint": True}
    build(tmp_path, callbacks=[Counts(), Counts(10)], **restore).train()
    states = counts_of(tmp_path / "checkpoint-3")
    assert [state["args"]["steps"] for state in states] == [3, 13]
    shutil.rmtree(tmp_path / "checkpoint-4")
    build(tmp_path, callbacks=[Counts(), Counts(10)], **restore).train(resume_from_checkpoint=True)
    assert [state["args"]["steps"] for state in counts_of(tmp_path / "checkpoint-4")] == [4, 14]


# ---- Settings that cannot be right -------------------------------------------------------------


@pytest.mark.parametrize("name", ["bf16_full_eval", "fp16_full_eval"])
def test_an_evaluation_that_leaves_the_model_in_half_precision_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: leaves the model in half precision"):
        arguments(tmp_path, **{name: True})


class Stream(IterableDataset):
    def __iter__(self):
        return iter(rows(12, ragged=True))


def dealt_to_two(trainer: InterpTrainer, batch_size: int = 2) -> DataLoaderDispatcher:
    """As rank 0 of two has it."""
    loader = DataLoaderDispatcher(Stream(), batch_size=batch_size, collate_fn=trainer.data_collator)
    loader.state = SimpleNamespace(num_processes=2, process_index=0)
    return loader


def test_a_stream_of_unequal_batches_for_two_processes_is_one_line(tmp_path, monkeypatch):
    trainer = build(tmp_path, max_steps=2)
    with pytest.raises(UserError, match="a stream .* dealt out to several processes in batches of one length"):
        trainer.evaluation_loop(dealt_to_two(trainer), "evaluation")
    monkeypatch.setattr(trainer, "get_train_dataloader", lambda: dealt_to_two(trainer))
    with pytest.raises(UserError, match="a stream .* dealt out to several processes in batches of one length"):
        trainer.train()
