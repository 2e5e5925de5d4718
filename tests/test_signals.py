"""Laws of a stop: whenever a signal comes, the run ends with a checkpoint and goes on as if it had not come."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState, TrainingArguments

import hf_tti.processes
import hf_tti.run
import hf_tti.signals
from hf_tti import checkpoints
from hf_tti.evaluation import MetricAccumulator
from hf_tti.processes import launcher
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from hf_tti.signals import SIGNALS, LeftAlone, StopOnSignal, Stopped, evaluation_is_missing
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


def writes_final(trainer, folder: str) -> bool:
    return folder.endswith("final")


MOMENTS = {
    "a step": (InterpTrainer, "compute_loss", 3, lambda self, model, *rest: model.training, 3),
    "an evaluation": (MetricAccumulator, "update", 2, lambda *args: True, 2),
    "a save": (checkpoints, "reached", 4, lambda *args: True, 5),
    "a step before an evaluation": (InterpTrainer, "compute_loss", 4, lambda self, model, *rest: model.training, 4),
    "the last step": (InterpTrainer, "compute_loss", 6, lambda self, model, *rest: model.training, 6),
}


CASES = [(signal.SIGTERM, moment) for moment in MOMENTS] + [(number, "a step") for number in SIGNALS[1:]]


@pytest.mark.parametrize(("number", "moment"), CASES, ids=lambda value: getattr(value, "name", value))
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


def test_a_signal_to_the_workers_that_load_data_as_well_is_no_crash(recipe, finished, tmp_path):
    """As when a scheduler signals every process of a job."""
    recipe = replace(recipe, training={**recipe.training, "dataloader_num_workers": 1})
    run = RunFolder(tmp_path / "run")

    def trains_and_tells_workers(trainer, model, *rest):
        if model.training and trainer.state.global_step == 2:
            workers = psutil.Process().children()
            assert workers
            subprocess.run(["kill", "-TERM", *(str(worker.pid) for worker in workers)], check=True)  # not their parent
            psutil.wait_procs(workers, timeout=0.5)
        return model.training

    with pytest.MonkeyPatch.context() as patch:
        send_once(patch, InterpTrainer, "compute_loss", signal.SIGTERM, at=3, when=trains_and_tells_workers)
        with pytest.raises(Stopped, match="after step 3; "):
            train_run(recipe, run.path)
    train_run(recipe, run.path, resume=True)
    assert ledger(run) == ledger(finished)


def test_a_signal_before_training_ends_the_run_at_once_and_claims_nothing(recipe, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        send_once(patch, hf_tti.run, "build_model", signal.SIGTERM, at=1)
        with pytest.raises(Stopped, match="stopped by SIGTERM before training began; ") as caught:
            train_run(recipe, run.path)
    assert caught.value.exit_code == 143 and run.record() is None
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_while_the_model_is_written_lets_the_run_finish(recipe, finished, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        send_once(patch, InterpTrainer, "save_model", signal.SIGTERM, at=1, when=writes_final)
        train_run(recipe, run.path)
    assert run.result()["metrics"] == finished.result()["metrics"]


def test_an_evaluation_may_be_broken_off_again_when_it_is_done_again(recipe, finished, tmp_path):
    run = RunFolder(tmp_path / "run")
    for resume in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            send_once(patch, MetricAccumulator, "update", signal.SIGTERM, at=2)
            with pytest.raises(Stopped, match="after step 2; "):
                train_run(recipe, run.path, resume=resume)
    train_run(recipe, run.path, resume=True)
    assert ledger(run) == ledger(finished) and run.result()["metrics"] == finished.result()["metrics"]


@pytest.mark.parametrize("moment", ["a step", "the last step", "an evaluation"])
def test_a_run_that_evaluates_by_epoch_goes_on_bitwise_too(tmp_path, moment):
    by_epoch = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": 8, "per_device_train_batch_size": 150}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
        path = write_recipe(tmp_path, training={**by_epoch, "per_device_eval_batch_size": 4})
        recipe = expand_sweep(load_recipe(path))[0]
        whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
        train_run(recipe, whole.path)
        evaluated = [line["step"] for line in ledger(whole) if "eval_loss" in line]
        assert evaluated[0] > 2 and len(evaluated) == 2 and evaluated[1] == 8
        with pytest.MonkeyPatch.context() as sending:
            if moment == "an evaluation":
                send_once(sending, MetricAccumulator, "update", signal.SIGTERM, at=2)
            else:
                at = 2 if moment == "a step" else evaluated[0]
                send_once(sending, InterpTrainer, "compute_loss", signal.SIGTERM, at=at, when=MOMENTS["a step"][3])
            with pytest.raises(Stopped):
                train_run(recipe, run.path)
        train_run(recipe, run.path, resume=True)
    assert ledger(run) == ledger(whole) and run.result()["metrics"] == whole.result()["metrics"]


BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
LATER_IS_BETTER = {**BEST, "greater_is_better": False}
JUDGED = {  # training, callbacks, number of the evaluation in which the signal comes
    "that becomes the best": ({**BEST, "max_steps": 6}, {}, 1),
    "that becomes the best at the last step": ({**LATER_IS_BETTER, "max_steps": 6}, {}, 3),
    "that becomes the best, by epoch, at the last": (
        {**LATER_IS_BETTER, "eval_strategy": "epoch", "save_strategy": "epoch", "per_device_train_batch_size": 150},
        {},
        2,
    ),
    "that becomes the best and is saved as such": ({**LATER_IS_BETTER, "save_strategy": "best"}, {}, 2),
    "that becomes the best where nothing is saved": ({**BEST, "max_steps": 8, "eval_steps": 2, "save_steps": 4}, {}, 1),
    "after one at the start": ({**BEST, "max_steps": 6, "eval_on_start": True}, {}, 2),
    "from which patience counts": ({**BEST, "max_steps": 12}, {"early_stopping": {"patience": 2}}, 1),
    "that ends training": ({**BEST, "max_steps": 12}, {"early_stopping": {"patience": 1}}, 2),
    "that lowers the learning rate": (
        {
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0},
            "metric_for_best_model": "eval_loss",
        },
        {},
        2,
    ),
}


@pytest.mark.parametrize("case", JUDGED)
def test_an_evaluation_that_a_signal_broke_off_is_judged_as_if_it_had_not(tmp_path, case):
    training, callbacks, number = JUDGED[case]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
        recipe = expand_sweep(load_recipe(write_recipe(tmp_path, training=training, callbacks=callbacks)))[0]
        whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
        train_run(recipe, whole.path)
        with pytest.MonkeyPatch.context() as sending:
            send_once(sending, InterpTrainer, "evaluation_loop", signal.SIGTERM, at=number)
            with pytest.raises(Stopped, match="goes on from there"):
                train_run(recipe, run.path)
        train_run(recipe, run.path, resume=True)
    want, got = (load_file(of.final / "model.safetensors") for of in (whole, run))
    assert all(torch.equal(value, got[key]) for key, value in want.items())
    assert ledger(run) == ledger(whole)
    for key in ("metrics", "best_step", "num_steps"):
        assert run.result()[key] == whole.result()[key], key
    states = [json.loads((of.newest_checkpoint() / "trainer_state.json").read_text()) for of in (whole, run)]
    assert states[0]["best_global_step"] == states[1]["best_global_step"]


@pytest.mark.parametrize(("delay", "is_missing"), [(500, True), (501, False), (1000, False)])
def test_no_evaluation_is_missing_before_the_delay(tmp_path, delay, is_missing):
    by_step = TrainingArguments(str(tmp_path), eval_strategy="steps", eval_steps=250, eval_delay=delay, use_cpu=True)
    state = TrainerState(global_step=500, max_steps=5000, epoch=0.5, eval_steps=250, save_steps=500, logging_steps=500)
    assert evaluation_is_missing(by_step, state) is is_missing
    by_epoch = TrainingArguments(str(tmp_path), eval_strategy="epoch", eval_delay=delay / 250, use_cpu=True)
    assert evaluation_is_missing(by_epoch, replace(state, epoch=2.0)) is is_missing


@pytest.mark.parametrize(("load_best", "where"), [(False, "there"), (True, "checkpoint-4")])
def test_a_stop_in_the_final_evaluation_says_where_the_run_goes_on(tmp_path, load_best, where):
    """Early stopping ends training at a step that no schedule saves."""
    best = {**BEST, "load_best_model_at_end": load_best, "max_steps": 12, "save_steps": 4}
    schedule = {"eval_steps": 1, "save_steps": 4} if load_best else {"eval_strategy": "no", "save_strategy": "no"}
    callbacks = {"early_stopping": {"patience": 4}} if load_best else {}
    evaluations = 6 if load_best else 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
        training = {**best, **schedule} if load_best else schedule
        recipe = expand_sweep(load_recipe(write_recipe(tmp_path, training=training, callbacks=callbacks)))[0]
        whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
        train_run(recipe, whole.path)
        with pytest.MonkeyPatch.context() as sending:
            send_once(sending, InterpTrainer, "evaluation_loop", signal.SIGTERM, at=evaluations)
            with pytest.raises(Stopped, match=rf"after step \d+; the same command with --resume goes on from {where}$"):
                train_run(recipe, run.path)
        train_run(recipe, run.path, resume=True)
    assert ledger(run) == ledger(whole) and run.result()["metrics"] == whole.result()["metrics"]


def test_an_interrupt_that_comes_twice_at_once_is_one_and_a_later_one_is_pythons_own(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(hf_tti.signals.time, "monotonic", lambda: now[0])
    stopper = StopOnSignal()
    with stopper.listening(), stopper.noting():
        os.kill(os.getpid(), signal.SIGINT)
        now[0] += 0.9
        os.kill(os.getpid(), signal.SIGINT)
        assert stopper.agreed() and stopper.number == signal.SIGINT
        now[0] += 0.1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


COMMANDS = {
    "/env/bin/python /env/bin/accelerate launch -m hf_tti train r.yaml": True,
    "/env/bin/python -m torch.distributed.run --nproc-per-node 2 -m hf_tti train r.yaml": True,
    "/env/bin/python /env/bin/hf-tti sweep recipes/expt1": True,
    "/bin/bash": False,
    "timeout 3600 hf-tti train sweep.yaml": False,
    "/env/bin/python -m pytest tests/test_accelerate.py": False,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parent_is_a_launcher_by_its_command(monkeypatch, command):
    monkeypatch.setattr(hf_tti.processes.psutil.Process, "cmdline", lambda self: command.split())
    assert launcher() == (os.getppid() if COMMANDS[command] else None)


GONE = {  # what torch says when a process of the group has died, and what says something else
    "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:16776.": True,
    "[gloo/transport/tcp/pair.cc:553] Read error [127.0.0.1]:16776: Connection reset by peer": True,
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exited prematurely.": True,
    "mat1 and mat2 shapes cannot be multiplied": False,
}


@pytest.mark.parametrize("said", GONE)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_process_that_another_one_left_alone_ends_with_a_line(said, world_size):
    expected = LeftAlone if GONE[said] and world_size > 1 else RuntimeError
    with pytest.raises(Exception) as caught, StopOnSignal(world_size).listening():
        raise RuntimeError(said)
    assert caught.type is expected
    assert caught.type is not LeftAlone or caught.value.exit_code == 137


LAUNCHER = """\
import subprocess, sys
process = subprocess.Popen([sys.executable, "-m", "hf_tti", *sys.argv[1:]])
print(process.pid, flush=True)
process.wait()
"""


@pytest.mark.parametrize("through_a_launcher", [False, True], ids=["itself", "its launcher, by kill -9"])
def test_a_process_that_is_told_to_end_ends_with_one_line(recipe, tmp_path, through_a_launcher):
    started = [sys.executable, "-m", "hf_tti"]
    if through_a_launcher:
        script = tmp_path / "accelerate"
        script.write_text(LAUNCHER)
        started = [sys.executable, str(script)]
    command = [*started, "train", str(recipe.path), "--run-dir", str(tmp_path / "run")]
    command += ["--set", "training.max_steps=100000", "--set", "training.eval_strategy=no"]
    errors = tmp_path / "errors"
    with open(errors, "w") as output:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
    trains = int(process.stdout.readline()) if through_a_launcher else process.pid
    drain = threading.Thread(target=process.stdout.read, daemon=True)
    drain.start()
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        for _ in range(6000):
            if log.is_file() and log.stat().st_size:
                break
            assert process.poll() is None, errors.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL if through_a_launcher else signal.SIGTERM)
        process.wait(timeout=600)
        drain.join(timeout=600)  # until the training has closed its output as well
        assert not drain.is_alive()
    finally:
        for pid in {process.pid, trains}:
            if psutil.pid_exists(pid) and process.poll() is None or pid != process.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    said = "stopped as its launcher was gone after step" if through_a_launcher else "stopped by SIGTERM after step"
    assert process.returncode == (-signal.SIGKILL if through_a_launcher else 143)
    assert errors.read_text().count(said) == 1 and "Traceback" not in errors.read_text()
    assert RunFolder(tmp_path / "run").newest_checkpoint() is not None


@pytest.fixture(scope="module")
def two_ranks() -> dict[str, dict]:
    script = Path(__file__).with_name("faults") / "quick_signals.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_two_ranks_stop_together_whoever_was_told_and_go_on_bitwise(two_ranks):
    trained = {name: cell for name, cell in two_ranks.items() if "problems" in cell}
    assert len(trained) == 3
    for name, cell in trained.items():
        assert cell["hung"] == 0 and cell["problems"] == [] and cell["differs"] == [], (name, cell)
        assert cell["exit_codes"][0] == cell["exit_codes"][1] > 128, (name, cell)


def test_two_ranks_that_do_not_train_yet_end_at_once(two_ranks):
    cell = two_ranks["SIGTERM in begin to both"]
    assert cell["exit_codes"] == [143, -signal.SIGTERM] and not cell["claimed"] and cell["differs"] == [], cell
