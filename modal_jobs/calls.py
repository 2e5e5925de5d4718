"""Starting functions and waiting for them: spawned, so that Modal retries them whether or not anybody waits."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import modal

from hf_tti.console import complain, say
from hf_tti.table import format_number
from modal_jobs.container import Outcome
from modal_jobs.places import CHECKPOINTS_VOLUME


def start(app: modal.App, function: modal.Function, jobs: Sequence[Mapping[str, Any]], *, detached: bool) -> list:
    """Spawns a call for each job's keywords and says its id and how to see what it prints."""
    calls = []
    for job in jobs:
        call = function.spawn(**job)
        calls.append(call)
        name = job.get("run_name") or job["what"]
        say(f"{name}: {call.object_id}    modal app logs {app.app_id} --function-call {call.object_id}")
    if detached:
        say(f"all of it: modal app logs -f {app.app_id}    to stop: modal app stop {app.app_id}")
    return calls


def wait(calls: Sequence[modal.FunctionCall], jobs: Sequence[Mapping[str, Any]]) -> int:
    """Waits for all of them, says how each ended, and returns the exit code: the highest of theirs."""
    exit_code = 0
    for call, job in zip(calls, jobs, strict=True):
        name = job.get("run_name") or job["what"]
        try:
            outcome: Outcome = call.get()
        except Exception as error:  # whatever ended its last attempt
            complain(f"{name}: FAILED: {next(iter(str(error).splitlines()), type(error).__name__)}")
            exit_code = max(exit_code, 1)
            continue
        exit_code = max(exit_code, outcome["exit_code"])
        say_outcome(outcome, job)
    return exit_code


def say_outcome(outcome: Outcome, job: Mapping[str, Any]) -> None:
    """One line for how a job ended, and how to fetch what it made."""
    name, code = outcome["what"], outcome["exit_code"]
    if code == 0:
        perplexity = outcome["metrics"].get("eval_perplexity")
        say(f"{name}: finished" + (f", perplexity {format_number(perplexity)}" if perplexity is not None else ""))
    elif code == 4:
        complain(f"{name}: trained, its push to the Hub is incomplete (exit code 4): {outcome['line']}")
    else:
        complain(f"{name}: refused (exit code {code}), not tried again: {outcome['line']}")
    if code in (0, 4) and "run_name" in job:
        folder = str(PurePosixPath(job["place"]).parent)
        fetch = f"modal volume get {CHECKPOINTS_VOLUME} {job['place']} {folder}"  # into a folder that must be there
        say(f"to have it here: mkdir -p {folder} && {fetch}")


def finish(exit_code: int) -> None:
    """Ends `modal run` with this code; nothing for 0, which lets Modal say that the app is complete."""
    if exit_code:
        sys.exit(exit_code)
