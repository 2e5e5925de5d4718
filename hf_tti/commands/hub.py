"""`hf-tti push`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tti.console import complain, say
from hf_tti.errors import UserError

if TYPE_CHECKING:
    from hf_tti.recipe.sections import HubSection
    from hf_tti.run_folder import RunFolder


def push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--repo", metavar="OWNER/NAME", help="default: the recipe's hub.repo; {run} in it is the run's name"
    )
    parser.add_argument("--public", action="store_true", help="make new repositories public; default: private")
    parser.add_argument("--steps", action="store_true", help="all checkpoints that are there, promised or not")
    parser.add_argument("--collection", metavar="TITLE|SLUG", help="put the models into it, made where missing")
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="folder of hf-tti report, for the card's frontier pictures"
    )
    parser.add_argument("--dry-run", action="store_true", help="only list what would be pushed")


def push(arguments: argparse.Namespace) -> int:
    from hf_tti.hub import PushError

    if arguments.report is not None and not any(arguments.report.glob("figures/frontier-*.png")):
        makes = f"hf-tti report RUNS --out {arguments.report}"
        raise UserError(f"--report {arguments.report}: holds no figures/frontier-*.png; {makes} draws them")
    if arguments.collection is not None:
        from hf_tti.hub.collections import check_title

        check_title(arguments.collection)
    targets = _targets(arguments)
    of = {"steps": arguments.steps, "report_dir": arguments.report}
    done, errors = [], []
    for repo, (run, section) in targets.items():
        try:
            if arguments.dry_run:
                _plan(run, repo, of)
            else:
                private = section.private and not arguments.public
                _push_one(run, repo, {"private": private, "collection": arguments.collection, **of})
            done.append(repo)
        except UserError as error:
            if len(targets) == 1:
                raise
            complain(str(error))
            errors.append(error)
    if arguments.collection is not None and done and not arguments.dry_run:
        try:
            private = not arguments.public and any(targets[repo][1].private for repo in done)
            _collect(arguments.collection, done, private=private)
        except UserError as error:
            if not errors:
                raise
            complain(str(error))
            errors.append(error)
    if errors:
        kind = PushError if any(isinstance(error, PushError) for error in errors) else UserError
        can = "cannot all be pushed" if arguments.dry_run else "are not all on the Hub"
        raise kind(f"{len(targets) - len(done)} of {len(targets)} runs {can}")
    return 0


def _targets(arguments: argparse.Namespace) -> dict[str, tuple[RunFolder, HubSection]]:
    """Repository -> what is pushed to it.

    Raises:
        UserError: a folder without a run, one without a repository, two for one repository.
    """
    from hf_tti.hub import section_of
    from hf_tti.run_folder import RunFolder

    targets: dict[str, tuple[RunFolder, HubSection]] = {}
    for run in map(RunFolder, arguments.folders):
        recipe = run.recipe()
        section = section_of(recipe)
        repo = (arguments.repo or section.repo or "").replace("{run}", recipe.run_name)
        if not repo:
            raise UserError(f"--repo: missing, and the recipe of {run.path} names none; write --repo owner/name")
        if repo in targets:
            if targets[repo][0].path.resolve() == run.path.resolve():
                raise UserError(f"{run.path}: named twice; name it once")
            both = f"{targets[repo][0].path} and {run.path}"
            raise UserError(f"--repo {repo}: is for {both}; write {{run}} in it, as in --repo owner/{{run}}")
        targets[repo] = (run, section)
    return targets


def _plan(run: RunFolder, repo: str, of: dict[str, Any]) -> None:
    from hf_tti.hub import planned

    for branch, files in planned(run, repo, **of).items():
        say(f"{repo} {branch}: {len(files)} files, {sum(files.values()):,} bytes: {', '.join(sorted(files))}")


def _push_one(run: RunFolder, repo: str, of: dict[str, Any]) -> None:
    from hf_tti.hub import push_run

    done = push_run(run, repo, collects=False, **of)
    for branch, commit in done.branches.items():
        say(f"{branch}: {f'pushed, commit {commit[:10]}' if commit else 'already there, byte for byte'}")
    say(done.url)


def _collect(title: str, repos: list[str], *, private: bool) -> None:
    from huggingface_hub import HfApi

    from hf_tti.hub.collections import add_to_collection

    say(f"in the collection {HfApi().endpoint}/collections/{add_to_collection(title, repos, private=private)}")
