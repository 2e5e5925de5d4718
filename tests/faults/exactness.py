"""One optimizer step is one function of the global batch: world size 1, 2, 4 x accumulation 1, 2, 4, every objective.

Ranks are forked gloo processes; each cell is a real training (SGD, so that weights are gradients) on ragged rows in
float32 and in float64, the latter held against a loop by hand that knows neither ranks nor a Trainer. Then every cell's
checkpoint is resumed by every other: refused, and with `elastic_resume` gone on with.

python tests/faults/exactness.py [--only token_entropy MeanSquare] [--no-resume]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
from children import start, wait
from exactness_cells import (
    DTYPES,
    GLOBAL_BATCH,
    WEIGHT,
    Listening,
    MeanSquare,
    cases,
    run_by_hand,
    run_cell,
    trainer_of,
)
from safetensors.torch import load_file
from torch import Tensor

from hf_tti import InterpTrainer, Objective
from hf_tti.checkpoints import checkpoints_of
from hf_tti.components import load_component
from hf_tti.errors import UserError
from tiny import without_dropout

WORLDS = ACCUMULATIONS = (1, 2, 4)
RESUMED_AT, RESUME_STEPS = 2, 5
BOUNDS = {  # of each column; a float64 training still takes its cross-entropy and its factors in float32
    "float32": {"token_sum": {"gradient": 2e-6, "weights": 2e-5}, "statistic": {"gradient": 2e-5}},
    "float64": {"gradient": 1e-8, "weights": 1e-7, "factor": 1e-8, "evaluation": 1e-8},
}
EVALUATION = 1e-5
RESUMED_LOSSES = 1e-6


# ---- Ranks -----------------------------------------------------------------------------------------------------------


def together(world: int, base: Path, work: Callable[[], None]) -> None:
    """`work` on so many forked ranks; raises SystemExit where one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def rank_works(rank: int) -> None:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        ranks = {"WORLD_SIZE": str(world), "RANK": str(rank), "LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
        os.environ.update(address | ranks)
        if world > 1:
            dist.init_process_group("gloo", timeout=timedelta(minutes=5))
        work()
        if world > 1:
            dist.barrier()

    logs = [base / f"world{world}.{rank}.log" for rank in range(world)]
    pids = [start(lambda rank=rank: rank_works(rank), logs[rank]) for rank in range(world)]
    codes = [wait(pid) for pid in pids]
    if any(codes):
        wrong = next(log for log, code in zip(logs, codes, strict=True) if code)
        raise SystemExit(f"world size {world}: exit codes {codes}; {wrong.read_text()[-1500:]}")


def train_cells(base: Path, chosen: Mapping[str, Objective]) -> None:
    """Every cell, and the loop by hand."""
    for world in WORLDS:
        folder = base / f"world{world}"
        folder.mkdir()
        every = list(product(chosen.items(), ACCUMULATIONS, DTYPES))

        def work(folder=folder, every=every) -> None:
            for (name, objective), accumulation, dtype in every:
                run_cell(folder, name, objective, accumulation, dtype)

        together(world, base, work)

    (base / "by_hand").mkdir()

    def by_hand() -> None:
        for (name, objective), accumulation in product(chosen.items(), ACCUMULATIONS):
            steps = json.loads((base / "world1" / f"{name}.1.float64.json").read_text())["rows"]
            run_by_hand(base / "by_hand", name, objective, accumulation, steps)

    together(1, base, by_hand)


# ---- What is compared ------------------------------------------------------------------------------------------------


def largest(a: Mapping[str, Tensor], b: Mapping[str, Tensor], unit: float) -> float:
    return max(float((a[key].detach().double() - b[key].detach().double()).abs().max()) for key in b) / unit


def part(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key.startswith(kind)}


def relative(a: Any, b: Any) -> float:
    """The largest relative difference of two nested lists of numbers; NaN is NaN's equal."""
    if isinstance(b, list):
        return max((relative(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    same = a == b or (a != a and b != b)
    return 0.0 if same else abs(a - b) / max(abs(b), 1e-12)


def compare(base: Path, chosen: Mapping[str, Objective]) -> list[dict[str, Any]]:
    """A row for each case and dtype, each number the worst of its nine cells.

    float64 is held against the loop by hand; float32 against one process: without accumulation where the objective has
    no statistic, else with the same, since the mean of micro-batches' statistics is another function for each.
    Evaluations are held against one process: in float32 before training, when all have the same weights.
    """
    table = []
    began = {f"weight/{key}": value for key, value in without_dropout().named_parameters()}
    for name, dtype in product(chosen, DTYPES):
        row: dict[str, Any] = {"case": name, "dtype": dtype, "cells": 0, "evaluation": 0.0}
        worst = {"gradient": (0.0, ""), "weights": (0.0, ""), "loss": (0.0, "")}
        residuals = []
        for world, accumulation in product(WORLDS, ACCUMULATIONS):
            here, numbers = read(base / f"world{world}" / f"{name}.{accumulation}.{dtype}")
            hand, losses = read(base / "by_hand" / f"{name}.{accumulation}")
            alone = accumulation if "statistic" in numbers["kinds"] else 1
            there, reference = read(base / "world1" / f"{name}.{alone}.{dtype}")
            expected = hand if dtype == "float64" else there
            differences = {
                "gradient": largest(part(here, "gradient"), part(expected, "gradient"), greatest(expected, "gradient")),
                "weights": largest(part(here, "weight"), part(expected, "weight"), largest(expected, began, 1.0)),
                "loss": relative(numbers["losses"], losses if dtype == "float64" else reference["losses"]),
            }
            for key, value in differences.items():
                worst[key] = max(worst[key], (value, f"world {world} x accumulation {accumulation}"))
            when = "after" if dtype == "float64" else "before"
            measured = [[found[when][key] for key in numbers[when]] for found in (numbers, reference)]
            row["evaluation"] = max(row["evaluation"], relative(*measured))
            row["kinds"] = numbers["kinds"]
            row["cells"] += 1
            residuals.append((part(here, "gradient"), part(hand, "gradient")))
        row |= {key: value for key, (value, _) in worst.items()} | {"worst": worst["gradient"][1]}
        table.append(row | bias(residuals))
    return table


def read(cell: Path) -> tuple[dict[str, Tensor], Any]:
    return load_file(f"{cell}.safetensors"), json.loads(Path(f"{cell}.json").read_text())


def greatest(tensors: Mapping[str, Tensor], kind: str) -> float:
    return max(float(value.abs().max()) for value in part(tensors, kind).values())


def bias(pairs: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> dict[str, float]:
    """Whether what differs is rounding: no part along the gradient, as a wrong factor leaves, and a mean of zero.

    Returns:
        factor: largest |<d, g> / <g, g>| of a cell, d its residual. mean: |mean of d| over d's root mean square, where
        independent errors give about 1 / sqrt(number of entries).
    """
    factors, means = [], []
    for here, expected in pairs:
        g = torch.cat([expected[key].double().flatten() for key in expected])
        d = torch.cat([here[key].double().flatten() for key in expected]) - g
        factors.append(abs(float(d @ g / (g @ g))))
        means.append(abs(float(d.mean())) / max(float(d.square().mean().sqrt()), 1e-300))
    return {"factor": max(factors), "mean": max(means)}


# ---- Resuming --------------------------------------------------------------------------------------------------------


def resume_settings(**changes: Any) -> dict[str, Any]:
    settings = {"max_steps": RESUME_STEPS, "optim": "adamw_torch", "learning_rate": 1e-2, "max_grad_norm": 1.0}
    return settings | {"lr_scheduler_type": "linear", "save_strategy": "steps", "save_steps": RESUMED_AT, **changes}


def ledger(trainer: InterpTrainer) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "ce_loss" in line]


def resume_cells(base: Path, objective: Objective, *, other_accumulations: bool) -> dict[str, Any]:
    """Each cell's checkpoint gone on with by each other cell that has the same law.

    Args:
        other_accumulations: also where accumulation differs, as for a token_sum.
    """
    base.mkdir()
    weighted = [objective.weighted(WEIGHT, label="term")]
    for world in WORLDS:

        def work(world=world) -> None:
            for accumulation in ACCUMULATIONS:
                folder = base / f"{world}x{accumulation}"
                trainer = trainer_of(folder, weighted, accumulation, torch.float32, **resume_settings())
                trainer.train()
                if trainer.args.process_index == 0:
                    for path in checkpoints_of(folder)[1:]:
                        shutil.rmtree(path)
                    (base / f"{world}x{accumulation}.json").write_text(json.dumps(ledger(trainer)))

        together(world, base, work)
    for world in WORLDS:

        def work(world=world) -> None:
            found = [
                go_on(base, weighted, source, (world, accumulation))
                for source in product(WORLDS, ACCUMULATIONS)
                for accumulation in (ACCUMULATIONS if other_accumulations else source[1:])
            ]
            if int(os.environ["RANK"]) == 0:
                (base / f"resumed-{world}.json").write_text(json.dumps(found))

        together(world, base, work)
    return summary([case for world in WORLDS for case in json.loads((base / f"resumed-{world}.json").read_text())])


def go_on(base: Path, weighted: Sequence[Any], source: tuple[int, int], here: tuple[int, int]) -> dict[str, Any]:
    """What is said without `elastic_resume`, with it and another product, and the losses with it."""
    world, accumulation = here
    name = f"{source[0]}x{source[1]}"
    folder = base / f"{name}-by-{world}x{accumulation}"
    if int(os.environ["RANK"]) == 0:
        shutil.copytree(base / name, folder)
    if dist.is_initialized():
        dist.barrier()

    def train(**changes: Any) -> Listening:
        trainer = trainer_of(folder, weighted, accumulation, torch.float32, **resume_settings(**changes))
        trainer.train(resume_from_checkpoint=True)
        return trainer

    found: dict[str, Any] = {"from": source, "to": here, "said": None, "uneven": None}
    twice = 2 * GLOBAL_BATCH // accumulation // world
    for key, changes in (("said", {}), ("uneven", {"elastic_resume": True, "per_device_train_batch_size": twice})):
        if key == "uneven" or source != here:
            try:
                train(**changes)
            except UserError as error:
                found[key] = str(error)
    losses = ledger(train(elastic_resume=source != here))
    expected = json.loads((base / f"{name}.json").read_text())
    found["losses"] = [losses, expected]
    return found


def summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and the largest difference of a loss after a resume."""
    refused = [case for case in found if case["from"] != case["to"]]
    names = ("world_size", "per_device_train_batch_size", "gradient_accumulation_steps")
    right = [
        case
        for case in refused
        if case["said"] and "\n" not in case["said"] and any(f"{name} was" in case["said"] for name in names)
    ]
    uneven = [case for case in found if case["uneven"] and "of another run" in case["uneven"]]
    same = [case for case in found if case["from"] == case["to"]]
    elastic = [relative(*case["losses"]) for case in refused]
    return {
        "resumes": len(found),
        "refused_in_one_line": f"{len(right)} of {len(refused)}",
        "another_product_refused_with_elastic": f"{len(uneven)} of {len(found)}",
        "same_cell_bitwise": f"{sum(case['losses'][0] == case['losses'][1] for case in same)} of {len(same)}",
        "elastic_largest_loss_difference": max(elastic),
        "steps_compared": sum(len(case["losses"][0]) - RESUMED_AT for case in refused),
        "example": right[0]["said"].rpartition("/")[2] if right else None,
        "right": len(right) == len(refused)
        and len(uneven) == len(found)
        and all(case["losses"][0] == case["losses"][1] for case in same)
        and max(elastic) <= RESUMED_LOSSES,
    }


# ---- The whole -------------------------------------------------------------------------------------------------------


def failures(table: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The numbers that break a bound."""
    for row in table:
        bounds = BOUNDS[row["dtype"]]
        if row["dtype"] == "float32":
            bounds = bounds["statistic" if "statistic" in row["kinds"] else "token_sum"] | {"evaluation": EVALUATION}
        for column, bound in bounds.items():
            if not row[column] <= bound:
                yield f"{row['case']} {row['dtype']}: {column} {row[column]:.1e} > {bound:.0e} ({row['worst']})"


def show(table: Sequence[Mapping[str, Any]]) -> None:
    columns = ("gradient", "weights", "loss", "evaluation", "factor", "mean")
    print(f"{'case':24} {'dtype':8} {'kinds':30} " + " ".join(f"{column:>10}" for column in columns))
    for row in table:
        numbers = " ".join(f"{row[column]:10.1e}" for column in columns)
        print(f"{row['case']:24} {row['dtype']:8} {','.join(row['kinds']):30} {numbers}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="CASE")
    parser.add_argument("--no-resume", action="store_true")
    options = parser.parse_args()
    chosen = {name: objective for name, objective in cases().items() if not options.only or name in options.only}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        train_cells(Path(temporary), chosen)
        table = compare(Path(temporary), chosen)
        show(table)
        wrong = list(failures(table))
        if not options.no_resume:
            token_sum = resume_cells(Path(temporary) / "token_sum", MeanSquare(), other_accumulations=True)
            statistic = load_component("objectives", "decorrelation")()
            statistic = resume_cells(Path(temporary) / "statistic", statistic, other_accumulations=False)
            for name, resumed in (("token_sum", token_sum), ("statistic", statistic)):
                print(name, json.dumps(resumed, indent=1))
                wrong += [] if resumed["right"] else [f"resuming a {name}"]
    print(f"{sum(row['cells'] for row in table)} cells in {time.monotonic() - begun:.0f} s")
    print("\n".join(wrong) or "all within their bounds")
    sys.exit(1 if wrong else 0)
