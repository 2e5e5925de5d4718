"""Errors meant for the person at the keyboard: one line, no traceback, a stated exit code."""

import difflib
from collections.abc import Iterable

from hf_tti.redaction import masked, printable


class UserError(ValueError):
    """Something the user can put right. The message is one line that names the value, the place and the choices.

    The command line prints it to standard error and exits with `exit_code` (2 for bad input). Line ends and control
    characters in what it quotes are written as escapes, secrets not at all.
    """

    exit_code = 2

    def __init__(self, message: str = ""):
        super().__init__(printable(masked(message)))


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest choice, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
