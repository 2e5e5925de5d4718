"""The one app: image, Volumes and secrets, and what a function asks of Modal. Needs no token to be imported."""

from __future__ import annotations

import math
import shlex
from argparse import Namespace
from typing import Any

import modal

import hf_tti
from hf_tti.cost.gpus import find_gpu
from hf_tti.errors import UserError
from modal_jobs.lock import entry_points, pins
from modal_jobs.places import (
    APP,
    CHECKPOINTS,
    CHECKPOINTS_VOLUME,
    DATA,
    DATA_VOLUME,
    ENVIRONMENT,
    ROOT,
    SECRETS,
    SOURCE,
)

PYTHON = "3.11"
EXTRAS = ("analysis", "wandb")
LOCK = "/constraints.txt"
CPU = "cpu"
HOST_GPUS = 8  # of a whole host, which Modal asks each container of a cluster to take
MAX_HOURS = 24.0  # Modal's own limit on one attempt; a longer training goes on in the next
_NOT_SOURCE = ["**/__pycache__", "**/*.pyc"]


def make_image() -> modal.Image:
    """Debian with the locked packages, the entry points of `hf-tti`, and the checkout's source, added last."""
    setup_cfg, lock = ((ROOT / name).read_text(encoding="utf-8") for name in ("setup.cfg", "constraints.txt"))
    return (
        modal.Image.debian_slim(python_version=PYTHON)
        .add_local_file(ROOT / "constraints.txt", LOCK, copy=True)
        .uv_pip_install(*pins(setup_cfg, lock, EXTRAS), extra_options=f"--constraints {LOCK}")
        .run_commands(*distribution_commands(setup_cfg))
        .env(ENVIRONMENT)
        .add_local_python_source("hf_tti", "analysis", ignore=_NOT_SOURCE)  # Modal adds this package itself
        .add_local_dir(ROOT / "recipes", str(SOURCE / "recipes"), ignore=_NOT_SOURCE)
    )


def distribution_commands(setup_cfg: str, folder: str = str(SOURCE)) -> list[str]:
    """Shell commands that make `hf-tti report` and its like known where the source is not installed but copied."""
    place = f"{folder}/hf_tti-{hf_tti.__version__}.dist-info"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: hf-tti\nVersion: {hf_tti.__version__}\n",
        "entry_points.txt": entry_points(setup_cfg),
    }
    commands = [f"mkdir -p {place}"]
    for name, text in files.items():
        lines = " ".join(map(shlex.quote, text.splitlines()))
        commands.append(f"printf '%s\\n' {lines} > {place}/{name}")
    return commands


def gpu_list(names: str, num_gpus: int) -> list[str] | None:
    """Modal's words for a fallback list such as `A100-80GB,H100`; None: on the CPU.

    Raises:
        UserError: a GPU that is not known, or more of them than Modal attaches to a container.
    """
    if names == CPU:
        return None
    words = [name.strip() for name in names.split(",")]
    for word in words:
        most = find_gpu(word).most_in_a_container
        if num_gpus > most:
            raise UserError(f"--num-gpus {num_gpus}: Modal attaches at most {most} {word} to a container")
    return [f"{word}:{num_gpus}" for word in words]


def training_resources(gpu: list[str] | None, options: Namespace) -> dict[str, Any]:
    """Keywords of `app.function` for a training: cores and memory for each GPU's data loaders."""
    number = options.num_gpus
    return resources(
        gpu=gpu, hours=options.timeout_hours, retries=options.retries, cpu=4.0 * number, memory_mib=16_384 * number
    )


def resources(*, gpu: list[str] | None, hours: float, retries: int, cpu: float, memory_mib: int) -> dict[str, Any]:
    """Keywords of `app.function`: how much, for how long, and a new container for every attempt."""
    return {
        "gpu": gpu,
        "cpu": cpu,
        "memory": memory_mib,
        "timeout": math.ceil(hours * 3600),  # 0 would be none
        "retries": modal.Retries(max_retries=retries, initial_delay=0.0, backoff_coefficient=1.0),
        "single_use_containers": True,
    }


def make_app() -> modal.App:
    """The app with its image, Volumes and secrets; each job adds the functions that it calls."""
    return modal.App(
        APP,
        image=make_image(),
        secrets=[modal.Secret.from_name(name, required_keys=[key]) for name, key in SECRETS.items()],
        volumes={
            str(CHECKPOINTS): modal.Volume.from_name(CHECKPOINTS_VOLUME, create_if_missing=True),
            str(DATA): modal.Volume.from_name(DATA_VOLUME, create_if_missing=True),
        },
    )
