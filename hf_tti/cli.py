"""The `hf-tti` command: finds the subcommand, runs it, and turns what goes wrong into one line.

Nothing heavy is imported before a subcommand needs it. Other packages add subcommands by an entry
point in the group `hf_tti.commands` whose name is the subcommand and whose object is a `Command`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import hf_tti
from hf_tti.commands import COMMANDS, INTERRUPTED, Command
from hf_tti.console import complain
from hf_tti.errors import UserError
from hf_tti.redaction import TOKENS_ELSEWHERE, secret_in

ENTRY_POINTS = "hf_tti.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand. Returns the exit code: 0, 2 for what the user can put right, 130 when
    interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # package.module:Class in a recipe, as with python -m
    try:
        _check_for_secrets(argv)
        arguments = _parser(argv).parse_args(argv)
        arguments.command_line = shlex.join(["hf-tti", *argv])
        return arguments.run(arguments)
    except UserError as error:
        complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        resumes = argv[:1] == ["train"]
        complain("interrupted" + "; the same command with --resume goes on from the last checkpoint" * resumes)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has read enough
        return 1
    except OSError as error:  # no such file, no permission, no space
        if error.strerror is None:
            raise
        complain(str(UserError(f"{error.filename or 'hf-tti'}: {error.strerror.lower()}")))
        return UserError.exit_code


def _check_for_secrets(argv: Sequence[str]) -> None:
    """Before anything repeats or records the arguments."""
    for number, argument in enumerate(argv, start=1):
        if what := secret_in(argument):
            raise UserError(f"argument {number}: holds {what}; {TOKENS_ELSEWHERE}")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line; the parsers of subcommands are of this class too."""

    def error(self, message: str) -> NoReturn:
        complain(str(UserError(f"{self.prog}: {message}; see {self.prog} --help")))
        raise SystemExit(UserError.exit_code)


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-tti",
        description="Train language models to be interpretable, and measure what that costs.",
    )
    parser.add_argument("--version", action="version", version=f"hf-tti {hf_tti.__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, command in COMMANDS.items():
        _add(subparsers, name, command)
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry_point.name in COMMANDS:
            continue
        if entry_point.name == asked:
            _add(subparsers, asked, _load(entry_point))
        else:
            subparsers.add_parser(entry_point.name, help=f"from {_origin(entry_point)}", add_help=False)
    return parser


def _add(subparsers, name: str, command: Command) -> None:
    parser = subparsers.add_parser(name, help=command.help, description=command.help)
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _load(entry_point: importlib.metadata.EntryPoint) -> Command:
    try:
        return entry_point.load()
    except Exception as error:  # an add-on may fail in any way; the user needs its name, not our traceback
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"hf-tti {entry_point.name}, from {_origin(entry_point)}, cannot be loaded: {reason}"
        ) from error


def _origin(entry_point: importlib.metadata.EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value
