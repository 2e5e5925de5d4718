"""SIGTERM, SIGINT and SIGUSR1 to the launcher, a rank or every process of a training, in a step, an evaluation, a save.

    python tests/faults/signals.py [--worlds 1 2] [--launchers none hf-tti accelerate torchrun] [--only TEXT ...]
Each cell is a real `hf-tti train`, alone or with --num-processes (`hf-tti`), `accelerate launch` or `torchrun`, of a
recipe with dropout, on CPU (gloo). It holds if within 20 s every process is gone, a checkpoint of the step verifies,
and the training resumed by as many processes is bitwise one that nothing stopped: weights, optimizer, schedule,
generators, ledger, stories and result. `hf-tti` is held to its exit code, 128 + the signal, and one line as well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a tokenizer says in its files whether it was
sys.path.insert(0, str(Path(__file__).parent))

from children import start, wait
from ranks import as_rank, free_port
from training import digest

from hf_tti.checkpoints import checkpoints_of, problems_of
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from tiny_runs import write_recipe

FAULTS = Path(__file__).parent
LIMIT_S = 20  # for a stop
PATIENCE_S = 60  # before a process counts as hung
SETTLE_S = 0.3  # for a signal to travel, while the ranks stay where they are
STEPS = 6
ONE_PROCESS = "{compute_environment: LOCAL_MACHINE, distributed_type: 'NO', num_machines: 1, use_cpu: true}"
PLACES = {"step": "step:2", "evaluation": "evaluation:2", "save": "save:4"}  # place:steps done
STOPPED_AT = {"step": 3, "evaluation": 2, "save": 5}
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
TARGETS = ("launcher", "rank", "group")
LAUNCHERS = ("none", "hf-tti", "accelerate", "torchrun")
TRAINING = {
    "max_steps": STEPS,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 2,
    "eval_steps": 2,
    "save_steps": 4,
    "use_cpu": True,
}


@dataclass(frozen=True)
class Cell:
    """One training that is stopped once."""

    launcher: str  # of LAUNCHERS
    world: int
    place: str
    target: str
    signal: str

    def __str__(self) -> str:
        return f"{self.launcher} x{self.world}: {self.signal} to {self.target} in {self.place}"


@dataclass
class Job:
    """A started training: the process that was started, and the folder where its ranks announce themselves."""

    process: subprocess.Popen
    places: Path
    log: Path
    pids: set[int] = field(default_factory=set)

    def rank(self, number: int) -> int:
        return int((self.places / f"pid.{number}").read_text())


def command(launcher: str, world: int, program: list[str]) -> list[str]:
    """argv of a program (`-m hf_tti train ...`) under a launcher, as README and recipes/accelerate say it."""
    if launcher == "none":
        return [sys.executable, *program]
    if launcher == "hf-tti":
        one = ["--accelerate-config", "one.yaml"] if world == 1 else []  # else it would train in this very process
        return [sys.executable, *program, "--num-processes", str(world), *one]
    if launcher == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", *program]
    config = FAULTS.parents[1] / "recipes" / "accelerate" / "cpu.yaml"
    several = ["--config_file", str(config), "--main_process_port", "0"] if world > 1 else ["--cpu"]
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    return [*accelerate, *several, "--num_processes", str(world), *program]


def begin(base: Path, run_dir: Path, launcher: str, world: int, wanted: str | None = None, *more: str) -> Job:
    """Start a training of the recipe; its ranks wait at the place `wanted`."""
    program = ["-m", "hf_tti", "train", str(base / "tiny.yaml"), "--run-dir", str(run_dir), *more]
    return begin_program(base, run_dir, launcher, world, program, wanted)


def begin_program(
    base: Path, run_dir: Path, launcher: str, world: int, program: list[str], wanted: str | None = None
) -> Job:
    """Start a program in a session of its own."""
    (base / "one.yaml").write_text(ONE_PROCESS)
    places = base / f"{run_dir.name}.places{'' if wanted else '.resumed'}"
    places.mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PLACES", "ACCELERATE"))},
        "PYTHONPATH": os.pathsep.join((str(FAULTS.parents[1]), str(FAULTS))),
        "HF_TTI_CACHE": str(base / "cache"),
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PLACES_FOLDER": str(places),
        "PLACES_WANTED": wanted or "nowhere",
    }
    log = base / f"{run_dir.name}.log"
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command(launcher, world, program),
            env=environment,
            cwd=base,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Job(process, places, log, {process.pid})


def wait_for(job: Job, names: list[str], patience: float = 4 * PATIENCE_S) -> None:
    """Until the ranks have written these files."""
    end = time.monotonic() + patience
    while not all((job.places / name).exists() for name in names):
        if job.process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"{names} not reached, exit code {job.process.poll()}: {job.log.read_text()[-2000:]}")
        time.sleep(0.02)


def send(job: Job, cell: Cell) -> None:
    """The cell's signal; to a group as Slurm and container runtimes do, to every process of the job."""
    number = signal.Signals[cell.signal]
    ranks = [job.rank(rank) for rank in range(cell.world)]
    job.pids.update(ranks)
    if cell.target == "group":
        for group in {os.getpgid(pid) for pid in job.pids}:
            os.killpg(group, number)
    else:
        os.kill(job.process.pid if cell.target == "launcher" else ranks[-1], number)


