"""20,000 generated recipes: each is read or refused in lines, and what is read reads back the same.

    python tests/faults/recipes.py [--cases 20000] [--seed 0]

Prints a row for each kind of recipe, and the malformed matrix (fault × key) with its count. Exits 1 where a case breaks
the law of `tests/recipe_cases.py`, after shrinking it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from recipe_cases import KINDS, Case, fresh, outcome
from test_recipe_malformed import CASES, KEYS, WHOLE_FILES


def measure(kind: str, cases: int, number: int, folder: Path) -> tuple[Counter, float]:
    """How many cases of a kind came out how, and the longest time in seconds that one took."""
    counts: Counter = Counter()
    longest = 0.0

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.quiet,
        print_blob=True,
    )
    @given(KINDS[kind])
    def run(case: Case) -> None:
        nonlocal longest
        started = time.monotonic()
        try:
            counts[outcome(case, fresh(folder))] += 1
        except BaseException:
            print(f"BROKEN {kind}: {case!r}"[:2000], file=sys.stderr)
            raise
        longest = max(longest, time.monotonic() - started)

    run()
    return counts, longest


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS)
    arguments = parser.parse_args()
    started, total, broken = time.monotonic(), Counter(), []
    kinds = [arguments.kind] if arguments.kind else list(KINDS)
    print("| kind | cases | read | refused | longest, s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            try:
                counts, longest = measure(
                    kind, -(-arguments.cases // len(kinds)), arguments.seed, Path(folder) / "recipe"
                )
            except Exception as error:
                broken.append(kind)
                print(
                    f"| {kind} | BROKEN {type(error).__name__}: {' '.join(str(error).split())[:300]} | | | |",
                    flush=True,
                )
                continue
            total += counts
            print(
                f"| {kind} | {counts.total():,} | {counts['valid']:,} | {counts['refused']:,} | {longest:.2f} |",
                flush=True,
            )
    print(f"| all | {total.total():,} | {total['valid']:,} | {total['refused']:,} | |")
    print(f"other exceptions or broken laws: {len(broken)}; {time.monotonic() - started:.0f} s")
    print(f"malformed matrix: {len(CASES):,} faults at {len(KEYS)} keys, and {len(WHOLE_FILES)} whole files")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
