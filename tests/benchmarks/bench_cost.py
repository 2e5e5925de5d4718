"""What a measurement predicts against what training then takes, on this machine.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_cost.py [--recipes baseline --max-steps 60 --repeats 2 --clock wall]

Recipes of recipes/quickstart with fewer steps, two evaluations and two checkpoints. Prediction (`hf_tti.cost.timing`,
as `hf-tti cost --measure`) and training (`train_run`, as `hf-tti train`) run one after the other, each in a process of
its own. `--clock wall`: seconds that pass. `--clock cpu`, the default: seconds of the process, which other processes
disturb less; with one thread they are what would pass on a quiet machine. The data is prepared before the first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

RECIPES = Path(__file__).parents[2] / "recipes" / "quickstart"
CLOCKS = {"cpu": time.process_time, "wall": time.monotonic}


def shortened(name: str, max_steps: int):
    from hf_tti.recipe import expand_sweep, load_recipe

    changes = {"max_steps": max_steps, "eval_steps": max_steps // 2, "save_steps": max_steps // 2}
    return expand_sweep(load_recipe(RECIPES / f"{name}.yaml", [f"training.{k}={v}" for k, v in changes.items()]))[0]


def prepare(name: str) -> None:
    from hf_tti.data import DataConfig, prepare_data

    prepare_data(DataConfig(**shortened(name, 2).data), progress=False)


def predict(name: str, max_steps: int, timed: int, clock: str) -> float:
    """Seconds that the run will take."""
    from hf_tti.cost import schedule_of
    from hf_tti.cost.timing import measure, num_checkpoints_of

    recipe = shortened(name, max_steps)
    measured = measure(recipe, num_steps=timed, clock=CLOCKS[clock])
    return measured.wall(schedule_of(recipe), num_checkpoints_of(recipe.training, max_steps))


def train(name: str, max_steps: int, clock: str) -> float:
    """Seconds that the run took."""
    from hf_tti.run import train_run

    recipe = shortened(name, max_steps)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        started = CLOCKS[clock]()
        train_run(recipe, Path(folder) / "run")
        return CLOCKS[clock]() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipes", nargs="+", default=["baseline", "decorrelation", "token_entropy"])
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--timed", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ratios: list[float] = []
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as children:
        for name in arguments.recipes:
            children.submit(prepare, name).result()
        print(f"{'recipe':16} repeat  predicted s  taken s  predicted / taken  load")
        for repeat in range(arguments.repeats):
            for name in arguments.recipes:
                what = (name, arguments.max_steps)
                predicted = children.submit(predict, *what, arguments.timed, arguments.clock).result()
                taken = children.submit(train, *what, arguments.clock).result()
                ratios.append(predicted / taken)
                cells = f"{predicted:11.1f}  {taken:7.1f}  {ratios[-1]:17.2f}  {os.getloadavg()[1]:4.1f}"
                print(f"{name:16} {repeat:6}  {cells}", flush=True)
    within = sum(0.7 <= ratio <= 1.3 for ratio in ratios)
    median = statistics.median(ratios)
    print(f"within 30 %: {within} of {len(ratios)}; ratios {min(ratios):.2f} to {max(ratios):.2f}, median {median:.2f}")


if __name__ == "__main__":
    main()
