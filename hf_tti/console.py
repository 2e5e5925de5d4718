"""The one place that writes to the terminal: whole lines, from the main process only, above any
progress bar.
"""

import os
import sys
from typing import TextIO

from tqdm import tqdm

from hf_tti.redaction import masked, printable


def is_main_process() -> bool:
    """True on rank 0 and where there is one process; needs no torch."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str = "", *, stream: TextIO | None = None) -> None:
    """Writes `text` and a newline to standard output, or to `stream`, on the main process."""
    if is_main_process():
        tqdm.write(text, file=stream or sys.stdout)
        (stream or sys.stdout).flush()


def complain(text: str) -> None:
    """Writes `text` and a newline to standard error on the main process, without secrets and control characters."""
    say("\n".join(printable(masked(line)) for line in text.split("\n")), stream=sys.stderr)
