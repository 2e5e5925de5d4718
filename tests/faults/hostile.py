"""Every hostile file of `tests/security/hostile_files.py`, used; and payloads in pages, opened in chromium.

    python tests/faults/hostile.py [--pages]

Prints a row for each kind of file: how many, refused in a line, passed over, and how many did harm. With `--pages`,
each of 31 payloads stands in every text of a report and of its neuron pages, with pictures for every tenth, and all
pages are opened: scripts that ran, requests, and elements that came of payloads. Exits 1 where one did harm.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import io
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "security"), str(TESTS / "analysis")]

from browser import find_chromium, open_page  # noqa: E402
from hostile_files import FILES  # noqa: E402
from html_payloads import PAYLOADS, hostile_comparison  # noqa: E402
from world import World  # noqa: E402

from analysis import page as report_page  # noqa: E402

OF_PAYLOADS = "iframe,object,embed,form[action],base,img,audio,video,marquee,body [onload]"
NO_PICTURES = [(name, []) for name in "frontiers radar layers similarity geometry curves correlations".split()]
PICTURES_EVERY = 10  # payloads; drawing takes most of the time


def used(folder: Path) -> int:
    """Uses every file; the number that did harm."""
    builtins.input = lambda *_: "y"  # whoever asks is told to go on
    logging.disable(logging.WARNING)
    counts: dict[str, Counter] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        world = World(folder)
    for hostile in FILES:
        row = counts.setdefault(hostile.name.partition(":")[0], Counter())
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                said = world.case(hostile.name).attempt(hostile.plant, hostile.use)
            outcome = "refused" if said else "passed over"
            if hostile.refused and not said:
                raise AssertionError("not refused")
        except Exception as error:
            outcome = "harm"
            print(f"{hostile.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        row[outcome] += 1
    print("| in | files | refused in a line | passed over | did harm or crashed |\n|---|---|---|---|---|")
    for place, row in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"| {place} | {row.total()} | {row['refused']} | {row['passed over']} | {row['harm']} |", flush=True)
    return sum(row["harm"] for row in counts.values())


def opened(folder: Path) -> int:
    """Opens pages whose every text is a payload; the number of scripts that ran, requests and elements."""
    if find_chromium() is None:
        print("no chromium here: pages not opened")
        return 0
    low = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # chromium's pipes need 3 and 4, Popen's own another
    found: Counter = Counter()
    drawn = report_page._pictures
    for number, payload in enumerate(PAYLOADS):
        report_page._pictures = drawn if number % PICTURES_EVERY == 0 else lambda comparison: NO_PICTURES
        comparison = hostile_comparison(folder / str(number), payload)
        page = report_page.write_report(comparison, folder / f"page-{number}")
        for path in [page, *sorted(page.parent.glob("neurons/*.html"))]:
            with open_page(path) as shown:
                found["pages"] += 1
                found["scripts run"] += shown.evaluate("Number('owned' in window) + Number(document.title === 'owned')")
                found["requests"] += len([url for url in shown.requests if not url.startswith("data:")]) - 1
                found["elements"] += shown.evaluate(f"document.querySelectorAll({OF_PAYLOADS!r}).length")
    for descriptor in low:
        os.close(descriptor)
    names = ("scripts run", "requests", "elements")
    print(f"{len(PAYLOADS)} payloads, {found['pages']} pages: " + ", ".join(f"{found[name]} {name}" for name in names))
    return sum(found[name] for name in names)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", action="store_true", help="payloads in pages alone")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        harm = opened(Path(folder)) if arguments.pages else used(Path(folder))
    print(f"{time.monotonic() - started:.0f} s")
    return bool(harm)


if __name__ == "__main__":
    sys.exit(main())
