"""SLURM's commands as submitit calls them, over processes of this machine: sbatch, srun, sacct, scontrol, scancel.

A job is its batch script under bash; `scontrol requeue` runs it once more when it has ended, `scancel ID --signal NAME`
signals what srun started. State is files in one folder: `<id>.sh`, `<id>.state`, `<id>.pid` (the task's), `<id>.again`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol", "scancel")
_ENDED = ("COMPLETED", "FAILED")


def install(folder: Path) -> Path:
    """Makes the commands in `folder/bin`, which belongs at the front of PATH; the state is kept in `folder`."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(parents=True)
    for name in COMMANDS:
        command = bin_folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder} {name} "$@"\n')
        command.chmod(0o755)
    return bin_folder


def jobs(folder: Path) -> list[str]:
    """Ids of all jobs, in the order of submission."""
    return sorted((path.stem for path in folder.glob("*.sh")), key=int)


def script(folder: Path, job: str) -> str:
    """The batch script that sbatch was given."""
    return (folder / f"{job}.sh").read_text()


def state(folder: Path, job: str) -> str:
    """PENDING, RUNNING, COMPLETED or FAILED."""
    return (folder / f"{job}.state").read_text()


def wait_for_state(folder: Path, job: str, *states: str, patience: float = 30.0) -> str:
    """Waits until the job is in one of the states."""
    end = time.monotonic() + patience
    while state(folder, job) not in states:
        assert time.monotonic() < end, f"job {job} is still {state(folder, job)}"
        time.sleep(0.02)
    return state(folder, job)


def _sbatch(folder: Path, path: str) -> None:
    job = str(len(jobs(folder)) + 1)
    (folder / f"{job}.sh").write_text(Path(path).read_text())
    _set_state(folder, job, "PENDING")
    command = [sys.executable, __file__, str(folder), "run", job]
    nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)  # submitit reads sbatch's to their end
    subprocess.Popen(command, start_new_session=True, **nothing)
    print(f"Submitted batch job {job}")


def _run(folder: Path, job: str) -> None:
    again = folder / f"{job}.again"
    places = {"SLURM_JOB_ID": job, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    places |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_LOCALID": "0"}
    while True:
        _set_state(folder, job, "RUNNING")
        code = subprocess.call(["bash", str(folder / f"{job}.sh")], env={**os.environ, **places})
        if not again.exists():
            break
        again.unlink()
    _set_state(folder, job, "COMPLETED" if code == 0 else "FAILED")


def _srun(folder: Path, *words: str) -> None:
    job, command, output = os.environ["SLURM_JOB_ID"], list(words), None
    while command[0].startswith("--"):
        option = command.pop(0)
        if option == "--output":
            output = command.pop(0)
    (folder / f"{job}.pid").write_text(str(os.getpid()))
    path = Path(output.replace("%j", job).replace("%t", "0"))
    path.parent.mkdir(exist_ok=True)
    handle = path.open("ab")
    os.dup2(handle.fileno(), 1)
    os.dup2(handle.fileno(), 2)
    os.execvp(command[0], command)


def _sacct(folder: Path, *words: str) -> None:
    print("JobID|State|NodeList")
    for option, job in zip(words, words[1:], strict=False):
        if option == "-j":
            print(f"{job}|{state(folder, job)}|here")


def _scontrol(folder: Path, verb: str, job: str) -> None:
    assert verb == "requeue", verb
    (folder / f"{job}.again").touch()


def _scancel(folder: Path, job: str, option: str, name: str) -> None:
    assert option == "--signal", option
    subprocess.check_call(["kill", "-s", name.removeprefix("SIG"), (folder / f"{job}.pid").read_text()])


def _set_state(folder: Path, job: str, value: str) -> None:
    temporary = folder / f"{job}.new"
    temporary.write_text(value)
    temporary.replace(folder / f"{job}.state")


if __name__ == "__main__":
    called = {"sbatch": _sbatch, "srun": _srun, "sacct": _sacct, "scontrol": _scontrol, "scancel": _scancel}
    {**called, "run": _run}[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
