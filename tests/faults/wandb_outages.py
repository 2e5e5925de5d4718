"""W&B goes away at the start, in the middle or at the end of a resumed run: what becomes of the run, and of its curves.

    wandb_outages.py [--kinds refused,503,…] [--moments start,middle,end] [--trainer stock]

The client is the real one, the server `tests/fakes/wandb.py`. A run of ten steps is interrupted at the fifth while all
is well, then resumed and finished with the fault. What the run says has to be uploaded is then uploaded by the real
`wandb sync`, and every step has to be at the server, in one run. `stock` is transformers' own Trainer with
`report_to="wandb"`, killed after LIMIT_S. Figures as JSON lines, then a summary.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import children
import training

import hf_tti.run  # noqa: F401  once, before children are forked
from fakes.wandb import STALL, FakeWandb, fake_wandb
from hf_tti.cli import main
from hf_tti.trainer import InterpTrainer
from tiny_runs import write_recipe
from tracker_files import files_with, read_wandb

STEPS, INTERRUPTED_AT, BROKEN_AT = 10, 5, 7
KINDS = ("none", "refused", "503", "stall", "401", "429", "client killed")
MOMENTS = ("start", "middle", "end")
LIMIT_S = 150
_FAULTS = {"503": 503, "stall": STALL, "401": 401, "429": 429}


def break_(server: FakeWandb, kind: str) -> None:
    """From now on the server, or the client's service, is what `kind` says."""
    if kind == "refused":
        server.refuse()
    elif kind == "client killed":
        listed = subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True, text=True)
        for pid in listed.stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    elif kind != "none":
        server.fault = lambda request: _FAULTS[kind]


def interrupt(folder: Path) -> None:
    """In a child: a run that is interrupted while all is well; leaves what the server knows."""
    with fake_wandb() as server:
        os.environ.update(server.environment)
        with contextlib.suppress(KeyboardInterrupt), at_step(INTERRUPTED_AT, _interrupt):
            main(_command(folder))
        _teardown()
        (folder / "server").write_bytes(pickle.dumps(server.runs))


def resume(kind: str, moment: str, folder: Path) -> None:
    """In another child: resumed with the fault, uploaded; leaves the figures."""
    run = folder / "run"
    with fake_wandb() as server:
        server.runs = pickle.loads((folder / "server").read_bytes())
        os.environ.update(server.environment)
        figures, said = _with_fault(server, kind, moment, _command(folder))
        known, key = server.runs, server.environment["WANDB_API_KEY"].encode()
    recorded = read_wandb(run)
    ids, kept = {entry[0] for entry in recorded.runs}, json.loads((run / "run.json").read_text())["tracker_run_id"]
    figures |= {
        "one_id": ids == {kept} == set(known) and len(known) == 1,
        "steps_on_disk": len(recorded.curves["train/loss"]),
        "files_with_secrets": len(files_with(run, [key])),
        "finished": (run / "result.json").is_file(),
    }
    (said,) = [line.split("upload it: ")[1] for line in said.splitlines() if "upload it: " in line] or [""]
    commands = [shlex.split(command) for command in said.split("; ") if command]
    figures["to_upload"] = [Path(command[-1]).name for command in commands]
    with fake_wandb() as server:
        server.runs = known
        for command in commands:
            environment = {**os.environ, **server.environment}
            subprocess.run([sys.executable, "-m", *command], env=environment, cwd=folder, capture_output=True)
    steps = [row["train/global_step"] for at in known.values() for row in at.history if "train/loss" in row]
    figures |= {"steps_at_server": len(set(steps)), "rows_at_server": len(steps)}
    training.leave(figures, folder)


