"""Folders that are either complete or not there.

A folder is built under a temporary name beside its place and renamed. Of two processes that build
the same one, the first rename wins and the other's copy is thrown away: both hold the same bytes.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

CACHE_VARIABLE = "HF_TTI_CACHE"


def default_cache_dir() -> Path:
    """$HF_TTI_CACHE, else ~/.cache/hf_tti."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "hf_tti")


def build_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`, filled by `fill(temporary folder)` unless it is there already."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def discard_folder(target: Path) -> None:
    """Moves a damaged folder out of the way, then deletes it; another process may have done so."""
    grave = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(grave / "damaged")
    except FileNotFoundError:
        pass
    finally:
        shutil.rmtree(grave, ignore_errors=True)