def gone(pid: int) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(job: Job) -> float | None:
    """Seconds until every process has ended; None after ending by force those that had not."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE_S:
        job.process.poll()
        if all(gone(pid) for pid in job.pids):
            job.process.wait()
            return time.monotonic() - begun
        time.sleep(0.01)
    for pid in job.pids:
        if not gone(pid):
            os.kill(pid, signal.SIGKILL)
    job.process.wait()
    return None


def outcome(run_dir: Path) -> dict[str, Any]:
    """Digests and ledgers of all that a finished run leaves."""
    last = run_dir / f"checkpoint-{STEPS}"
    names = sorted({path.name for path in last.glob("*.safetensors")} | {"config.json"})
    lines = [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run_dir / "result.json").read_text())
    return {
        "final": digest({path.name: path.read_bytes() for path in (run_dir / "final").iterdir()}),
        **{name: digest((last / name).read_bytes()) for name in names},
        "metrics.jsonl": [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines],
        "result.json": {k: v for k, v in result.items() if k not in ("resumed_from", "wall_seconds")},
        "stories.txt": (run_dir / "stories.txt").read_text(),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def stop(base: Path, run_dir: Path, cell: Cell) -> dict[str, Any]:
    """Start the cell's training, stop it at its place, and say what happened."""
    job = begin(base, run_dir, cell.launcher, cell.world, PLACES[cell.place])
    waiting = range(1 if cell.place == "save" else cell.world)  # the other rank is at a barrier
    wait_for(job, [f"at.{rank}" for rank in waiting] + [f"pid.{rank}" for rank in range(cell.world)])
    begun = time.monotonic()
    send(job, cell)
    if cell.launcher == "accelerate" and cell.world == 1 and cell.target != "rank":
        job.process.wait(timeout=PATIENCE_S)  # it passes nothing on; that it is gone is what the rank sees
    time.sleep(SETTLE_S)
    (job.places / "go").touch()
    seconds = wait_until_gone(job)
    said = job.log.read_text()
    return {
        "seconds": None if seconds is None else round(time.monotonic() - begun, 2),
        "exit_code": job.process.returncode,
        "said": sum("stopped" in line or "was ended by" in line for line in said.splitlines()),
        "tracebacks": said.count("Traceback (most recent call last)"),
        "checkpoints": {path.name: problems_of(path) for path in checkpoints_of(run_dir)},
    }


def resume(base: Path, run_dir: Path, cell: Cell) -> int:
    """The exit code of the same command with --resume."""
    job = begin(base, run_dir, cell.launcher, cell.world, None, "--resume")
    job.process.wait(timeout=10 * PATIENCE_S)
    return job.process.returncode


