"""SLURM jobs whose time is up, again and again: the run ends as one that nothing stopped, to the bit.

python tests/faults/launchers.py --signals 3

Real submitit and real training (dropout, gloo for two processes) over the commands of tests/fakes/slurm.py: at a random
step the job gets SIGUSR1, as SLURM sends it before the limit; it saves, is queued again, and goes on. One job a sweep.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes import slurm
from tiny_runs import TINY_MODEL, write_recipe

STEPS, EVERY, PATIENCE_S = 400, 10, 600.0


def sweep(recipe: Path, runs: Path, *options: str) -> None:
    command = [sys.executable, "-m", "hf_tti", "sweep", str(recipe), "--runs-dir", str(runs), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def step_of(run: Path) -> int:
    """The last step that the run has logged."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return json.loads(whole[-1])["step"] if whole else 0


def wait_until(holds: Any, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"stuck: {what}")
        time.sleep(0.05)


def stopped_again_and_again(recipe: Path, folder: Path, processes: int, signals: int, draw: random.Random) -> dict:
    """One run as a SLURM job, told `signals` times that its time is up; and the same run left alone."""
    several = ("--num-processes", str(processes)) if processes > 1 else ()
    alone = ("--launcher", "accelerate", *several) if several else ()
    sweep(recipe, folder / "alone", *alone)
    queue = folder / "slurm"
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{slurm.install(queue)}{os.pathsep}{path}"
    try:
        sweep(recipe, folder / "jobs", "--launcher", "submitit", "--slurm", "time=240", *several)
        (job,) = slurm.jobs(queue)
        run = folder / "jobs" / "tiny_runs" / "tiny-seed7"
        steps = sorted(draw.sample(range(EVERY, STEPS - EVERY, EVERY), signals))
        for number, step in enumerate(steps, start=1):
            wait_until(lambda step=step: step_of(run) >= step or not running(queue, job), f"step {step} of {run}")
            subprocess.run(["scancel", job, "--signal", "USR1"], check=True)
            again = f"start {number + 1} of {run}"
            wait_until(lambda number=number: log_of(run).count("resuming from") >= number, again)
        wait_until(lambda: not running(queue, job), f"the end of job {job}")
    finally:
        os.environ["PATH"] = path
    reference = folder / "alone" / "tiny_runs" / "tiny-seed7"
    return {
        "processes": processes,
        "signals_at": steps,
        "stopped_by": re.findall(r"stopped by (\w+) after step", log_of(run)),
        "resumed_from": [int(step) for step in re.findall(r"resuming from \S*checkpoint-(\d+)", log_of(run))],
        "job": slurm.state(queue, job),
        "same_weights": weights(run) == weights(reference),
        "same_metrics": metrics(run) == metrics(reference),
    }


def running(queue: Path, job: str) -> bool:
    return slurm.state(queue, job) in ("PENDING", "RUNNING")


def log_of(run: Path) -> str:
    path = run / "log.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def weights(run: Path) -> bytes:
    return (run / "final" / "model.safetensors").read_bytes()


def metrics(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["metrics"]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--signals", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    good = True
    for processes in arguments.processes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ["HF_TTI_CACHE"] = str(folder / "cache")
            training = {"max_steps": STEPS, "logging_steps": EVERY, "save_steps": STEPS // 2, "eval_strategy": "no"}
            recipe = write_recipe(folder, training=training, model={**TINY_MODEL, "resid_pdrop": 0.1})
            draw = random.Random(arguments.seed)
            found = stopped_again_and_again(recipe, folder, processes, arguments.signals, draw)
        print(json.dumps(found))
        same = found["same_weights"] and found["same_metrics"]
        saved = all(step >= signal for step, signal in zip(found["resumed_from"], found["signals_at"], strict=True))
        good &= same and saved and found["job"] == "COMPLETED"
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
