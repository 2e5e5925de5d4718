"""`hf-tti cost`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.commands.base import positive, set_argument
from hf_tti.console import say
from hf_tti.errors import UserError
from hf_tti.table import duration, format_table

if TYPE_CHECKING:
    from hf_tti.cost import CostEstimate
    from hf_tti.recipe import Recipe

_TIMED_STEPS = 20


def cost_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="YAML files, or folders of them")
    set_argument(parser)
    parser.add_argument("--gpu", metavar="NAME", help="as Modal spells it: A100-40GB, A100-80GB, H100, L4, …")
    parser.add_argument("--num-gpus", type=positive, default=1, metavar="N", help="processes of a run; default: 1")
    parser.add_argument("--mfu", type=float, metavar="X", help="share of the peak that is reached; default: computed")
    parser.add_argument(
        "--measure",
        type=positive,
        nargs="?",
        const=_TIMED_STEPS,
        metavar="STEPS",
        help=f"time so many steps on this machine instead of assuming; default: {_TIMED_STEPS}",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def cost(arguments: argparse.Namespace) -> int:
    from hf_tti.cost import find_gpu, total_of
    from hf_tti.recipe import expand_sweep
    from hf_tti.sweep import load_recipes

    if arguments.gpu is None and arguments.measure is None:
        raise UserError("--gpu: name one, or time this machine with --measure")
    if arguments.gpu is not None:
        find_gpu(arguments.gpu)
    if arguments.measure is not None and (arguments.num_gpus > 1 or arguments.mfu is not None):
        raise UserError("--measure: times one process and assumes no MFU; leave out --num-gpus and --mfu")
    by_recipe = [expand_sweep(recipe) for recipe in load_recipes(arguments.recipes, arguments.overrides)]
    runs = [run for each in by_recipe for run in each]
    estimates = _estimates(runs, arguments)
    total = total_of(estimates)
    names = _names(runs)
    if arguments.json:
        by_run = {name: each.to_dict() for name, each in zip(names, estimates, strict=True)}
        say(json.dumps({"runs": by_run, "total": {"runs": len(runs), **total.to_dict()}}, indent=2))
        return 0
    rows = [_row(name, each) for name, each in zip(names, estimates, strict=True)]
    if len(by_recipe) > 1:
        costs = iter(estimates)
        groups = [(of_one, [next(costs) for _ in of_one]) for of_one in by_recipe]
        rows = [_row(f"{of_one[0].path} ({len(of_one)})", total_of(each)) for of_one, each in groups]
    if len(runs) > 1:
        rows.append(_row(f"all {len(runs)} runs in turn", total))
    say(f"{format_table(rows)}\n")
    say(_memory_line(total))
    if any(each != estimates[0] for each in estimates):
        say(f"of {names[0]}; the others differ:")
    say("\n".join(f"- {assumption}" for assumption in estimates[0].assumptions))
    return 0


def _names(runs: list[Recipe]) -> list[str]:
    """The runs' names, after their experiment's where two are the same."""
    times = Counter(run.run_name for run in runs)
    return [run.run_name if times[run.run_name] == 1 else f"{run.experiment}/{run.run_name}" for run in runs]


def _dollars(dollars: float) -> str:
    return "<0.01" if 0 < dollars < 0.01 else f"{dollars:.2f}"


def _estimates(runs: list[Recipe], arguments: argparse.Namespace) -> list[CostEstimate]:
    """One for each run; runs that differ in nothing but their seed cost the same and are looked at once."""
    from hf_tti.cost import estimate

    if arguments.measure is not None:
        from hf_tti.cost.timing import measured_estimate
    known: dict[str, CostEstimate] = {}
    for run in runs:
        key = _without_seeds(run)
        if key in known:
            continue
        if arguments.measure is not None:
            known[key] = measured_estimate(run, gpu=arguments.gpu, num_steps=arguments.measure)
        else:
            known[key] = estimate(run, gpu=arguments.gpu, num_gpus=arguments.num_gpus, mfu=arguments.mfu)
    return [known[_without_seeds(run)] for run in runs]


def _without_seeds(run: Recipe) -> str:
    """What a run's cost depends on: neither seeds nor weights."""
    content = run.to_dict()
    content["training"] = {k: v for k, v in content.get("training", {}).items() if k not in ("seed", "data_seed")}
    objectives = content.get("objectives", {})
    content["objectives"] = {name: {**entry, "weight": 0} for name, entry in objectives.items()}
    return json.dumps(content, sort_keys=True)


def _row(name: str, each: CostEstimate) -> dict[str, str | float | None]:
    return {
        "run": name,
        "on": f"{each.num_gpus} x {each.gpu}" if each.num_gpus > 1 else each.gpu,
        "steps": each.num_steps,
        "TFLOP a step": None if each.flops_per_step is None else each.flops_per_step / 1e12,
        "PFLOP": each.flops / 1e15,
        "MFU": None if each.mfu is None else f"{each.mfu:.1%}",
        "wall time": duration(each.hours * 3600),
        "dollars": None if each.dollars is None else _dollars(each.dollars),
        "GB a GPU": each.memory_bytes / 1e9,
    }


def _memory_line(each: CostEstimate) -> str:
    needed = f"memory: {each.memory_bytes / 1e9:.3g} GB needed"
    if each.gpu_memory_bytes is None:
        return needed
    where = f"{each.gpu_memory_bytes / 1e9:.4g} GB of {each.gpu}"
    return f"{needed}, fits into the {where}" if each.fits else f"{needed}, does NOT fit into the {where}"
