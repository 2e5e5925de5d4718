"""Train every run of recipes on Modal, in parallel.

modal run --detach modal_jobs/sweep.py --recipes recipes/expt1 --max-containers 8 --max-usd 60
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hf_tti.commands.base import positive
from hf_tti.console import say
from hf_tti.errors import UserError
from hf_tti.table import format_table
from modal_jobs import container
from modal_jobs.app import gpu_list, make_app, training_resources
from modal_jobs.calls import finish, start, wait
from modal_jobs.invocation import NothingToDo, Parser, confirm, prepared
from modal_jobs.options import extra_options, machine_options, money_options, number_option, wanted_of
from modal_jobs.plans import arguments_of, check_budget, estimates_of, plan_on_volume


def make_parser() -> Parser:
    """The options of `modal run modal_jobs/sweep.py`."""
    parser = Parser(prog="modal run modal_jobs/sweep.py", description="Train every run of recipes on Modal.")
    parser.add_argument("--recipes", type=Path, nargs="+", metavar="YAML", help="files or folders below recipes/")
    parser.add_argument("--extra", default="", metavar="OPTIONS", help="of hf-tti train: --set, --elastic")
    parser.add_argument("--max-containers", type=positive, metavar="N", help="at a time; default: Modal's limit")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs and what they would cost")
    machine_options(parser, gpu="A100-80GB,H100", hours=24, retries=10)
    number_option(parser)
    money_options(parser)
    parser.set_defaults(nodes=1)
    return parser


def prepare(options: Namespace) -> list[dict]:
    """The keywords of each call. Raises UserError and NothingToDo; starts nothing."""
    if options.recipes is None:
        raise UserError("--recipes is missing: files or folders below recipes/")
    extra = extra_options(options.extra, str(options.recipes[0]))
    if extra.run_name is not None:
        raise UserError(f"--extra {options.extra!r}: --run is one run; modal_jobs/train.py trains it")
    wanted = wanted_of(options, options.recipes, extra.overrides)
    runs = plan_on_volume(wanted, elastic=extra.elastic)
    rest = [run for run, state in runs if state != "finished"]
    estimates = dict(zip([run.place for run in rest], estimates_of(rest, wanted), strict=True))
    say(format_table([_row(run.place, state, estimates.get(run.place)) for run, state in runs]))
    total = sum(cost.dollars or 0.0 for cost in estimates.values() if cost is not None)
    price = f"about ${total:,.2f}" if wanted.gpus else "no price is known for the CPU"
    say(f"\n{len(rest)} of {len(runs)} runs to train on {options.num_gpus} x {options.gpu}: {price}")
    for assumption in next((cost.assumptions for cost in estimates.values() if cost is not None), []):
        say(f"  {assumption}")
    check_budget(list(estimates.values()), options.max_usd)
    if options.dry_run or not rest:
        raise NothingToDo("nothing was started")
    confirm(f"Start {len(rest)} runs, {price}?", yes=options.yes)
    return [arguments_of(run, wanted, elastic=extra.elastic) for run in rest]


def _row(place: str, state: str, cost) -> dict[str, str | float | None]:
    return {
        "run": place,
        "state": state,
        "GPU hours": None if cost is None else f"{cost.hours * cost.num_gpus:.2f}",
        "dollars": None if cost is None or cost.dollars is None else f"{cost.dollars:.2f}",
    }


OPTIONS, JOBS = prepared(__file__, make_parser(), prepare)
app = make_app()
train = app.function(
    **training_resources(gpu_list(OPTIONS.gpu, OPTIONS.num_gpus), OPTIONS), max_containers=OPTIONS.max_containers
)(container.train)


@app.local_entrypoint()
def main(*arguments: str) -> None:
    """Spawns the trainings; waits for them unless detached. The options were read when this file was imported."""
    calls = start(app, train, JOBS, detached=OPTIONS.detached)
    if not OPTIONS.detached:
        exit_code = wait(calls, JOBS)
        say(f"{len(JOBS)} runs are over; modal run modal_jobs/report.py --runs <experiment> compares them")
        finish(exit_code)
