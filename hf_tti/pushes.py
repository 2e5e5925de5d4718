"""What `pushes.jsonl` in a run's folder says, read without torch and without the Hub's client.

The form of its lines, and who writes them: `hf_tti.hub.ledger`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LEDGER = "pushes.jsonl"
MAIN = "main"  # the branch of the final model


def lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    """In the order in which they were written; one that a kill tore is passed over."""
    path = run_dir / LEDGER
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and {"event", "branch", "repo"} <= line.keys():
            yield line


def pending(run_dir: Path) -> set[tuple[str, str]]:
    """(repository, branch) of what was promised and has not arrived since."""
    state = {
        (line["repo"], line["branch"]): line["event"]
        for line in lines(run_dir)
        if line["event"] in ("promised", "pushed")
    }
    return {place for place, event in state.items() if event == "promised"}


def has_pushed(run_dir: Path, repo: str, branch: str) -> bool:
    """Whether a branch has arrived in a repository, at some time."""
    return any((line["event"], line["repo"], line["branch"]) == ("pushed", repo, branch) for line in lines(run_dir))


def is_delivered(run_dir: Path, repo: str) -> bool:
    """Whether a finished run's final model has arrived in a repository, and all that was promised to it."""
    return has_pushed(run_dir, repo, MAIN) and not any(to == repo for to, _ in pending(run_dir))
