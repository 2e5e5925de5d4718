"""Pushing a run after it was trained: its final model to `main`, and its promised checkpoints to their branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_tti.checkpoints import checkpoints_of, problems_of
from hf_tti.errors import UserError
from hf_tti.hub.check import check_license, check_target, section_of
from hf_tti.hub.collections import add_to_collection, check_title
from hf_tti.hub.errors import unfinished
from hf_tti.hub.files import check_files
from hf_tti.hub.ledger import step_of
from hf_tti.hub.outbox import Outbox
from hf_tti.hub.queue import PushQueue
from hf_tti.hub.remote import Remote
from hf_tti.hub.training import is_scheduled, state_of
from hf_tti.pushes import MAIN
from hf_tti.run_folder import RECIPE_FILE, RunFolder

WAIT_S = 600.0


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        url: the repository's address.
        branches: branch -> its new commit, or None where all of it was there already.
        collection: the slug of the collection that the repository is in, if one was named.
    """

    url: str
    branches: Mapping[str, str | None]
    collection: str | None = None


def push_run(
    run: RunFolder,
    repo: str,
    *,
    private: bool = True,
    steps: bool = False,
    report_dir: Path | None = None,
    collection: str | None = None,
    collects: bool = True,
    wait_s: float | None = None,
) -> Pushed:
    """Pushes what is not on the Hub byte for byte; the same call again pushes nothing.

    Args:
        repo: owner/name; made, private or not, where it does not exist.
        steps: the checkpoints that are there as well, whatever the recipe promised.
        report_dir: what `hf-tti report` wrote, for the card's frontier pictures.
        collection: title or slug of a collection that the repository is put into.
        collects: False: whoever calls does that, once for several runs.
        wait_s: how long it goes on without progress; default: `WAIT_S`. With 0 each branch is tried once.

    Raises:
        UserError: no run there, one that trains, a damaged model or report, no token, somebody else's repository, a
            licence that the Hub does not know.
        PushError: something has not arrived; says what, and the command that goes on.
    """
    if collection is not None:
        check_title(collection)
    check_target(repo, ask=False)
    check_license(section_of(run.recipe()).license, f"{run.path / RECIPE_FILE}: hub.license")
    with run.lock():
        outbox = Outbox(run, Remote(repo, private=private), report_dir=report_dir)
        branches = branches_of(run, outbox, steps=steps)
        outbox.prepare(branches)
        check_target(repo)
        if steps:
            _promise(outbox, branches)
        queue = PushQueue(outbox)
        for branch in branches:
            queue.adopt(branch)
        missing = queue.finish(WAIT_S if wait_s is None else wait_s)
    if missing:
        raise unfinished(run.path, repo, missing, private=private, report_dir=report_dir, collection=collection)
    slug = add_to_collection(collection, [repo], private=private) if collection is not None and collects else None
    return Pushed(outbox.remote.url, outbox.arrived, slug)


def _promise(outbox: Outbox, branches: Sequence[str]) -> None:
    """Notes checkpoints that nothing but this call asks for, so that any push takes up what is left of them."""
    known = set(outbox.ledger.pending())
    for branch in branches:
        if branch != MAIN and branch not in known:
            outbox.ledger.note("promised", branch)


def planned(
    run: RunFolder, repo: str, *, steps: bool = False, report_dir: Path | None = None
) -> dict[str, dict[str, int]]:
    """What `push_run` would make the branches hold: branch -> path -> bytes. Asks the Hub nothing.

    Raises:
        UserError: no run there. PushError: a file that may not leave.
    """
    outbox = Outbox(run, Remote(repo, private=True), report_dir=report_dir)
    plan = {}
    branches = branches_of(run, outbox, steps=steps)
    for branch in branches:
        files = outbox.files(branch, branches)
        check_files(files)
        plan[branch] = {
            path: len(content) if isinstance(content, bytes) else content.stat().st_size
            for path, content in files.items()
        }
    return plan


def branches_of(run: RunFolder, outbox: Outbox, *, steps: bool = False) -> list[str]:
    """Branches that a push fills: what is promised or kept, by step, and `main` where the run is finished.

    Raises:
        UserError: no run there, or nothing of it to push.
    """
    recipe = run.recipe()
    found = {branch for branch in outbox.ledger.pending() if branch != MAIN} | set(outbox.ledger.staged_branches())
    if steps or recipe.hub.get("push") == "steps":
        found |= {f"step{folder.name.rpartition('-')[2]}" for folder in kept_checkpoints(run, every=steps)}
    branches = sorted(found, key=step_of) + ([MAIN] if run.result() is not None else [])
    if not branches:
        raise UserError(f"{run.path}: is not finished, and has promised no checkpoint; nothing to push")
    return branches


def kept_checkpoints(run: RunFolder, *, every: bool) -> list[Path]:
    """Checkpoints of a run that are whole: every one, or those that its schedule asked for."""
    strategy = run.recipe().training.get("save_strategy", "steps")
    whole = [folder for folder in checkpoints_of(run.path) if not problems_of(folder)]
    return [folder for folder in whole if every or is_scheduled(strategy, state_of(folder))]
