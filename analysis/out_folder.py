"""A folder that is replaced as a whole or not at all, and only where an earlier one was made in the same way.

`.hf-tti` in it lists the files that were written. A folder that holds anything else is somebody's, and stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_tti.errors import UserError

MARKER = ".hf-tti"


@contextmanager
def replaced_folder(out: Path, *, only_if_empty: bool = False) -> Iterator[Path]:
    """An empty folder to write into; at the end of the block it takes the place of `out`, on an error it goes.

    Args:
        out: the folder; made where it is missing.
        only_if_empty: whether an older one of the same kind stays too.

    Raises:
        UserError: `out` is a file, holds what no such block wrote, or cannot be written beside.
    """
    out = Path(os.path.abspath(out))
    _check(out, only_if_empty)
    staged, old = (out.with_name(f".{out.name}.{os.getpid()}.{word}") for word in ("new", "old"))
    try:
        staged.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    try:
        yield staged
        names = sorted(_files(staged))
        (staged / MARKER).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        _check(out, only_if_empty)
        if out.exists():
            out.rename(old)
        try:
            staged.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _check(out: Path, only_if_empty: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"--out {out}: not a folder; name another")
    marker = out / MARKER
    is_ours = marker.is_file() and not only_if_empty
    ours = {*marker.read_text(encoding="utf-8").splitlines(), MARKER} if is_ours else set()
    others = sorted(_files(out) - ours - {MARKER})
    if others:
        whose = "which is kept" if only_if_empty else "which no report wrote"
        raise UserError(f"--out {out}: holds {others[0]}, {whose}; name another folder, or move that")


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
