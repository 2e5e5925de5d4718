"""A disk that fills up at every 4 kB of a save.

    python tests/faults/full_disk.py            a tmpfs of its own for each case; needs root
    python tests/faults/full_disk.py --rlimit   files that cannot grow beyond a limit; needs nothing
A case holds if the training stops with one line and exit code 2, every checkpoint from before still verifies, and with
room made it goes on and ends bitwise as one that nothing interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from children import last_line, run
from corruption import prepare
from points import whole
from training import checkpoints_of, differing, outcome_of, train

import hf_tti.saving

PAGE = 4096


def unchecked() -> None:
    """In a child: save without asking for the free space first."""
    hf_tti.saving.check_space = lambda run_dir, needed: None


def limited(size: int) -> None:
    """In a child: writing a file beyond `size` bytes is an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def case(run_dir: Path, expected: dict[str, Any], before: Callable[[], None], make_room: Callable[[], None]) -> str:
    """What is wrong; empty where nothing is, `nothing was short` where the training came through."""
    log = Path(f"{run_dir}.log")
    log.unlink(missing_ok=True)
    had = {path.name: (path / "manifest.json").read_bytes() for path in whole(run_dir)}

    def work() -> None:
        before()
        train("hf_tti", run_dir)

    code = run(work, log)
    if code == 0:
        return "nothing was short"
    said = last_line(log)
    if code != 2 or not said.startswith("UserError: ") or "Traceback" in log.read_text():
        return f"exit {code}: {said}"
    if not any(part in said for part in ("earlier checkpoints are as they were",)):
        return f"said {said}"
    if whole(run_dir) != checkpoints_of(run_dir) or len(whole(run_dir)) < len(had):
        return "a whole checkpoint is lost"
    if list(run_dir.glob(".saving-*")):
        return "half of a save was left on the disk"
    make_room()
    if code := run(partial(train, "hf_tti", run_dir), log):
        return f"did not go on: exit {code}, {last_line(log)}"
    return ", ".join(differing(expected, outcome_of(run_dir)))


def on_tmpfs(prepared: Path, expected: dict[str, Any], free: int, *, check: bool, place: Path) -> str:
    """A file system with `free` bytes left beyond what the run's folder takes."""
    used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in prepared.rglob("*") if path.is_file())
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    try:
        run_dir = Path(shutil.copytree(prepared, place / "run"))
        log_beside = Path(f"{run_dir}.log")
        log_beside.symlink_to(place.with_suffix(".log"))
        _resize(place, used + free)
        return case(run_dir, expected, (lambda: None) if check else unchecked, lambda: _resize(place, 64 << 20))
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _resize(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", "tmpfs", str(place)], check=True)


def with_limit(prepared: Path, expected: dict[str, Any], size: int, *, place: Path) -> str:
    """No file may grow beyond `size` bytes."""
    run_dir = Path(shutil.copytree(prepared, place))
    try:
        return case(run_dir, expected, lambda: limited(size), lambda: None)
    finally:
        shutil.rmtree(run_dir)


def sizes(prepared: Path) -> list[int]:
    """Of the newest checkpoint's files, in bytes."""
    return sorted(path.stat().st_size for path in checkpoints_of(prepared)[-1].iterdir())


def measure(*, rlimit: bool, only: Iterable[int] | None = None) -> dict[str, Any]:
    """Case -> what is wrong, and how many hold."""
    begun, wrong = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        expected, prepared = prepare("hf_tti", base)
        shutil.rmtree(prepared / "checkpoint-7")  # room for the third, so that a save fills the disk, not rotation
        if rlimit:
            for size in only or [limit - 1 for limit in sizes(prepared) if limit > 200]:
                wrong[f"files up to {size:,} bytes"] = with_limit(prepared, expected, size, place=base / "case")
        else:
            pages = range(1, sum(-(-size // PAGE) for size in sizes(prepared)) + 4)
            for free in only or [PAGE * count for count in pages]:
                for check in (True, False) if free <= 2 * PAGE else (False,):
                    name = f"{free // 1024} kB free, {'asked first' if check else 'not asked first'}"
                    wrong[name] = on_tmpfs(prepared, expected, free, check=check, place=base / "disk")
    short = {name: problem for name, problem in wrong.items() if problem != "nothing was short"}
    failed = {name: problem for name, problem in short.items() if problem}
    seconds = round(time.monotonic() - begun, 1)
    return {"cases": len(short), "hold": len(short) - len(failed), "failed": failed, "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rlimit", action="store_true")
    options = parser.parse_args()
    if not options.rlimit and os.geteuid() != 0:
        raise SystemExit("mounting a tmpfs needs root; use --rlimit")
    found = measure(rlimit=options.rlimit)
    print(json.dumps(found, indent=1))
    sys.exit(1 if found["failed"] or not found["cases"] else 0)
