"""What works on this machine. Waits a few seconds for the Hub at most."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hf_tti.cost.memory import GIB

HUB_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. `state` is ok, missing (an optional thing) or problem."""

    what: str
    state: str
    detail: str


def diagnose(folder: Path) -> list[Finding]:
    """Everything that does not depend on a recipe; `folder` is where runs would be written."""
    return [
        *_versions(),
        *_device(),
        *_trackers(),
        *_hub(),
        _optional("modal", "Modal, for modal_jobs"),
        _disk(folder),
    ]


def _versions() -> list[Finding]:
    findings = [Finding("python", "ok", platform.python_version())]
    for name in ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors"):
        version = installed_version(name)
        findings.append(Finding(name, "ok" if version else "problem", version or f"pip install {name}"))
    return findings


def installed_version(distribution: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> list[Finding]:
    if installed_version("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        detail = "precision: auto trains in bf16" if bf16 else "precision: auto trains in fp32"
        return [
            Finding("device", "ok", names),
            Finding("bf16", "ok" if bf16 else "missing", detail),
        ]
    if torch.backends.mps.is_available():
        return [Finding("device", "ok", "Apple GPU (mps)"), _no_bf16()]
    threads = torch.get_num_threads()
    return [
        Finding("device", "ok", f"CPU, {os.cpu_count()} cores, {threads} threads; no GPU"),
        _no_bf16(),
    ]


def _no_bf16() -> Finding:
    return Finding("bf16", "missing", "precision: auto trains in fp32 here")


def _trackers() -> list[Finding]:
    wandb = _optional("wandb", "Weights & Biases")
    if wandb.state == "ok":
        key = "key in WANDB_API_KEY" if os.environ.get("WANDB_API_KEY") else "no WANDB_API_KEY (wandb login also works)"
        wandb = Finding(wandb.what, wandb.state, f"{wandb.detail}, {key}")
    return [wandb, _optional("trackio", "Trackio"), _optional("tensorboard", "TensorBoard")]


def _optional(module: str, title: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(module, "missing", f"{title}: pip install {module}")
    return Finding(module, "ok", installed_version(module) or "installed")


def _hub() -> list[Finding]:
    from huggingface_hub import constants, get_token

    token = Finding("hub token", "ok", "present") if get_token() else _no_token()
    if constants.HF_HUB_OFFLINE:
        return [Finding("hub", "missing", "offline (HF_HUB_OFFLINE is set)"), token]
    answer = _within(HUB_TIMEOUT_S, lambda: _reach(constants.ENDPOINT))
    state = "ok" if answer == "reachable" else "missing"
    return [
        Finding("hub", state, f"{constants.ENDPOINT}: {answer or f'no answer in {HUB_TIMEOUT_S:.0f} s'}"),
        token,
    ]


def _no_token() -> Finding:
    return Finding(
        "hub token",
        "missing",
        "none; only needed to push or to read private repositories (HF_TOKEN)",
    )


def _reach(url: str) -> str:
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return "reachable" if error.code < 500 else f"answers with HTTP {error.code}"
    except (OSError, ValueError) as error:
        return f"cannot be reached ({getattr(error, 'reason', error)})"
    return "reachable"


def _within(seconds: float, call: Callable[[], str]) -> str | None:
    """The call's value, or None when it takes longer: resolving names has no timeout."""
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _disk(folder: Path) -> Finding:
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / GIB
    return Finding("disk", "ok" if free > 5 else "problem", f"{free:.1f} GiB free at {existing}")