def _command(folder: Path) -> list[str]:
    return ["train", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run"), "--resume"]


def _with_fault(server: FakeWandb, kind: str, moment: str, arguments: list[str]) -> tuple[dict[str, Any], str]:
    from hf_tti.tracking.wandb_run import WandbRun

    figures: dict[str, Any] = {}
    with contextlib.ExitStack() as patches:
        patches.enter_context(timed(WandbRun, "_open", figures, "start_s"))
        patches.enter_context(timed(WandbRun, "close", figures, "end_s"))
        if moment == "start":
            break_(server, kind)
        elif moment == "middle":
            patches.enter_context(at_step(BROKEN_AT, lambda: break_(server, kind)))
        else:
            patches.enter_context(before(WandbRun, "close", lambda: break_(server, kind)))
        stderr = patches.enter_context(contextlib.redirect_stderr(io.StringIO()))
        figures["exit_code"] = main(arguments)
    begun = time.monotonic()
    _teardown()
    figures["exit_s"] = round(time.monotonic() - begun, 1)
    return figures, stderr.getvalue()


def _teardown() -> None:
    """What the client does when the process exits."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def before(owner: type, name: str, action: Callable[[], Any]):
    """Does something first whenever a method is called."""
    stock = getattr(owner, name)

    def method(*arguments: Any, **options: Any) -> Any:
        action()
        return stock(*arguments, **options)

    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, stock)


@contextlib.contextmanager
def timed(owner: type, name: str, figures: dict[str, Any], key: str):
    """Notes the seconds of a method's call."""
    stock = getattr(owner, name)

    def method(*arguments: Any, **options: Any) -> Any:
        begun = time.monotonic()
        try:
            return stock(*arguments, **options)
        finally:
            figures[key] = round(time.monotonic() - begun, 1)

    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, stock)


@contextlib.contextmanager
def at_step(step: int, action: Callable[[], Any], owner: type = InterpTrainer):
    """Does something once, before the forward pass of the step after `step`."""
    stock, done = owner.training_step, []

    def training_step(self, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step and not done:
            done.append(True)
            action()
        return stock(self, *arguments, **options)

    owner.training_step = training_step
    try:
        yield
    finally:
        owner.training_step = stock


def train_stock(kind: str, moment: str, folder: Path) -> None:
    """In a child: transformers' Trainer with its own W&B callback, from the start, with the fault."""
    from transformers import Trainer

    with fake_wandb() as server:
        os.environ.update({**server.environment, "WANDB_DIR": str(folder)})
        figures: dict[str, Any] = {"trained": False}
        begun = time.monotonic()

        def note() -> None:
            training.leave({**figures, "seconds": round(time.monotonic() - begun, 1)}, folder)

        if moment == "start":
            break_(server, kind)
        with contextlib.ExitStack() as patches:
            if moment == "middle":
                patches.enter_context(at_step(BROKEN_AT, lambda: break_(server, kind), Trainer))
            trainer = training.build("stock", folder / "run", report_to="wandb", max_steps=STEPS)
            trainer.train()
        figures["trained"] = True
        if moment == "end":
            break_(server, kind)
        note()
        _teardown()
        figures["ended"] = True
        note()


def measure(trainer: str = "hf_tti", kinds=KINDS, moments=MOMENTS) -> list[dict[str, Any]]:
    """A dictionary of figures for each kind and moment."""
    cells = [(kind, moment) for kind in kinds for moment in moments if (kind, moment) != ("client killed", "start")]
    found = []
    for kind, moment in cells:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            os.environ.update({"HF_TTI_CACHE": str(folder / "cache"), "HOME": str(folder)})
            write_recipe(folder, tracking={"tracker": "wandb"}, training={"max_steps": STEPS, "save_steps": 1})
            if trainer == "hf_tti":
                children.run(functools.partial(interrupt, folder), folder / "log")
            work = train_stock if trainer == "stock" else resume
            pid = children.start(functools.partial(work, kind, moment, folder), folder / "log")
            code = children.wait(pid, seconds=LIMIT_S)
            if code is None:
                children.kill(pid)
            facts = training.outcome_of(folder) or {"log": children.last_line(folder / "log")}
            found.append({"fault": kind, "moment": moment, **facts, "child": code})
            print(json.dumps(found[-1]), flush=True)
    return found


def is_right(cell: dict[str, Any]) -> bool:
    """The run completed under one id, no step is lost, and nothing was held up for long."""
    return (
        cell.get("exit_code") == 0
        and cell["finished"]
        and cell["one_id"]
        and cell["steps_on_disk"] == cell["steps_at_server"] == STEPS
        and cell["files_with_secrets"] == 0
        and cell["start_s"] <= 30
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--moments", default=",".join(MOMENTS))
    parser.add_argument("--trainer", choices=("hf_tti", "stock"), default="hf_tti")
    given = parser.parse_args()
    cells = measure(given.trainer, given.kinds.split(","), given.moments.split(","))
    if given.trainer == "hf_tti":
        longest = {key: max(cell.get(key, 0) for cell in cells) for key in ("start_s", "end_s", "exit_s")}
        print(json.dumps({"cells": len(cells), "right": sum(map(is_right, cells)), **longest}))
