"""Modal jobs whose containers are preempted, lost, crash or run out of time at random steps, and what comes out.

python tests/faults/preemption.py --trials 10 [--processes 2] [--no-pipeline]
The client and the container runtime are Modal's own, unmodified, against `fakes.modal`; W&B records offline.
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
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes.modal import FakeModal, fake_modal
from fakes.modal_faults import crash, lose, preempt, time_out
from fakes.modal_training import (
    OVERRIDES,
    RECIPE,
    ROOT,
    RUN,
    STEPS,
    differences,
    extra,
    put_data,
    reached,
    reference,
)

FAULTS = {"preempted": preempt, "lost": lose, "crashed": crash, "out of time": time_out}
WANDB = ["tracking.tracker=wandb", "tracking.project=preemption"]
_WANDB_FOLDER = re.compile(r"offline-run-\d+_\d+-(\w+)")


def modal_run(cloud: FakeModal, job: str, *options: str) -> subprocess.CompletedProcess:
    """`modal run`, unmodified."""
    return subprocess.run(
        [sys.executable, "-m", "modal", "run", f"modal_jobs/{job}.py", *options],
        cwd=ROOT,
        env={**os.environ, **cloud.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def trial(base: Path, expected: Path, draw: random.Random, processes: int) -> dict[str, Any]:
    """One training with one to three faults at random steps."""
    kinds = [draw.choice(list(FAULTS)) for _ in range(draw.randint(1, 3))]
    steps = sorted(draw.randint(1, STEPS - 10) for _ in kinds)
    records: list[str] = []
    base.mkdir()
    with fake_modal(base) as cloud:
        put_data(cloud, expected.parent)
        cloud.faults = [FAULTS[kind](reached(cloud, at, records)) for kind, at in zip(kinds, steps, strict=True)]
        batch = [f"training.per_device_train_batch_size={4 // processes}"] if processes > 1 else []
        options = ("--gpu", "cpu", "--num-gpus", str(processes), "--extra", extra(*WANDB, *batch))
        done = modal_run(cloud, "train", "--recipe", RECIPE, *options)
        run = cloud.volume("tti-checkpoints").committed / RUN
        tracked = {_WANDB_FOLDER.fullmatch(path.name)[1] for path in (run / "wandb").glob("offline-run-*")}
        ids = {json.loads(record)["tracker_run_id"] for record in records} | tracked
        return {
            "faults": list(zip(kinds, steps, strict=True)),
            "attempts": cloud.calls[0].attempts if cloud.calls else [],
            "exit_code": done.returncode,
            "ids": len(ids),
            "differs": differences(run, expected)
            if done.returncode == 0
            else [done.stderr.strip(), cloud.log()[-500:]],
        }


def pipeline(base: Path) -> dict[str, Any]:
    """All jobs, one after the other, on one cloud: exit codes, and the page that comes home."""
    base.mkdir()
    found: dict[str, Any] = {}
    with fake_modal(base) as cloud:
        data = [part for override in OVERRIDES[:4] for part in ("--set", override)]
        found["data"] = modal_run(cloud, "data", "--recipe", RECIPE, *data).returncode
        options = ("--gpu", "cpu", "--extra", extra())
        recipes = (RECIPE, "recipes/quickstart/decorrelation.yaml")
        found["sweep"] = modal_run(cloud, "sweep", "--recipes", *recipes, *options, "--yes").returncode
        again = modal_run(cloud, "sweep", "--recipes", *recipes, *options, "--yes")
        found["sweep again"] = [again.returncode, again.stdout.strip().splitlines()[-1]]
        options = ("--gpu", "cpu", "--extra", "--sample-tokens 512 --metric-batches 2")
        found["evaluate"] = modal_run(cloud, "evaluate", "--run", "quickstart", *options).returncode
        page = base / "page"
        done = modal_run(cloud, "report", "--runs", "quickstart", "--out", str(page))
        found["report"] = done.returncode
        found["page_bytes"] = (page / "index.html").stat().st_size if done.returncode == 0 else cloud.log()[-800:]
        found["calls"] = dict(Counter(status for call in cloud.calls for status in call.attempts))
    return found


def measure(trials: int, seed: int, processes: int) -> dict[str, Any]:
    """The figures of all trials."""
    draw, begun, results = random.Random(seed), time.monotonic(), []
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        launcher, batch = (), ()
        if processes > 1:
            config = ("--config_file", "recipes/accelerate/cpu.yaml", "--num_processes", str(processes))
            launcher = ("accelerate.commands.launch", *config, "-m")
            batch = (f"training.per_device_train_batch_size={4 // processes}",)
        expected = reference(base, launcher=launcher, overrides=batch)
        for number in range(trials):
            results.append(trial(base / f"trial-{number}", expected, draw, processes))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return {
        "trials": trials,
        "processes": processes,
        "attempts": dict(Counter(status for result in results for status in result["attempts"])),
        "bitwise_equal": sum(result["differs"] == [] for result in results),
        "one_run_id": sum(result["ids"] == 1 for result in results),
        "exit_codes": dict(Counter(result["exit_code"] for result in results)),
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--no-pipeline", action="store_true")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")
    figures = measure(options.trials, options.seed, options.processes)
    holds = figures["bitwise_equal"] == figures["one_run_id"] == options.trials
    if not options.no_pipeline:
        with tempfile.TemporaryDirectory() as temporary:
            jobs = figures["pipeline"] = pipeline(Path(temporary) / "cloud")
        holds = holds and all(jobs[name] == 0 for name in ("data", "sweep", "evaluate", "report"))
    print(json.dumps(figures, indent=1))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
