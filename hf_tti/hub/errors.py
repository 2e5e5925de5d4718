"""What can go wrong with a push: what the Hub said, whether it may pass, when to ask again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError

_NOT_WORDS = re.compile(r"Client error '|\(?Request ID|For more information|Invalid metadata in|Bad request\b.*:$")
_SILENCE = {"TimeoutException", "ConnectError"}  # of httpx, or of what huggingface_hub has in its place
_MAY_PASS = {404, 408, 409, 412, 425, 429, 500, 502, 503, 504}  # 404: just made, and not yet seen everywhere


class PushError(UserError):
    """Something that was promised is not on the Hub."""

    exit_code = 4


def unfinished(run_dir: Path, repo: str, missing: Sequence[tuple[str, str]], **of: Any) -> PushError:
    """One line: what is missing, (branch, reason) each, and the command that finishes it; `of` as `push_command`."""
    listed = "; ".join(f"{branch} ({reason})" for branch, reason in missing)
    return PushError(f"not on the Hub in {repo}: {listed}; to finish: {push_command(run_dir, repo, **of)}")


def push_command(
    run_dir: Path, repo: str, *, private: bool = True, report_dir: Path | None = None, collection: str | None = None
) -> str:
    """What pushes the rest of a run: the branches are in its ledger."""
    words = ["hf-tti", "push", str(run_dir), "--repo", repo, *([] if private else ["--public"])]
    words += ["--report", str(report_dir)] if report_dir is not None else []
    words += ["--collection", collection] if collection is not None else []
    return shlex.join(words)


def response_of(error: BaseException) -> Any | None:
    """The answer of the server behind an error, or None where there was none."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)  # of errors that are an answer
        if response is not None:
            return response
        seen = seen.__cause__
    return None


def may_pass(error: BaseException) -> bool:
    """Whether the same may succeed later: no answer, or one that says so; not where what was sent is wrong."""
    response = response_of(error)
    if response is not None:
        return response.status_code in _MAY_PASS or response.status_code >= 520
    if isinstance(error, json.JSONDecodeError):  # a proxy's page
        return True
    return not isinstance(error, ValueError | TypeError | LookupError | AttributeError | AssertionError)


def is_silence(error: BaseException) -> bool:
    """Whether nobody answered at all, so that another request would hardly fare better."""
    seen: BaseException | None = error
    while seen is not None:
        if not _SILENCE.isdisjoint(kind.__name__ for kind in type(seen).__mro__):
            return True
        seen = seen.__cause__
    return False


def retry_after(error: BaseException, now: float) -> float:
    """Seconds that the server asks to wait, by `Retry-After` or `RateLimit`; 0 where it does not.

    Args:
        now: seconds since 1970.
    """
    response = response_of(error)
    text = "" if response is None else response.headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    if text:
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - now)
        except ValueError:
            return 0.0
    limit = "" if response is None else response.headers.get("RateLimit", "")
    found = re.search(r"\br=0;\s*t=(\d+)", limit)
    return float(found[1]) if found else 0.0


def reason_of(error: BaseException) -> str:
    """In a few words: the status and what the server said, or the network's own words."""
    response = response_of(error)
    if response is None:
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        words = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {words}" if words else type(error).__name__
    words = {401: "the token is not accepted", 403: "the token may not write there"}.get(response.status_code, "")
    words = words or response.headers.get("X-Error-Message", "")
    if not words and not may_pass(error):
        words = _words_of(error)
    return f"the Hub answered {response.status_code}" + (f", {words[:160]}" if words else "")


def _words_of(error: BaseException) -> str:
    """What the client's message says beside status, address and number of the request."""
    lines = [line.strip().removeprefix("- ") for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not _NOT_WORDS.match(line))
