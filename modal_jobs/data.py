"""Download, tokenise and pack a recipe's data once, onto the Volume that every other job reads.

modal run modal_jobs/data.py --recipe recipes/expt1/baseline.yaml
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hf_tti.commands.base import set_argument
from hf_tti.recipe import load_recipe
from modal_jobs import container
from modal_jobs.app import make_app, resources
from modal_jobs.calls import finish, start, wait
from modal_jobs.invocation import Parser, check_account, prepared
from modal_jobs.places import ROOT
from modal_jobs.plans import in_image

DEFAULT = ROOT / "recipes" / "expt1" / "baseline.yaml"


def make_parser() -> Parser:
    """The options of `modal run modal_jobs/data.py`."""
    parser = Parser(prog="modal run modal_jobs/data.py", description="Prepare a recipe's data on Modal.")
    parser.add_argument("--recipe", type=Path, default=DEFAULT, metavar="YAML", help="default: expt1's baseline")
    set_argument(parser)
    return parser


def prepare(options: Namespace) -> dict:
    """The keywords of the call. Raises UserError; starts nothing."""
    load_recipe(options.recipe, options.overrides)
    recipe = in_image(options.recipe)
    check_account()
    overrides = [part for override in options.overrides for part in ("--set", override)]
    return {"what": f"data of {recipe}", "arguments": ["data", recipe, *overrides]}


OPTIONS, JOB = prepared(__file__, make_parser(), prepare)
app = make_app()
tti = app.function(**resources(gpu=None, hours=6, retries=2, cpu=8.0, memory_mib=32_768))(container.tti)


@app.local_entrypoint()
def main(*arguments: str) -> None:
    """Prepares the data; waits for it unless detached. The options were read when this file was imported."""
    calls = start(app, tti, [JOB], detached=OPTIONS.detached)
    if not OPTIONS.detached:
        finish(wait(calls, [JOB]))
