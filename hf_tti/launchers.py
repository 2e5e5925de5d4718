"""A sweep's runs as SLURM jobs, through submitit.

A run is the same `hf-tti train … --resume` as elsewhere, in the same folder with the same log. A SLURM job that is told
that its time is up (SIGUSR1) lets the run write its checkpoint and is queued again, where it goes on from there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tti.errors import UserError, did_you_mean
from hf_tti.processes import signal_run, start, wait_for_group
from hf_tti.sweep import LOG_FILE, last_line

if TYPE_CHECKING:
    import submitit

    from hf_tti.sweep import PlannedRun

JOBS_FOLDER = ".submitit"  # in the runs' folder: what submitit keeps of its jobs
JOBS_FILE = "jobs.jsonl"  # in there: which job trains which run
MAX_TIMEOUTS = 100  # times that a job may be queued again; submitit's own 3 would end long runs
STOP_SIGNAL = signal.SIGUSR1
_SUBMITIT_SIGNAL = "SUBMITIT_PREEMPT_SIGNAL"  # its variable for what SLURM sends; its own default is USR2
_UNTIL_KILLED_S = 900.0  # that a job stays after a SIGTERM: longer than SLURM waits before it kills
_SHARED = {"time": "timeout_min", "gpus": "gpus_per_node"}  # our word -> submitit's, for every cluster
_STILL_THERE = ("PENDING", "CONFIGURING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED", "COMPLETING")
_EVERYWHERE = ("timeout_min", "gpus_per_node", "cpus_per_task", "mem_gb")  # for every cluster; the rest is SLURM's
_WHOLE = ("gpus_per_node", "cpus_per_task", "max_num_timeout")  # parameters that are counts
_OURS = {"job_name", "stderr_to_stdout"}  # parameters of submitit that are set here, or make no sense for one task
_OURS |= {"additional_parameters", "array_parallelism", "num_gpus", "srun_args", "teardown"}
_OURS |= {"nodes", "ntasks_per_node", "gpus_per_task"}


class RunFailed(RuntimeError):
    """A job's run ended with an exit code other than 0."""


