"""Laws of what is not finite: no update, no checkpoint, and one line that says what, in which step, on which rank."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Trainer, TrainerCallback

from hf_tti import InterpTrainer
from hf_tti.components import component_names, load_component
from hf_tti.data import CausalLMCollator
from hf_tti.errors import UserError
from hf_tti.guard import FiniteGuard, check_weights
from tiny import arguments, rows, tiny_model

NAN = float("nan")


@pytest.fixture(scope="module")
def two_ranks() -> dict:
    """NaN on the second of two ranks, at each place; the script itself has Inf, the first rank and one rank alone."""
    script = Path(__file__).with_name("faults") / "nonfinite.py"
    done = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True)
    assert done.stdout, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nan_on_one_of_two_ranks_stops_both_before_the_update_and_is_named(two_ranks):
    assert two_ranks["cases"] == two_ranks["hold"] == 16, two_ranks["failed"]


def fused(*, value: float) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), value)
    return parameter, torch.optim.AdamW([parameter], lr=0.1, fused=True)


def test_an_update_is_left_out_without_a_look_and_so_are_those_after_it():
    """The path of a device: on the CPU here, with the same fused optimizer."""
    guard = FiniteGuard(0, 1, torch.device("cpu"), waits=True)
    parameter, optimizer = fused(value=1.0)
    moved = []
    for step, loss in ((1, 0.0), (2, NAN), (3, 0.0)):
        before = parameter.detach().clone()
        guard.see("ce_loss", torch.tensor(loss))
        guard.before_update(step, optimizer)
        optimizer.step()
        moved.append(not torch.equal(before, parameter))
    assert moved == [True, False, False]
    with pytest.raises(UserError, match="^ce_loss is not finite in step 2; its update was left out"):
        guard.look()


def test_nothing_is_left_out_again_once_the_run_has_looked():
    guard = FiniteGuard(0, 1, torch.device("cpu"), waits=True)
    parameter, optimizer = fused(value=1.0)
    for step in (1, 2):
        guard.see("ce_loss", torch.tensor(0.0))
        guard.before_update(step, optimizer)
        guard.look()
        before = parameter.detach().clone()
        optimizer.step()
        assert not torch.equal(before, parameter)


class Waiting(TorchDispatchMode):
    """Counts the operations for which a host waits for its device."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.count += name in self.OPERATIONS or "unique" in name
        return function(*args, **(kwargs or {}))


class CountInSteps(TrainerCallback):
    """What a `Waiting` counts from the begin of each step to its end."""

    def __init__(self, waiting: Waiting):
        self._waiting, self._before, self.counts = waiting, 0, []

    def on_step_begin(self, args, state, control, **kwargs):
        self._before = self._waiting.count

    def on_step_end(self, args, state, control, **kwargs):
        self.counts.append(self._waiting.count - self._before)


def waits_of(trainer: Trainer) -> list[int]:
    """How often each step of a training waits for the device."""
    with Waiting() as waiting:
        counting = CountInSteps(waiting)
        trainer.add_callback(counting)
        trainer.train()
    assert waiting.count > sum(counting.counts)  # what is logged at the end
    return counting.counts


@pytest.mark.parametrize("name", [None, *component_names("objectives")])
def test_no_step_waits_for_the_device_more_often_than_with_the_stock_trainer(tmp_path, name):
    """In the mode of a device; `token_entropy` asks once a batch how many types there are."""
    objectives = [] if name is None else [load_component("objectives", name)().weighted(0.1)]
    args = arguments(tmp_path, max_steps=3, logging_steps=3, optim="adamw_torch_fused")
    trainer = InterpTrainer(tiny_model(), args, objectives=objectives, metrics={}, train_dataset=rows(12))
    trainer._guard = FiniteGuard(0, 1, args.device, trainer._weights, waits=True)
    stock = Trainer(tiny_model(), args, train_dataset=rows(12), data_collator=CausalLMCollator(pad_token_id=0))
    own = 1 if name == "token_entropy" else 0
    assert waits_of(trainer) == [count + own for count in waits_of(stock)]


def test_an_optimizer_that_cannot_leave_an_update_out_is_waited_for():
    guard = FiniteGuard(0, 1, torch.device("cpu"), waits=True)
    guard.see("ce_loss", torch.tensor(NAN))
    with pytest.raises(UserError, match="in step 1"):
        guard.before_update(1, torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))


def test_a_bad_micro_batch_stays_bad_when_the_next_is_fine():
    guard = FiniteGuard(0, 1, torch.device("cpu"))
    for value in (NAN, 1.0):
        guard.see("ce_loss", torch.tensor(value))
    with pytest.raises(UserError):
        guard.before_update(1, fused(value=1.0)[1])


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_the_first_weight_that_is_not_finite_is_named(value):
    weights = {"fine": torch.ones(2), "large": torch.full((2,), 3e38), "bad": torch.tensor([1.0, value])}
    with pytest.raises(UserError, match="^bad is not finite after step 5; it is not saved"):
        check_weights(weights, 5)
    del weights["bad"]
    check_weights(weights, 5)


def test_a_weight_that_no_batch_uses_is_seen_when_the_run_logs_and_at_its_end(tmp_path):
    for logging_steps, step in ((2, 2), (100, 4)):
        model = tiny_model()
        model.transformer.wpe.weight.data[31] = NAN  # rows have 16 tokens
        trainer = InterpTrainer(model, arguments(tmp_path, logging_steps=logging_steps), train_dataset=rows())
        with pytest.raises(UserError, match=f"transformer.wpe.weight is not finite after step {step}; it is not saved"):
            trainer.train()
