"""Laws of a stop: whenever a signal comes, the run ends with a checkpoint and goes on as if it had not come."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hf_tti import checkpoints
from hf_tti.evaluation import MetricAccumulator
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from hf_tti.signals import SIGNALS, Stopped
from hf_tti.trainer import InterpTrainer
from tiny_runs import write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        path = write_recipe(folder, training={"save_steps": 4, "per_device_eval_batch_size": 4})
        yield expand_sweep(load_recipe(path, ["model.resid_pdrop=0.1"]))[0]


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("finished") / "run")
    train_run(recipe, run.path)
    return run


def ledger(run: RunFolder) -> list[dict]:
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "per_second" not in k and k != "final"} for line in lines]


def send_once(patch, owner, name: str, number: int, *, at: int, when=lambda *args: True) -> None:
    """`number` to this process just before the call number `at` of a function."""
    original, calls = getattr(owner, name), []

    def sending(*args, **kwargs):
        if when(*args):
            calls.append(None)
            if len(calls) == at:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    patch.setattr(owner, name, sending)


MOMENTS = {
    "a step": (InterpTrainer, "compute_loss", 3, lambda self, model, *rest: model.training, 3),
    "an evaluation": (MetricAccumulator, "update", 2, lambda *args: True, 2),
    "a save": (checkpoints, "reached", 4, lambda *args: True, 5),
    "a step before an evaluation": (InterpTrainer, "compute_loss", 4, lambda self, model, *rest: model.training, 4),
    "the last step": (InterpTrainer, "compute_loss", 6, lambda self, model, *rest: model.training, 6),
}


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stopped_run_ends_with_a_checkpoint_and_goes_on_bitwise(recipe, finished, tmp_path, number, moment):
    owner, name, at, when, step = MOMENTS[moment]
    run = RunFolder(tmp_path / "run")
    handlers = [signal.getsignal(each) for each in SIGNALS]
    with pytest.MonkeyPatch.context() as patch:
        send_once(patch, owner, name, number, at=at, when=when)
        with pytest.raises(Stopped, match=rf"stopped by {number.name} after step {step}; ") as caught:
            train_run(recipe, run.path)
    assert caught.value.exit_code == 128 + number
    assert handlers == [signal.getsignal(each) for each in SIGNALS]
    assert run.newest_checkpoint() == run.path / f"checkpoint-{step}" and run.result() is None
    train_run(recipe, run.path, resume=True)
    want, got = (load_file(of.final / "model.safetensors") for of in (finished, run))
    assert all(torch.equal(value, got[key]) for key, value in want.items())
    assert ledger(run) == ledger(finished)
    assert run.result()["metrics"] == finished.result()["metrics"]


def test_a_process_that_is_told_to_end_ends_with_one_line(recipe, tmp_path):
    command = [sys.executable, "-m", "hf_tti", "train", str(recipe.path), "--run-dir", str(tmp_path / "run")]
    command += ["--set", "training.max_steps=100000", "--set", "training.eval_strategy=no"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        for _ in range(1200):
            if log.is_file() and log.stat().st_size:
                break
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    lines = [line for line in errors.splitlines() if "stopped by" in line]
    assert len(lines) == 1 and "Traceback" not in errors
    assert RunFolder(tmp_path / "run").newest_checkpoint() is not None