@dataclass
class TrainJob:
    """What submitit runs: one run's process, and the protocol by which its job is queued again.

    Attributes:
        argv, cwd: of the process. log: where its output is appended.
    """

    argv: tuple[str, ...]
    log: str
    cwd: str
    _pid: int | None = field(default=None, init=False, repr=False)
    _terminated: bool = field(default=False, init=False, repr=False)

    def __call__(self) -> int:
        """Trains, and passes a SIGTERM on to the run, which saves then and ends.

        Raises:
            RunFailed: the run ended with another exit code than 0.
        """
        Path(self.log).parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as handle:
            process = start(self.argv, handle, cwd=self.cwd)
        self._pid = process.pid
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            code = process.returncode = wait_for_group(process.pid)
        except BaseException:
            signal_run(process.pid, signal.SIGTERM)
            wait_for_group(process.pid)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
        if code and self._terminated and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            time.sleep(_UNTIL_KILLED_S)  # a job that ended by itself is not one that SLURM queues again
        if code:
            raise RunFailed(f"exit code {code}: {last_line(Path(self.log))}")
        return 0

    def _terminate(self, number: int, frame) -> None:
        self._terminated = True
        signal_run(self._pid, signal.SIGTERM)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What submitit calls when SLURM says that the time is up: the run saves and ends, and the job that is queued
        again is this one.
        """
        from submitit.helpers import DelayedSubmission

        if self._pid is not None:
            signal_run(self._pid, STOP_SIGNAL)
            wait_for_group(self._pid)
        return DelayedSubmission(TrainJob(self.argv, self.log, self.cwd))

    __submitit_checkpoint__ = checkpoint


def job_of(run: PlannedRun, argv: Sequence[str]) -> TrainJob:
    """The job of a run, started from the current directory."""
    return TrainJob(tuple(argv), str((run.folder.path / LOG_FILE).absolute()), os.getcwd())


def slurm_parameters(settings: Sequence[str], cluster: str, *, here: bool = True) -> dict[str, Any]:
    """`--slurm KEY=VALUE` as submitit's parameters. `time` in minutes or as SLURM writes it, `gpus` for each node,
    `setup` a line of shell before the run, once or more often.

    Args:
        here: whether jobs must be submittable from this machine.

    Raises:
        UserError: an unknown key, a text that is no KEY=VALUE, a value of another kind, no time limit for SLURM.
    """
    check_cluster(cluster if here else "local")
    from submitit import SlurmExecutor

    shared = dict.fromkeys(_EVERYWHERE) | {value: None for value in _SHARED.values()}
    known = {*_SHARED, *shared, *SlurmExecutor._valid_parameters(), "max_num_timeout"} - _OURS
    parameters: dict[str, Any] = {"slurm_setup": []}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not text:
            raise UserError(f"--slurm {setting}: expected KEY=VALUE, such as partition=gpu")
        if key not in known:
            raise UserError(f"--slurm {key}: unknown{did_you_mean(key, known)}; choices: {', '.join(sorted(known))}")
        if key == "setup":
            parameters["slurm_setup"].append(text)
            continue
        name = _SHARED.get(key, key)
        value = _value(name, text, setting)
        parameters[name if name in shared else f"slurm_{name}"] = value
    if cluster == "slurm" and "timeout_min" not in parameters:
        raise UserError("--slurm time=LIMIT is missing, such as --slurm time=4:00:00; a job may be queued again then")
    parameters.setdefault("timeout_min", 60 * 24 * 7)
    return parameters


def check_cluster(cluster: str) -> None:
    """Whether jobs can be submitted from here.

    Raises:
        UserError: no submitit, or no SLURM.
    """
    if importlib.util.find_spec("submitit") is None:
        raise UserError('--launcher submitit: submitit is not installed: pip install "hf-tti[submitit]"')
    missing = [name for name in ("sbatch", "srun") if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        raise UserError(f"--launcher submitit: no {' and no '.join(missing)} here; start it where SLURM's commands are")


def minutes(text: str) -> int:
    """Minutes of `90`, `4:00:00`, `1-12`, `1-12:30` or `30:00`, as sbatch reads them.

    Raises:
        UserError: none of these.
    """
    match = re.fullmatch(r"(?:(?P<days>\d+)-)?(?P<clock>\d+(?::\d+){0,2})", text)
    if match is None:
        raise UserError(f"--slurm time={text}: expected minutes, HH:MM:SS or DAYS-HH:MM:SS")
    parts = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None or len(parts) == 3:
        hours, minute, second = [*parts, 0, 0][:3]
    else:
        hours, (minute, second) = 0, [*parts, 0][:2]
    seconds = int(match["days"] or 0) * 86400 + hours * 3600 + minute * 60 + second
    if not seconds:
        raise UserError(f"--slurm time={text}: no time at all")
    return -(-seconds // 60)


def _value(name: str, text: str, setting: str) -> Any:
    if name == "timeout_min":
        return minutes(text)
    if name == "mem_gb":
        if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
            raise UserError(f"--slurm {setting}: expected GB, such as mem_gb=16 or mem_gb=16.5")
        return float(text)
    if name in _WHOLE and not text.isdecimal():
        of_a_kind = ", and --slurm gres=gpu:KIND:NUMBER for GPUs of one kind" if name == "gpus_per_node" else ""
        raise UserError(f"--slurm {setting}: expected a whole number{of_a_kind}")
    return _number(text)


def _number(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def submit(
    jobs: Mapping[str, TrainJob], folder: Path, *, cluster: str, parameters: Mapping[str, Any]
) -> dict[str, submitit.Job]:
    """One job for each run, by name. Returns once they are queued.

    Args:
        folder: for submitit's files; on a file system that the nodes share.
        parameters: from `slurm_parameters`.

    Raises:
        UserError: SLURM refuses, in its own words.
    """
    os.environ[_SUBMITIT_SIGNAL] = STOP_SIGNAL.name.removeprefix("SIG")
    import submitit
    from submitit.core.job_environment import JobEnvironment

    JobEnvironment.USR_SIG = os.environ[_SUBMITIT_SIGNAL]  # where submitit was imported before
    own = dict(parameters)
    timeouts = own.pop("slurm_max_num_timeout", MAX_TIMEOUTS)
    options = {f"{cluster}_max_num_timeout": timeouts}
    exported = f"export {_SUBMITIT_SIGNAL}={os.environ[_SUBMITIT_SIGNAL]}"  # where jobs do not inherit the environment
    own["slurm_setup"] = [exported, *own.get("slurm_setup", [])]
    try:
        with tempfile.TemporaryDirectory() as elsewhere:  # an executor makes its folder before it looks at parameters
            submitit.AutoExecutor(elsewhere, cluster=cluster, **options).update_parameters(**own)
    except (AssertionError, NameError, ValueError) as error:
        raise UserError(f"--launcher submitit: {' '.join(str(error).split())}") from error
    folder.mkdir(parents=True, exist_ok=True)
    executor = submitit.AutoExecutor(folder.absolute() / "%j", cluster=cluster, **options)
    submitted = {}
    try:
        for name, job in jobs.items():
            executor.update_parameters(name=name, stderr_to_stdout=True, **own)
            submitted[name] = executor.submit(job)
            _note(folder, cluster, job, submitted[name])
    except (subprocess.CalledProcessError, submitit.core.utils.FailedSubmissionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--launcher submitit: {reason}; submitted so far: {len(submitted)}") from error
    return submitted


def exit_code(job: submitit.Job) -> int | None:
    """Of the run of a job that has ended; None where the job says none."""
    from submitit.core.utils import UncompletedJobError

    try:
        error = job.exception()
    except UncompletedJobError:
        return None
    said = re.search(r"RunFailed: exit code (-?\d+)", str(error))
    return 0 if error is None else int(said[1]) if said else None


def _note(folder: Path, cluster: str, job: TrainJob, submitted: submitit.Job) -> None:
    line = {"log": job.log, "cluster": cluster, "job": submitted.job_id}
    with open(folder / JOBS_FILE, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")


def queued(jobs: Mapping[str, TrainJob], folder: Path) -> dict[str, str]:
    """Name -> SLURM job of the runs that an earlier command submitted and that SLURM still has."""
    path = folder / JOBS_FILE
    if not path.is_file():
        return {}
    import submitit

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    newest = {line["log"]: line["job"] for line in lines if line["cluster"] == "slurm"}
    found = {name: newest[job.log] for name, job in jobs.items() if job.log in newest}
    handles = {name: submitit.SlurmJob(folder.absolute() / "%j", job) for name, job in found.items()}
    return {name: found[name] for name, handle in handles.items() if handle.state in _STILL_THERE}
