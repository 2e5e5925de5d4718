"""`hf-tti sweep`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.commands.base import INTERRUPTED, positive, set_argument
from hf_tti.commands.training import several_arguments
from hf_tti.console import complain, say
from hf_tti.errors import UserError

if TYPE_CHECKING:
    from hf_tti.sweep import PlannedRun

Command = Callable[["PlannedRun"], Sequence[str]]


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="YAML files, or folders of them")
    set_argument(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--dry-run", action="store_true", help="only list the runs; with --launcher, as a shell script")
    shown.add_argument("--print-commands", action="store_true", help="only the commands of what is not finished")
    shown.add_argument("--wandb", action="store_true", help="only print the sweep's definition for W&B agents")
    parser.add_argument("--jobs", type=positive, metavar="N", help="runs at a time; default: 1")
    parser.add_argument(
        "--launcher",
        choices=("local", "accelerate", "submitit"),
        help="processes here (default), several of them a run by accelerate, or one SLURM job a run",
    )
    several_arguments(parser, "processes of a run (accelerate, submitit)")
    queue = parser.add_argument_group("jobs (submitit)")
    queue.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="partition, time, gpus, cpus_per_task, mem_gb, account, qos, constraint, …; may be repeated",
    )
    queue.add_argument("--wait", action="store_true", help="until all jobs have ended; default: return at once")
    queue.add_argument("--cluster", choices=("slurm", "local"), help="local: jobs as processes of this machine")


def sweep(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.wandb:
        from hf_tti.wandb_sweep import sweep_definition

        say(sweep_definition(arguments.recipes, arguments.overrides, arguments.runs_dir).rstrip())
        return 0
    from hf_tti.sweep import plan

    command = _command(arguments)
    runs = plan(arguments.recipes, arguments.overrides, arguments.runs_dir)
    if arguments.dry_run or arguments.print_commands:
        return _show(runs, command, arguments)
    return _submit(runs, command, arguments) if arguments.launcher == "submitit" else _train(runs, command, arguments)


def _check(arguments: argparse.Namespace) -> None:
    """Options that another launcher would leave unread."""
    launcher = arguments.launcher or "local"
    if arguments.wandb and arguments.launcher:
        raise UserError(f"--launcher {launcher}: nothing to --wandb, whose agents start each run as one process")
    readers = {
        "--jobs": ("local", "accelerate"),
        "--num-processes": ("accelerate", "submitit"),
        "--accelerate-config": ("accelerate", "submitit"),
        "--slurm": ("submitit",),
        "--wait": ("submitit",),
        "--cluster": ("submitit",),
    }
    for option, launchers in readers.items():
        if getattr(arguments, option[2:].replace("-", "_")) and launcher not in launchers:
            raise UserError(f"{option}: nothing to --launcher {launcher}; it goes with {' or '.join(launchers)}")
    if arguments.wandb and arguments.jobs:
        raise UserError("--jobs: nothing to --wandb; start as many agents as runs are to train at a time")
    if launcher == "submitit" and (arguments.dry_run or arguments.print_commands):
        from hf_tti.launchers import slurm_parameters

        slurm_parameters(arguments.slurm, arguments.cluster or "slurm", here=False)


def _command(arguments: argparse.Namespace) -> Command:
    """What trains a run, on one process or several."""
    given = arguments.num_processes is not None or arguments.accelerate_config is not None
    if not given and arguments.launcher != "accelerate":
        return lambda run: run.command
    from hf_tti.launch import Accelerate, as_configured

    several = Accelerate(arguments.accelerate_config, arguments.num_processes) if given else as_configured()
    return lambda run: [*run.command, *several.flags]


def _show(runs: Sequence[PlannedRun], command: Command, arguments: argparse.Namespace) -> int:
    """Says the runs and their commands, and complains of what cannot be started; the exit code."""
    from hf_tti.run_folder import resolve_paths

    code, with_commands = 0, arguments.print_commands or arguments.launcher
    for run in runs:
        if with_commands and run.state != "finished":
            try:
                run.folder.check(resolve_paths(run.recipe), resume=True)
            except UserError as error:
                complain(str(error))
                code = error.exit_code
                continue
        line = f"{run.folder.path}  {run.state}"
        if arguments.dry_run:
            say(f"# {line}" if arguments.launcher else line)
        if with_commands and run.state in ("new", "unfinished"):
            say(shlex.join(command(run)))
    return code


def _train(runs: Sequence[PlannedRun], command: Command, arguments: argparse.Namespace) -> int:
    from hf_tti.sweep import Sweep

    sweep, stopped_by = Sweep(runs, jobs=arguments.jobs or 1, command=command), []

    def stop(number: int, frame) -> None:
        stopped_by.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        sweep.train()
    except KeyboardInterrupt:
        complain("interrupted; the same command does the rest")
        return 128 + stopped_by[0] if stopped_by else INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return sweep.report()


def _submit(runs: Sequence[PlannedRun], command: Command, arguments: argparse.Namespace) -> int:
    from hf_tti import launchers
    from hf_tti.run_folder import resolve_paths

    cluster, folder = arguments.cluster or "slurm", arguments.runs_dir / launchers.JOBS_FOLDER
    parameters = launchers.slurm_parameters(arguments.slurm, cluster)
    unfinished = [run for run in runs if run.state != "finished"]
    for run in unfinished:
        run.folder.check(resolve_paths(run.recipe), resume=True)
    jobs = {str(run.folder.path): launchers.job_of(run, command(run)) for run in unfinished}
    there = launchers.queued(jobs, folder)
    for name, job in there.items():
        say(f"{name}: SLURM job {job} has it already")
    submitted = launchers.submit(
        {name: job for name, job in jobs.items() if name not in there}, folder, cluster=cluster, parameters=parameters
    )
    for name, job in submitted.items():
        say(f"{name}: job {job.job_id}, output in {os.path.join(name, 'log.txt')}")
    say(f"{len(runs) - len(jobs)} finished, {len(there)} already queued, {len(submitted)} submitted")
    return _wait(runs, submitted) if arguments.wait else 0


def _wait(runs: Sequence[PlannedRun], submitted: dict) -> int:
    from hf_tti import launchers
    from hf_tti.sweep import LOG_FILE, last_line, report

    failed = []
    try:
        for run in runs:
            job = submitted.get(str(run.folder.path))
            if job is None:
                continue
            job.wait()
            code = launchers.exit_code(job)
            if run.state == "finished" and not code:
                say(f"{run.recipe.run_name}: finished")
                continue
            failed.append(run)
            log = run.folder.path / LOG_FILE
            said = last_line(log) if log.exists() else f"see {job.paths.stdout}"
            how = f" with exit code {code}" * bool(code) + ", trained but not all pushed" * (
                run.is_trained and not run.is_delivered
            )
            say(f"{run.recipe.run_name}: FAILED{how}, job {job.job_id}: {said}")
    except KeyboardInterrupt:
        complain("interrupted; the jobs go on")
        return INTERRUPTED
    return report(runs, failed)
