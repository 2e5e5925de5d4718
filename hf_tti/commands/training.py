"""`hf-tti train`, `resume`, `import-checkpoint` and `verify`."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.commands.base import positive, recipe_arguments, set_argument
from hf_tti.console import say
from hf_tti.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from hf_tti.recipe import Recipe
    from hf_tti.run_folder import RunFolder


def train_arguments(parser: argparse.ArgumentParser) -> None:
    recipe_arguments(parser)
    _which_run_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint that is whole")
    parser.add_argument(
        "--elastic", action="store_true", help="resume with other processes or batch, the global batch being equal"
    )
    several_arguments(parser)


def several_arguments(parser: argparse.ArgumentParser, title: str = "several processes") -> None:
    group = parser.add_argument_group(title)
    group.add_argument("--num-processes", type=positive, metavar="N", help="default: the configuration's")
    group.add_argument("--accelerate-config", type=Path, metavar="FILE", help="as `accelerate config` writes it")


def _is_several(arguments: argparse.Namespace) -> bool:
    return arguments.accelerate_config is not None or (arguments.num_processes or 1) > 1


def _launch(arguments: argparse.Namespace) -> int:
    """The same command on several processes, each without the arguments that ask for them."""
    from hf_tti.launch import Accelerate, launch

    ours = argparse.ArgumentParser(add_help=False)
    several_arguments(ours)
    training = ours.parse_known_args(shlex.split(arguments.command_line)[1:])[1]
    return launch(Accelerate(arguments.accelerate_config, arguments.num_processes), training)


def _which_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        dest="run_name",
        metavar="NAME",
        help="which run of the recipe's sweep; default: first",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<experiment>/<run>")


def _which_run(arguments: argparse.Namespace, *, is_launcher: bool = False) -> tuple[Recipe, Path]:
    """The run that is meant, and its folder. Where it is the first of several, a launcher leaves that to its ranks to
    say.
    """
    from hf_tti.recipe import expand_sweep, load_recipe
    from hf_tti.run_folder import default_run_dir

    runs = {run.run_name: run for run in expand_sweep(load_recipe(arguments.recipe, arguments.overrides))}
    name = arguments.run_name or next(iter(runs))
    if name not in runs:
        raise UserError(
            f"--run {name}: {arguments.recipe} has no such run{did_you_mean(name, runs)}: " + ", ".join(runs)
        )
    if len(runs) > 1 and arguments.run_name is None and not is_launcher:
        say(f"{arguments.recipe} stands for {len(runs)} runs; taking the first (hf-tti sweep trains them all)")
    return runs[name], arguments.run_dir or default_run_dir(runs[name])


def train(arguments: argparse.Namespace) -> int:
    recipe, run_dir = _which_run(arguments, is_launcher=_is_several(arguments))
    if _is_several(arguments):
        return _launch(arguments)
    from hf_tti.run import train_run

    train_run(
        recipe,
        run_dir,
        resume=arguments.resume,
        elastic=arguments.elastic,
        command=arguments.command_line,
    )
    return 0


def import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint-<step> of transformers' Trainer"
    )
    recipe_arguments(parser)
    _which_run_arguments(parser)


def import_checkpoint(arguments: argparse.Namespace) -> int:
    recipe, run_dir = _which_run(arguments)
    from hf_tti.importing import import_checkpoint

    import_checkpoint(recipe, arguments.checkpoint, run_dir, command=arguments.command_line)
    return 0


def resume_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
    parser.add_argument("--elastic", action="store_true", help="with other processes, the global batch being equal")
    set_argument(parser)
    several_arguments(parser)


def run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN", help="the folder of a run")


def resume(arguments: argparse.Namespace) -> int:
    from hf_tti.run_folder import RunFolder

    folder = RunFolder(arguments.folder)
    recipe = folder.recipe(arguments.overrides)
    if arguments.dry_run:
        _say_what_is_there(folder)
        _say_what_resuming_does(folder, recipe, elastic=arguments.elastic)
        return 0
    if _is_several(arguments):
        return _launch(arguments)
    from hf_tti.run import train_run

    train_run(recipe, arguments.folder, resume=True, elastic=arguments.elastic, command=arguments.command_line)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from hf_tti.checkpoints import NoValidCheckpoint
    from hf_tti.run_folder import RunFolder

    folder = RunFolder(arguments.folder)
    recipe = folder.recipe()
    _say_what_is_there(folder)
    _say_what_resuming_does(folder, recipe)
    is_damaged = folder.result() is not None and folder.final_problems()
    return NoValidCheckpoint.exit_code if is_damaged else 0


def _say_what_is_there(folder: RunFolder) -> None:
    """A line for each checkpoint, and one for `final/` or for each of its files that is damaged."""
    from hf_tti.checkpoints import MANIFEST, checkpoints_of, problems_of

    for path in checkpoints_of(folder.path):
        problems = problems_of(path)
        say(f"{path.name}: {problems[0] if problems else 'whole'}")
    if folder.result() is not None:
        has_digests = (folder.final / MANIFEST).is_file()
        for line in folder.final_problems() or ["whole" if has_digests else "whole, by headers and sizes"]:
            say(f"{folder.final.name}: {line}")


def _say_what_resuming_does(folder: RunFolder, recipe: Recipe, *, elastic: bool = False) -> None:
    """
    Raises:
        UserError: resuming is refused. NoValidCheckpoint: there is no whole checkpoint where one is needed.
    """
    from hf_tti.checkpoints import NoValidCheckpoint, checkpoints_of
    from hf_tti.run_folder import resolve_paths

    folder.check(resolve_paths(recipe), resume=True, elastic=elastic)
    folder.data_fingerprint()
    is_over, is_finished = folder.result() is not None, folder.finished() is not None
    owed, ours = _owed(folder, recipe, is_over=is_over)
    if is_finished:
        say(f"{recipe.run_name} is finished; resuming it {'pushes what is owed' if ours in owed else 'does nothing'}")
    else:
        if is_over:
            folder.check_final_can_be_written_anew(resume=True)
        newest, count = folder.newest_checkpoint(), len(checkpoints_of(folder.path))
        if newest is None and count:
            raise NoValidCheckpoint(f"{folder.path}: none of its {count} checkpoints is whole")
        start = newest.name if newest else "the start: there is no checkpoint"
        say(f"{recipe.run_name} would go on from {start}{' and write final/ anew' if is_over else ''}")
    for repo, branches in owed.items():
        how = "resuming" if repo == ours else f"hf-tti push {folder.path} --repo {repo}"
        say(f"owed to {repo}: {', '.join(branches)}; {how} pushes it")


def _owed(folder: RunFolder, recipe: Recipe, *, is_over: bool) -> tuple[dict[str, list[str]], str | None]:
    """Repository -> branches that have not arrived there, `main` last; and the repository that the recipe pushes to."""
    from hf_tti.pushes import MAIN, has_pushed, pending

    pushes = recipe.hub.get("push", "none") != "none" and recipe.hub.get("repo")
    ours = recipe.hub["repo"].replace("{run}", recipe.run_name) if pushes else None
    found = pending(folder.path)
    if ours and is_over and not has_pushed(folder.path, ours, MAIN):
        found |= {(ours, MAIN)}
    owed: dict[str, list[str]] = {}
    for repo, branch in sorted(found, key=lambda place: (place[0], place[1] == MAIN, len(place[1]), place[1])):
        owed.setdefault(repo, []).append(branch)
    return owed, ours
