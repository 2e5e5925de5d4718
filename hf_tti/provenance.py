"""What made a run: versions, the project's commit, the command."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path

import hf_tti

LIBRARIES = ("torch", "transformers", "accelerate", "datasets")


def versions() -> dict[str, str]:
    """Versions of hf_tti and of what it trains with."""
    return {
        "hf_tti": hf_tti.__version__,
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def git_commit() -> str | None:
    """The commit of the checkout that hf_tti is imported from, `-dirty` where files differ; None
    outside of one. $HF_TTI_GIT_COMMIT is that of a checkout that this is a copy of.
    """
    if given := os.environ.get("HF_TTI_GIT_COMMIT"):
        return given
    package = Path(hf_tti.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed, perhaps below somebody else's repository
    commit, changes = _git(package, "rev-parse", "HEAD"), _git(package, "status", "--porcelain")
    return f"{commit}-dirty" if commit and changes else commit


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
