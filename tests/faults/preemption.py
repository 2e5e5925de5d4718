"""Modal jobs whose containers are preempted, lost, crash or run out of time at random steps, and what comes out.

python tests/faults/preemption.py --trials 10 [--processes 2] [--no-pipeline] [--elastic]
The client and the container runtime are Modal's own, unmodified, against `fakes.modal`; W&B records offline. With
`--elastic` alone: runs that are preempted, run out of attempts and go on with another number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes.modal import FakeModal, fake_modal
from fakes.modal_faults import crash, lose, preempt, time_out
from fakes.modal_training import (
    HOLDING,
    OVERRIDES,
    RECIPE,
    ROOT,
    RUN,
    STEPS,
    differences,
    extra,
    noting,
    put_data,
    reference,
)
from hf_tti.checkpoints import MANIFEST

FAULTS = {"preempted": preempt, "lost": lose, "crashed": crash, "out of time": time_out}
GLOBAL_BATCH = 16  # of the recipe
COMPARABLE = [
    "model.resid_pdrop=0.0",
    "data.max_tokens=24000",
]  # dropout draws by process; an epoch's last batch is padded
CLOSE = 1e-5
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
        cloud.faults = [FAULTS[kind](at, noting(cloud, records)) for kind, at in zip(kinds, steps, strict=True)]
        batch = [f"training.per_device_train_batch_size={4 // processes}"] if processes > 1 else []
        options = ("--gpu", "cpu", "--num-gpus", str(processes), "--extra", extra(HOLDING, *WANDB, *batch))
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


def elastic(base: Path, first: int, then: int) -> dict[str, Any]:
    """A training with `first` processes that is preempted, out of time and out of retries, and goes on with `then`.

    The batch is the recipe's, which the job divides. Both differences are relative and to the training with `first`
    processes that nothing interrupts: the largest of a logged loss after the change, and that of the final evaluation.
    """
    base.mkdir()
    training = [override for override in OVERRIDES if not override.startswith("training.per_device")]
    training += [*COMPARABLE, HOLDING, *WANDB]
    extra_of = shlex.join(part for override in training for part in ("--set", override))
    divided = f"training.per_device_train_batch_size={GLOBAL_BATCH // first}"
    expected = reference(base, launcher=launcher_of(first), overrides=[*COMPARABLE, divided])
    records: list[str] = []
    with fake_modal(base) as cloud:
        put_data(cloud, base)
        cloud.faults = [preempt(7, noting(cloud, records)), time_out(17, until_committed(cloud, 15))]

        def train(processes: int, *more: str) -> subprocess.CompletedProcess:
            options = ("--gpu", "cpu", "--num-gpus", str(processes), "--retries", "0")
            return modal_run(cloud, "train", "--recipe", RECIPE, *options, "--extra", " ".join([*more, extra_of]))

        begun, refused = train(first), train(then)
        calls, gone_on = len(cloud.calls), train(then, "--elastic")
        run = cloud.volume("tti-checkpoints").committed / RUN
        records.append((run / "run.json").read_text())
        ids = {json.loads(text)["tracker_run_id"] for text in records}
        ids |= {_WANDB_FOLDER.fullmatch(path.name)[1] for path in (run / "wandb").glob("offline-run-*")}
        found = {
            "processes": [first, then],
            "attempts": [call.attempts for call in cloud.calls],
            "exit_codes": [done.returncode for done in (begun, refused, gone_on)],
            "refused": refused.stderr.splitlines(),
            "calls_when_refused": calls,
            "resumed_from": re.findall(r"resuming from \S+/(checkpoint-\d+)", "".join(map(Path.read_text, cloud.logs))),
            "ids": len(
                ids | {json.loads(text)["tracker_run_id"] for text in [*records, (run / "run.json").read_text()]}
            ),
        }
    if gone_on.returncode:
        return found | {"said": [gone_on.stdout[-500:], gone_on.stderr[-500:], cloud.log()[-1500:]]}
    was, now = losses(expected), losses(run)
    evaluated = [json.loads((of / "result.json").read_text())["metrics"]["eval_loss"] for of in (expected, run)]
    return found | {
        "steps": sorted(now) == sorted(was) == list(range(1, STEPS + 1)),
        "losses": max(abs(now[step] / was[step] - 1) for step in was if step > 15),
        "eval_loss": abs(evaluated[1] / evaluated[0] - 1),
    }


def until_committed(cloud: FakeModal, step: int) -> Callable[[], None]:
    """For a fault's `look`: waits until this step's checkpoint will survive."""
    manifest = cloud.volume("tti-checkpoints").committed / RUN / f"checkpoint-{step}" / MANIFEST

    def look() -> None:
        end = time.monotonic() + 50  # the training holds for a minute
        while not manifest.exists() and time.monotonic() < end:
            time.sleep(0.02)

    return look


def losses(run: Path) -> dict[int, float]:
    """Step -> logged loss."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def launcher_of(processes: int) -> tuple[str, ...]:
    """What stands between `python -m` and `hf_tti`."""
    config = ("--config_file", "recipes/accelerate/cpu.yaml", "--num_processes", str(processes))
    return ("accelerate.commands.launch", *config, "-m") if processes > 1 else ()


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
        batch = (f"training.per_device_train_batch_size={4 // processes}",) if processes > 1 else ()
        expected = reference(base, launcher=launcher_of(processes), overrides=batch)
        for number in range(trials):
            results.append(trial(base / f"trial-{number}", expected, draw, processes))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return {
        "trials": trials,
        "processes": processes,
        "attempts": dict(Counter(status for result in results for status in result["attempts"])),
        "bitwise_equal": sum(result["differs"] == [] for result in results),
        "all_faults_came": sum(len(result["attempts"]) == len(result["faults"]) + 1 for result in results),
        "one_run_id": sum(result["ids"] == 1 for result in results),
        "exit_codes": dict(Counter(result["exit_code"] for result in results)),
        "seconds": round(time.monotonic() - begun, 1),
    }


def show_elastic() -> int:
    """Prints the figures of both directions; 0 where they hold."""
    with tempfile.TemporaryDirectory() as temporary:
        found = [elastic(Path(temporary, f"{first}-{then}"), first, then) for first, then in ((2, 1), (1, 2))]
    print(json.dumps(found, indent=1))
    holds = all(
        figures["exit_codes"] == [1, 2, 0]
        and figures["attempts"] == [["preempted", "failure"], ["success"]]
        and (len(figures["refused"]), figures["calls_when_refused"], figures["ids"]) == (1, 1, 1)
        and figures["resumed_from"] == ["checkpoint-7", "checkpoint-15"]
        and figures["steps"]
        and max(figures["losses"], figures["eval_loss"]) < CLOSE
        for figures in found
    )
    return 0 if holds else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--no-pipeline", action="store_true")
    parser.add_argument("--elastic", action="store_true")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1")
    if options.elastic:
        return show_elastic()
    figures = measure(options.trials, options.seed, options.processes)
    holds = all(figures[name] == options.trials for name in ("bitwise_equal", "all_faults_came", "one_run_id"))
    if not options.no_pipeline:
        with tempfile.TemporaryDirectory() as temporary:
            jobs = figures["pipeline"] = pipeline(Path(temporary) / "cloud")
        holds = holds and all(jobs[name] == 0 for name in ("data", "sweep", "evaluate", "report"))
    print(json.dumps(figures, indent=1))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
