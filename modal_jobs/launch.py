"""What a container runs, and what its end means. Pure functions: no Modal, no files, no processes.

One process is `python -m hf_tti train`; more, or several nodes, are `accelerate launch` around the same command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PORT = 29500  # of rank 0, between the containers of a cluster
_OF_THE_LAUNCHER = re.compile(r"^[EWI]\d{4} .*torch/distributed/elastic")
_ROOT_CAUSE = re.compile(r"^\s*exitcode\s*:\s*(-?\d+)")
KERNEL_WARNING = re.compile(r"Detected kernel version .* below the recommended minimum")

End = Literal["finished", "refused", "incomplete", "again"]
_ENDS: dict[int, End] = {0: "finished", 2: "refused", 3: "refused", 4: "incomplete"}


@dataclass(frozen=True)
class Machines:
    """What a run is spread over.

    Attributes:
        num_processes: in one container, one for each of its GPUs.
        gpu: False: on the CPU.
        num_nodes, node_rank: containers of the cluster, and which one this is.
        main_address: of node 0; needed where there are several.
    """

    num_processes: int = 1
    gpu: bool = True
    num_nodes: int = 1
    node_rank: int = 0
    main_address: str | None = None


def launch_command(
    recipe: str,
    *,
    run_name: str,
    run_dir: str,
    overrides: Sequence[str] = (),
    elastic: bool = False,
    machines: Machines | None = None,
    python: str = "python",
) -> list[str]:
    """The argument list that trains one run, or goes on with it; nothing of it passes through a shell.

    Args:
        recipe: the YAML file, from the root of the checkout.
        run_name: which run of the recipe's sweep. run_dir: its folder, the same at every attempt.
        overrides: `section.key=value`. elastic: resume with other processes or batch, their product being equal.
    """
    machines = machines or Machines()
    train = ["hf_tti", "train", recipe, *(part for override in overrides for part in ("--set", override))]
    train += ["--run", run_name, "--run-dir", run_dir, "--resume", *(["--elastic"] if elastic else [])]
    if machines.num_processes * machines.num_nodes == 1:
        return [python, "-m", *train]
    config = f"recipes/accelerate/{'multi_gpu' if machines.gpu else 'cpu'}.yaml"
    launcher = [python, "-m", "accelerate.commands.launch", "--config_file", config]
    launcher += ["--num_processes", str(machines.num_processes * machines.num_nodes)]
    if machines.num_nodes > 1:
        if machines.main_address is None:
            raise ValueError("several nodes need the address of the first")
        launcher += ["--num_machines", str(machines.num_nodes), "--machine_rank", str(machines.node_rank)]
        launcher += ["--main_process_ip", machines.main_address, "--main_process_port", str(PORT)]
    return [*launcher, "-m", *train]


def meaning(exit_code: int) -> End:
    """What an exit code of hf-tti asks for.

    finished; refused: bad input (2) or no checkpoint that is whole (3), which no retry mends; incomplete: trained, with
    a push to the Hub missing (4); again: anything else (a crash, a signal's 128 + n), worth another attempt.
    """
    return _ENDS.get(exit_code, "again")


def exit_code_of(status: int, tail: Sequence[str]) -> int:
    """hf-tti's own exit code from its process's, which `accelerate launch` turns into 1.

    Args:
        status: of the process; negative: the signal that ended it.
        tail: its last lines. The launcher names the first failure of any rank under "Root Cause".
    """
    if status != 1:
        return status
    after = iter(tail)
    if any("Root Cause" in line for line in after):
        for line in after:
            if found := _ROOT_CAUSE.match(line):
                return int(found[1])
    return status


def last_words(tail: Sequence[str]) -> str:
    """The last line that the training itself printed, before what its launcher says of the end."""
    own = []
    for line in tail:
        if _OF_THE_LAUNCHER.match(line):
            break
        own.append(line.strip())
    return next((line for line in reversed(own) if line), "no output")


def divided_batch(batch: int, num_processes: int) -> int | None:
    """Rows for each process so that the global batch stays what it is on one; None where it does not divide."""
    return None if batch % num_processes else batch // num_processes