def finish(base: Path, run_dir: Path, world: int) -> int:
    """Begin or resume by forked ranks, which have imported everything; their highest exit code."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ["HF_TTI_CACHE"] = str(base / "cache")
        as_rank(rank, world, port)
        train_run(expand_sweep(load_recipe(base / "tiny.yaml"))[0], run_dir, resume=True)

    log = base / f"{run_dir.name}.forked.log"
    pids = [start(lambda rank=rank: work(rank), log) for rank in range(world)]
    return max(wait(pid) for pid in pids)


def measure_cell(base: Path, cell: Cell, expected: dict[str, Any], same_launcher: bool) -> dict[str, Any]:
    """Stop, resume, compare."""
    run_dir = base / str(cell).replace(": ", "-").replace(" ", "-")
    found = stop(base, run_dir, cell)
    found["resumed"] = resume(base, run_dir, cell) if same_launcher else finish(base, run_dir, cell.world)
    found["differs"] = differences(expected, outcome(run_dir)) if found["resumed"] == 0 else None
    number = signal.Signals[cell.signal]
    dies = number == signal.SIGKILL  # the launcher, or a rank, after which there is no agreement and no checkpoint
    code = -number if dies and cell.target == "launcher" else 128 + number
    found["clean"] = found["exit_code"] == code and not found["tracebacks"]
    saved = dies and cell.target == "rank" or found["checkpoints"].get(f"checkpoint-{STOPPED_AT[cell.place]}") == []
    found["holds"] = (
        found["said"] == 1
        and found["seconds"] is not None
        and found["seconds"] <= LIMIT_S
        and (found["clean"] if cell.launcher == "hf-tti" else found["exit_code"] != 0)
        and saved
        and found["differs"] == []
    )
    return found


def cells(worlds: list[int], launchers: list[str]) -> Iterator[Cell]:
    """The matrix; without a launcher there is one process, the rank."""
    for world in worlds:
        for launcher in launchers if world == 1 else [name for name in launchers if name != "none"]:
            for name in SIGNALS:
                for place in PLACES:
                    for target in ("rank",) if launcher == "none" else TARGETS:
                        yield Cell(launcher, world, place, target, name)
            if launcher == "hf-tti":
                yield from (Cell(launcher, world, place, of, "SIGKILL") for place in PLACES for of in TARGETS[:2])


def reference(base: Path, world: int) -> dict[str, Any]:
    """What a training that nothing stops leaves."""
    run_dir = base / f"reference-{world}"
    if finish(base, run_dir, world):
        raise SystemExit(f"the uninterrupted training failed: {run_dir.with_name(run_dir.name + '.forked.log')}")
    return outcome(run_dir)


def measure(
    worlds: list[int], launchers: list[str], only: Sequence[str] = ("",), same_launcher: bool = False
) -> dict[str, Any]:
    """The figures of the cells whose name has one of `only` in it."""
    figures: dict[str, Any] = {"cells": 0, "hold": 0, "slowest_s": 0.0, "failed": {}}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        write_recipe(base, training=TRAINING, callbacks={"places:Announce": {}})
        expected = {world: reference(base, world) for world in worlds}
        for cell in cells(worlds, launchers):
            if not any(text in str(cell) for text in only):
                continue
            found = measure_cell(base, cell, expected[cell.world], same_launcher)
            figures["cells"] += 1
            figures["hold"] += found["holds"]
            figures["slowest_s"] = max(figures["slowest_s"], found["seconds"] or PATIENCE_S)
            print(cell, json.dumps(found), file=sys.stderr, flush=True)
            if not found["holds"]:
                figures["failed"][str(cell)] = found
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--launchers", nargs="+", default=["none", "accelerate"], choices=LAUNCHERS)
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="cells whose name has one of them")
    parser.add_argument("--same-launcher", action="store_true", help="resume by the launcher, not by forks: slower")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell may have it ignored
    found = measure(options.worlds, options.launchers, options.only, options.same_launcher)
    print(json.dumps(found, indent=1))
    sys.exit(0 if found["hold"] == found["cells"] else 1)
