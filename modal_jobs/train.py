"""Train one run of a recipe on Modal.

modal run --detach modal_jobs/train.py --recipe recipes/expt1/orthogonality.yaml --extra "--set training.seed=1"
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import modal

from hf_tti.commands.base import positive
from hf_tti.errors import UserError, did_you_mean
from modal_jobs import container
from modal_jobs.app import gpu_list, make_app, training_resources
from modal_jobs.calls import finish, start, wait
from modal_jobs.invocation import NothingToDo, Parser, prepared
from modal_jobs.options import extra_options, machine_options, money_options, number_option, wanted_of
from modal_jobs.plans import arguments_of, check_budget, estimates_of, plan_on_volume


def make_parser() -> Parser:
    """The options of `modal run modal_jobs/train.py`."""
    parser = Parser(prog="modal run modal_jobs/train.py", description="Train one run of a recipe on Modal.")
    parser.add_argument("--recipe", type=Path, metavar="YAML", help="below recipes/")
    parser.add_argument("--extra", default="", metavar="OPTIONS", help="of hf-tti train: --set, --run, --elastic")
    machine_options(parser, gpu="A100-80GB,H100", hours=24, retries=10)
    number_option(parser)
    parser.add_argument("--nodes", type=positive, default=1, metavar="N", help="containers of a cluster; default: 1")
    money_options(parser)
    return parser


def prepare(options: Namespace) -> dict:
    """The keywords of the call. Raises UserError and NothingToDo; starts nothing."""
    if options.recipe is None:
        raise UserError("--recipe is missing: a YAML file below recipes/")
    extra = extra_options(options.extra, str(options.recipe))
    wanted = wanted_of(options, [options.recipe], extra.overrides)
    if options.recipe.is_dir():
        raise UserError(f"--recipe {options.recipe}: a folder; modal_jobs/sweep.py trains those")
    runs = plan_on_volume(wanted, elastic=extra.elastic)
    names = [run.name for run, _ in runs]
    name = extra.run_name or names[0]
    if name not in names:
        raise UserError(
            f"--run {name}: {options.recipe} has no such run{did_you_mean(name, names)}: {', '.join(names)}"
        )
    run, state = runs[names.index(name)]
    if state == "finished":
        raise NothingToDo(f"{run.place} is finished; nothing was started")
    if options.max_usd is not None:
        check_budget(estimates_of([run], wanted), options.max_usd)
    return arguments_of(run, wanted, elastic=extra.elastic)


OPTIONS, JOB = prepared(__file__, make_parser(), prepare)
app = make_app()
_body = modal.clustered(size=OPTIONS.nodes, rdma=True)(container.train) if OPTIONS.nodes > 1 else container.train
train = app.function(**training_resources(gpu_list(OPTIONS.gpu, OPTIONS.num_gpus), OPTIONS))(_body)


@app.local_entrypoint()
def main(*arguments: str) -> None:
    """Spawns the training; waits for it unless detached. The options were read when this file was imported."""
    calls = start(app, train, [JOB], detached=OPTIONS.detached)
    if not OPTIONS.detached:
        finish(wait(calls, [JOB]))
