"""The options of a job, read where Modal needs them: a function's GPUs, retries and timeout are fixed when its file is
imported, which `modal run` does before it starts anything. So options are parsed and checked then, and a mistake ends
the command in one line with nothing started.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import modal

from hf_tti.console import complain, say
from hf_tti.errors import UserError
from modal_jobs.places import SECRETS

T = TypeVar("T")


@dataclass(frozen=True)
class Invocation:
    """How `modal run` was called.

    Attributes:
        words: what stands behind the file's name. detached: with `--detach`.
    """

    words: list[str]
    detached: bool


class Parser(argparse.ArgumentParser):
    """argparse, with one line for a mistake. The word behind `--extra` is its value, even where it begins with `--`."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, allow_abbrev=False)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        return super().parse_known_args(None if args is None else joined(args), namespace)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")


def joined(words: Sequence[str], option: str = "--extra") -> list[str]:
    """The words with `option X` as `option=X`, which argparse takes for any X."""
    left, found = list(words), []
    while left:
        word = left.pop(0)
        found.append(f"{word}={left.pop(0)}" if word == option and left else word)
    return found


def invocation(file: str) -> Invocation | None:
    """How `modal run` was called on this file; None in a container, a test, or another command of Modal's."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or "detach" not in context.params:
        return None
    for number, word in enumerate(sys.argv):
        name = word.split("::")[0]
        if Path(name).resolve() == Path(file).resolve() or name == f"modal_jobs.{Path(file).stem}":
            return Invocation(sys.argv[number + 1 :], context.params["detach"])
    return None


def prepared(file: str, parser: Parser, prepare: Callable[[argparse.Namespace], T]) -> tuple[argparse.Namespace, T]:
    """The options and what `prepare` makes of them; where `modal run` was not called on this file, the defaults and
    None.

    Ends the process with the code of a UserError that either raises, or 0 where `prepare` raises `NothingToDo`.
    """
    called = invocation(file)
    if called is None:
        return parser.parse_args([]), None
    try:
        options = parser.parse_args(called.words)
        options.detached = called.detached
        return options, prepare(options)
    except NothingToDo as reason:
        say(str(reason))
        sys.exit(0)
    except UserError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("interrupted; nothing was started")
        sys.exit(130)


class NothingToDo(Exception):
    """There is nothing to start; the reason, for the user."""


def check_account() -> None:
    """Raises a UserError where Modal has no token here, does not answer, or lacks one of the secrets."""
    for name, key in SECRETS.items():
        try:
            modal.Secret.from_name(name, required_keys=[key]).hydrate()
        except modal.exception.AuthError as error:
            reason = _first_line(error).split(". ")[0]
            raise UserError(f"Modal: no valid token here ({reason}); run: modal setup") from None
        except modal.exception.NotFoundError as error:
            raise UserError(f"Modal: {_first_line(error)}; make it: modal secret create {name} {key}=...") from None
        except (modal.exception.Error, OSError) as error:
            raise UserError(f"Modal: {_first_line(error)}") from None


def confirm(question: str, *, yes: bool) -> None:
    """Asks on the terminal. Raises NothingToDo for a no, a UserError where there is nobody to ask and `yes` is off."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} There is no terminal to answer on: add --yes")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise NothingToDo("nothing was started")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
