"""Evaluate finished runs on Modal, each in a container of its own; reports are saved beside the runs.

modal run modal_jobs/evaluate.py --run expt1/baseline-seed42 expt1/orthogonality-weight0.01-seed42
"""

from __future__ import annotations

from argparse import Namespace

from hf_tti.commands.evaluation import evaluate_arguments
from hf_tti.errors import UserError, did_you_mean
from modal_jobs import container
from modal_jobs.app import gpu_list, make_app, training_resources
from modal_jobs.calls import finish, start, wait
from modal_jobs.invocation import Parser, check_account, prepared
from modal_jobs.options import machine_options, words
from modal_jobs.places import CHECKPOINTS_VOLUME, RUNS, VOLUME
from modal_jobs.volume import checkpoints_volume, finished_runs


def make_parser() -> Parser:
    """The options of `modal run modal_jobs/evaluate.py`."""
    parser = Parser(prog="modal run modal_jobs/evaluate.py", description="Evaluate finished runs on Modal.")
    parser.add_argument("--run", nargs="+", metavar="EXPERIMENT[/RUN]", help="a run, or all of an experiment")
    parser.add_argument("--extra", default="", metavar="OPTIONS", help="of hf-tti evaluate: --metrics, --nulls, ...")
    machine_options(parser, gpu="L4,A10", hours=4, retries=2)
    return parser


def prepare(options: Namespace) -> list[dict]:
    """The keywords of each call. Raises UserError; starts nothing."""
    if options.run is None:
        raise UserError("--run is missing: an experiment, or experiment/run")
    gpu_list(options.gpu, options.num_gpus)
    extra = words(options.extra)
    check = Parser(prog=f"--extra {options.extra!r}", add_help=False)
    evaluate_arguments(check)
    if check.parse_args(["run", *extra]).out is not None:
        raise UserError(f"--extra {options.extra!r}: the report is saved beside its run; leave --out away")
    check_account()
    places = list(dict.fromkeys(place for name in options.run for place in _places(name)))
    return [
        {"what": f"evaluation of {place}", "arguments": ["evaluate", f"{VOLUME}{RUNS / place}", *extra]}
        for place in places
    ]


def _places(name: str) -> list[str]:
    """`experiment/run` of each finished run that a name stands for."""
    experiment, _, run = name.strip("/").partition("/")
    finished = finished_runs(checkpoints_volume(), experiment)
    if not finished:
        raise UserError(f"--run {name}: no finished run in {RUNS / experiment} on the Volume {CHECKPOINTS_VOLUME}")
    if run and run not in finished:
        raise UserError(f"--run {name}: not a finished run{did_you_mean(run, finished)}; there: {', '.join(finished)}")
    return [f"{experiment}/{one}" for one in ([run] if run else finished)]


OPTIONS, JOBS = prepared(__file__, make_parser(), prepare)
app = make_app()
tti = app.function(**training_resources(gpu_list(OPTIONS.gpu, OPTIONS.num_gpus), OPTIONS))(container.tti)


@app.local_entrypoint()
def main(*arguments: str) -> None:
    """Spawns the evaluations; waits for them unless detached. The options were read when this file was imported."""
    calls = start(app, tti, JOBS, detached=OPTIONS.detached)
    if not OPTIONS.detached:
        finish(wait(calls, JOBS))
