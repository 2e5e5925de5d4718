"""Compare evaluated runs on Modal and fetch the page.

modal run modal_jobs/report.py --runs expt1 --out reports/expt1
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hf_tti.console import say
from hf_tti.errors import UserError, did_you_mean
from modal_jobs import container
from modal_jobs.app import make_app, resources
from modal_jobs.calls import finish, start, wait
from modal_jobs.invocation import Parser, check_account, prepared
from modal_jobs.options import words
from modal_jobs.places import REPORTS, RUNS, VOLUME
from modal_jobs.volume import checkpoints_volume, experiments, fetch_folder


def make_parser() -> Parser:
    """The options of `modal run modal_jobs/report.py`."""
    parser = Parser(prog="modal run modal_jobs/report.py", description="Compare runs on Modal and fetch the page.")
    parser.add_argument("--runs", nargs="+", metavar="EXPERIMENT[/RUN]", help="as hf-tti report takes them below runs/")
    parser.add_argument("--extra", default="", metavar="OPTIONS", help="of hf-tti report: --baseline, --margin")
    parser.add_argument("--out", type=Path, metavar="DIR", help="here; default: reports/<first experiment>")
    return parser


def prepare(options: Namespace) -> dict:
    """The keywords of the call. Raises UserError; starts nothing."""
    if options.runs is None:
        raise UserError("--runs is missing: an experiment, or experiment/run")
    if options.detached:
        raise UserError("--detach: the page is fetched when it is there; leave --detach away")
    extra = words(options.extra)
    if any(word.split("=")[0] == "--out" for word in extra):
        raise UserError(f"--extra {options.extra!r}: name the folder by --out of this job")
    check_account()
    there = experiments(checkpoints_volume())
    places = [name.strip("/") for name in options.runs]
    for name in (place.split("/")[0] for place in places):
        if name not in there:
            raise UserError(f"--runs {name}: not on the Volume{did_you_mean(name, there)}; there: {', '.join(there)}")
    name = places[0].split("/")[0]
    options.out = options.out or Path("reports", name)
    out = str(REPORTS / name)
    runs = [f"{VOLUME}{RUNS / place}" for place in places]
    return {"what": f"report on {' '.join(places)}", "arguments": ["report", *runs, "--out", f"{VOLUME}{out}", *extra]}


OPTIONS, JOB = prepared(__file__, make_parser(), prepare)
app = make_app()
tti = app.function(**resources(gpu=None, hours=1, retries=1, cpu=4.0, memory_mib=16_384))(container.tti)


@app.local_entrypoint()
def main(*arguments: str) -> None:
    """Makes the report and copies it here. The options were read when this file was imported."""
    finish(wait(start(app, tti, [JOB], detached=False), [JOB]))
    place = REPORTS / JOB["arguments"][1].removeprefix(f"{VOLUME}{RUNS}/").split("/")[0]
    count = fetch_folder(checkpoints_volume(), place, OPTIONS.out)
    say(f"{count} files in {OPTIONS.out}: open {OPTIONS.out / 'index.html'}")
