"""Options that several jobs take."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from hf_tti.commands.base import positive
from hf_tti.commands.training import train_arguments
from hf_tti.errors import UserError
from modal_jobs.app import CPU, HOST_GPUS, MAX_HOURS, gpu_list
from modal_jobs.invocation import Parser
from modal_jobs.plans import Wanted

_ALLOWED = ("overrides", "run_name", "elastic")


def machine_options(parser: argparse.ArgumentParser, *, gpu: str, hours: float, retries: int) -> None:
    """`--gpu`, `--timeout-hours`, `--retries`; of one GPU, unless `number_option` is there too."""
    parser.add_argument(
        "--gpu",
        default=gpu,
        metavar="A,B",
        help=f"kinds in the order in which they are tried, or {CPU}; default: {gpu}",
    )
    parser.set_defaults(num_gpus=1)
    parser.add_argument(
        "--timeout-hours", type=_hours, default=hours, metavar="H", help=f"of one attempt; default: {hours:g}"
    )
    parser.add_argument(
        "--retries", type=_count, default=retries, metavar="N", help=f"attempts after the first; default: {retries}"
    )


def number_option(parser: argparse.ArgumentParser) -> None:
    """`--num-gpus`, of jobs that start a process for each."""
    parser.add_argument("--num-gpus", type=positive, default=1, metavar="N", help="in each container; default: 1")


def money_options(parser: argparse.ArgumentParser) -> None:
    """`--max-usd`, `--yes`."""
    parser.add_argument("--max-usd", type=_dollars, metavar="USD", help="refuse to start where the estimate is more")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def extra_options(text: str, recipe: str) -> argparse.Namespace:
    """`--extra` of a training: `hf-tti train`'s own options, as far as they are the user's here.

    Raises:
        UserError: words that `hf-tti train` does not take, or that the job sets itself.
    """
    parser = Parser(prog=f"--extra {text!r}", add_help=False)
    train_arguments(parser)
    defaults = parser.parse_args([recipe])
    given = parser.parse_args([recipe, *words(text)])
    for name, value in vars(given).items():
        if name not in _ALLOWED and value != getattr(defaults, name):
            raise UserError(f"--extra {text!r}: the job itself sets --{name.replace('_', '-')}")
    return given


def words(text: str) -> list[str]:
    """`--extra` as a shell would split it, without a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--extra {text!r}: {error}") from None


def wanted_of(options: argparse.Namespace, recipes: Sequence[Path], overrides: Sequence[str]) -> Wanted:
    """From the parsed options; checks the GPUs and the cluster.

    Raises:
        UserError: an unknown GPU, or as many or a cluster that Modal would refuse.
    """
    gpus = [] if gpu_list(options.gpu, options.num_gpus) is None else [name.strip() for name in options.gpu.split(",")]
    if options.nodes > 1 and (not gpus or options.num_gpus != HOST_GPUS):
        raise UserError(
            f"--nodes {options.nodes}: Modal's clusters take whole hosts; add --gpu H100 --num-gpus {HOST_GPUS}"
        )
    return Wanted(recipes, overrides, gpus, options.num_gpus, options.nodes)


def _hours(text: str) -> float:
    hours = _number(text)
    if not 0 < hours <= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and Modal's {MAX_HOURS:g} hours")
    return hours


def _dollars(text: str) -> float:
    dollars = _number(text)
    if not 0 <= dollars < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of dollars")
    return dollars


def _count(text: str) -> int:
    if not text.isdigit() or int(text) > 10:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 10")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
