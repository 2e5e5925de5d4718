"""The bodies of the Modal functions. A container imports this module alone, by name; the jobs decorate what is in it.

Whatever another attempt cannot mend comes back as an `Outcome`; whatever it can is raised, and Modal starts a new
container with the same input, which finds the run's folder on the Volume.
"""

from __future__ import annotations

import sys
from typing import TypedDict

import modal

from hf_tti.run_folder import RunFolder
from modal_jobs.launch import Machines, exit_code_of, last_words, launch_command, meaning
from modal_jobs.places import CHECKPOINTS_VOLUME, DATA_VOLUME, ROOT, VOLUME, on_volume
from modal_jobs.supervise import Ended, supervise


class AttemptFailed(RuntimeError):
    """An attempt ended in a way that another one may not."""


class Outcome(TypedDict):
    """What a job says at its end.

    what: the run or the command. exit_code: hf-tti's. line: the last that it printed. metrics: of a finished run.
    """

    what: str
    exit_code: int
    line: str
    metrics: dict[str, float | None]


def train(
    *,
    recipe: str,
    run_name: str,
    place: str,
    overrides: list[str],
    elastic: bool = False,
    num_processes: int = 1,
    gpu: bool = True,
    num_nodes: int = 1,
    git_commit: str | None = None,
) -> Outcome:
    """Trains one run to its end, or goes on with it: every attempt is this same call.

    Args:
        recipe: from the root of the checkout. place: of the run's folder on the Volume.
        git_commit: of the checkout that the container's source was copied from.

    Raises:
        AttemptFailed: the training crashed, or was stopped by a signal that was not ours.
        KeyboardInterrupt: Modal takes the container away; a checkpoint was saved and committed.
    """
    rank, address = _cluster(num_nodes)
    command = launch_command(
        recipe,
        run_name=run_name,
        run_dir=str(on_volume(place)),
        overrides=overrides,
        elastic=elastic,
        machines=Machines(num_processes, gpu, num_nodes, rank, address),
        python=sys.executable,
    )
    environment = {"HF_TTI_GIT_COMMIT": git_commit} if git_commit else None
    volumes = [CHECKPOINTS_VOLUME] if rank == 0 else []  # the other nodes save nothing; the last writer would win
    return _run(run_name, command, place, volumes, environment)


def tti(*, what: str, arguments: list[str], place: str = ".") -> Outcome:
    """Any other `hf-tti` command; an argument `volume:<place>` is that place on the checkpoints' Volume.

    Raises:
        AttemptFailed, KeyboardInterrupt: as `train`.
    """
    words = [str(on_volume(word.removeprefix(VOLUME))) if word.startswith(VOLUME) else word for word in arguments]
    return _run(what, [sys.executable, "-m", "hf_tti", *words], place, [DATA_VOLUME, CHECKPOINTS_VOLUME])


def _run(
    what: str, command: list[str], place: str, volumes: list[str], environment: dict[str, str] | None = None
) -> Outcome:
    folder = RunFolder(on_volume(place))

    def commit() -> None:
        for name in volumes:
            modal.Volume.from_name(name).commit()

    ended = supervise(command, run_dir=folder.path, commit=commit, cwd=ROOT, environment=environment)
    return _outcome(what, ended, folder)


def _outcome(what: str, ended: Ended, folder: RunFolder) -> Outcome:
    exit_code = exit_code_of(ended.status, ended.tail)
    line = last_words(ended.tail)
    if meaning(exit_code) == "again":
        raise AttemptFailed(f"{what} ended with exit code {exit_code}: {line}")
    result = folder.result()
    return Outcome(what=what, exit_code=exit_code, line=line, metrics=dict(result["metrics"]) if result else {})


def _cluster(num_nodes: int) -> tuple[int, str | None]:
    """Rank of this container and the address of the first; nothing is asked where there is one."""
    if num_nodes == 1:
        return 0, None
    cluster = modal.Cluster.from_context()
    return cluster.container_rank(), cluster.container_ips()[0]
