"""`hf-tti report`, `compare` and `rate`: a few lines each around the library, which is imported when one runs."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_tti.commands import Command
from hf_tti.console import complain, say
from hf_tti.errors import UserError

_EXTRA = ("jinja2", "markupsafe", "matplotlib", "pandas", "scipy", "sklearn")
_RUNS_HELP = "run folders, reports, folders of them, names without -seed<n> (runs/x/baseline), or owner/name on the Hub"
_MARGIN_HELP = "cross-entropy that counts as free; default: the recipes', else 0.005"


@contextmanager
def _needs_extra(command: str) -> Iterator[None]:
    """Turns a missing library of the `analysis` extra into one line."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        if module not in _EXTRA:
            raise
        raise UserError(
            f"hf-tti {command} needs {module}, which is not installed: pip install 'hf-tti[analysis]'"
        ) from None


def _nats(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nats above 0")
    return value


# ---- report ------------------------------------------------------------------------------------


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help=_RUNS_HELP)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page and its tables")
    parser.add_argument("--baseline", metavar="NAME", help="method; default: the longest one without objectives")
    parser.add_argument("--margin", type=_nats, metavar="NATS", help=_MARGIN_HELP)
    parser.add_argument("--wandb", metavar="PROJECT", help="log the page and its pictures to this project of W&B")


def _report(arguments: argparse.Namespace) -> int:
    with _needs_extra("report"):
        from analysis.comparison import compare_runs
        from analysis.csv_files import write_csv_files
        from analysis.markdown import markdown
        from analysis.out_folder import replaced_folder
        from analysis.page import write_report
        from analysis.rows import terminal
        from analysis.runs import find_runs

    if arguments.wandb is not None:
        from hf_tti.tracking.reports import check_comparison, log_comparison

        check_comparison(arguments.wandb)
    runs = find_runs(arguments.runs)
    comparison = compare_runs(runs, baseline=arguments.baseline, margin=arguments.margin)
    with replaced_folder(arguments.out) as folder:
        page = write_report(comparison, folder, progress=complain if sys.stderr.isatty() else _silent)
        (folder / "report.md").write_text(markdown(comparison), encoding="utf-8")
        write_csv_files(comparison, folder)
        name = page.relative_to(folder)
    say(f"{terminal(comparison)}\n\nreport in {arguments.out / name}")
    if arguments.wandb is not None:
        log_comparison(arguments.wandb, arguments.out)
    return 0


def _silent(line: str) -> None:
    """Where nobody watches."""


# ---- compare -----------------------------------------------------------------------------------


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", type=Path, metavar="A", help=_RUNS_HELP)
    parser.add_argument("second", type=Path, metavar="B", help="the same; differences are B minus A")
    parser.add_argument("--margin", type=_nats, metavar="NATS", help=_MARGIN_HELP)


def _compare(arguments: argparse.Namespace) -> int:
    with _needs_extra("compare"):
        from analysis.compare import compare_two, terminal
        from analysis.runs import find_runs

    two = compare_two(
        find_runs([arguments.first], arrays=False),
        find_runs([arguments.second], arrays=False),
        names=(str(arguments.first), str(arguments.second)),
        margin=arguments.margin,
    )
    say(terminal(two))
    return 0


# ---- rate --------------------------------------------------------------------------------------


def _rate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUNS", help=_RUNS_HELP)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the rating page and its key")
    parser.add_argument("--neurons", type=int, default=50, metavar="N", help="units of each run; default: 50")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw and of the order; default: 0")
    parser.add_argument("--agreement", type=Path, nargs="+", metavar="FILE", help="files of raters: how far they agree")
    parser.add_argument("--key", type=Path, metavar="FILE", help="key.json of the page, for rates by method")


def _rate(arguments: argparse.Namespace) -> int:
    if bool(arguments.runs) == bool(arguments.agreement):
        raise UserError("hf-tti rate: name RUNS and --out for a rating page, or --agreement and the files of raters")
    return _agreement(arguments) if arguments.agreement else _rating_page(arguments)


def _rating_page(arguments: argparse.Namespace) -> int:
    with _needs_extra("rate"):
        from analysis.out_folder import replaced_folder
        from analysis.rate import KEY_FILE, write_rating_page
        from analysis.runs import find_runs

    if arguments.out is None:
        raise UserError("hf-tti rate: --out is missing, the folder of the rating page")
    if arguments.key is not None:
        raise UserError("hf-tti rate: --key goes with --agreement")
    runs = find_runs(arguments.runs)
    with replaced_folder(arguments.out, only_if_empty=True) as folder:  # raters may be at work on an older one
        page = write_rating_page(runs, folder, num_neurons=arguments.neurons, seed=arguments.seed)
    say(f"rating page in {arguments.out / page.name}")
    say(f"whose the units are in {arguments.out / KEY_FILE}: not for raters")
    return 0


def _agreement(arguments: argparse.Namespace) -> int:
    with _needs_extra("rate"):
        from analysis.agreement import agreement, terminal
        from analysis.ratings import read_key, read_ratings

    ratings = [read_ratings(path) for path in arguments.agreement]
    say(terminal(agreement(ratings, read_key(arguments.key) if arguments.key else None)))
    return 0


REPORT = Command("compare evaluated runs with their baseline, as a page and tables", _report_arguments, _report)
COMPARE = Command("compare two evaluated models in the terminal", _compare_arguments, _compare)
RATE = Command("have people judge units without knowing whose, and count what they said", _rate_arguments, _rate)
