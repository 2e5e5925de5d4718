"""The `hf-tti` command: one function for each subcommand, each a few lines around the library.

Nothing heavy is imported before a subcommand needs it. Other packages add subcommands by an entry
point in the group `hf_tti.commands` whose name is the subcommand and whose object is a `Command`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hf_tti
from hf_tti.console import complain, say
from hf_tti.errors import UserError, did_you_mean

ENTRY_POINTS = "hf_tti.commands"
INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A subcommand: its one-line help, what adds its arguments, and what runs it and returns the
    exit code.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand. Returns the exit code: 0, 2 for what the user can put right, 130 when
    interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # package.module:Class in a recipe, as with python -m
    try:
        arguments = _parser(argv).parse_args(argv)
        arguments.command_line = shlex.join(["hf-tti", *argv])
        return arguments.run(arguments)
    except UserError as error:
        complain(str(error))
        return error.exit_code
    except (NotADirectoryError, FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError) as error:
        complain(f"{error.filename or 'hf-tti'}: {(error.strerror or str(error)).lower()}")
        return UserError.exit_code
    except KeyboardInterrupt:
        resumes = argv[:1] == ["train"]
        complain("interrupted" + "; the same command with --resume goes on from the last checkpoint" * resumes)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` has read enough
        return 1


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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


# ---- train -------------------------------------------------------------------------------------


def _recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file")
    _set_argument(parser)


def _set_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override the recipe; the value is YAML; may be repeated",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _recipe_arguments(parser)
    parser.add_argument(
        "--run",
        dest="run_name",
        metavar="NAME",
        help="which run of the recipe's sweep; default: first",
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<experiment>/<run>")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")


def _train(arguments: argparse.Namespace) -> int:
    from hf_tti.recipe import expand_sweep, load_recipe
    from hf_tti.run_folder import default_run_dir

    runs = {run.run_name: run for run in expand_sweep(load_recipe(arguments.recipe, arguments.overrides))}
    name = arguments.run_name or next(iter(runs))
    if name not in runs:
        raise UserError(
            f"--run {name}: {arguments.recipe} has no such run{did_you_mean(name, runs)}: " + ", ".join(runs)
        )
    if len(runs) > 1 and arguments.run_name is None:
        say(f"{arguments.recipe} stands for {len(runs)} runs; training the first (hf-tti sweep trains them all)")
    from hf_tti.run import train_run

    run_dir = arguments.run_dir or default_run_dir(runs[name])
    train_run(runs[name], run_dir, resume=arguments.resume, command=arguments.command_line)
    return 0


# ---- sweep -------------------------------------------------------------------------------------


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="YAML files, or folders of them")
    _set_argument(parser)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs")
    parser.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time; default: 1")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _sweep(arguments: argparse.Namespace) -> int:
    from hf_tti.sweep import Sweep, plan

    runs = plan(arguments.recipes, arguments.overrides, arguments.runs_dir)
    if arguments.dry_run:
        for run in runs:
            say(f"{run.folder.path}  {run.state}")
        return 0
    sweep = Sweep(runs, jobs=arguments.jobs)
    try:
        sweep.train()
    except KeyboardInterrupt:
        complain("interrupted; the same command does the rest")
        return INTERRUPTED
    return sweep.report()


# ---- evaluate ----------------------------------------------------------------------------------


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run folder, a folder with config.json, or a Hub id")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--data",
        metavar="FILE|FOLDER|BUILDER",
        help="text, or a corpus by name; default: the run's validation split, else synthetic_stories",
    )
    parser.add_argument("--metrics", metavar="A,B,C", help="default: the run's, else all built-in ones")
    parser.add_argument("--max-tokens", type=_positive, metavar="N", help="default: as the run, else the corpus's own")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="rows; default: as the run, else 8")
    parser.add_argument("--metric-batches", type=_positive, metavar="N", help="batches that metrics see; default: all")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/report, else reports/<name>")


def _evaluate(arguments: argparse.Namespace) -> int:
    from hf_tti.evaluate import evaluate_checkpoint
    from hf_tti.loading import find_checkpoint
    from hf_tti.table import format_table, headline_metrics

    place = find_checkpoint(arguments.checkpoint, arguments.revision)
    report = evaluate_checkpoint(
        place,
        data=arguments.data,
        metrics=arguments.metrics.split(",") if arguments.metrics else None,
        max_tokens=arguments.max_tokens,
        batch_size=arguments.batch_size,
        metric_batches=arguments.metric_batches,
        progress=sys.stderr.isatty(),
    )
    folder = report.save(arguments.out or place.default_out)
    values = {"loss": report.metrics["loss"]}
    values |= headline_metrics({f"eval_{name}": value for name, value in report.metrics.items()})
    say(f"{report.name}, {report.metrics['num_tokens']:,} tokens of {report.data.name}\n")
    say(format_table([{"metric": name, "value": value} for name, value in values.items()]))
    say(f"\nreport in {folder}")
    return 0


# ---- recipes -----------------------------------------------------------------------------------


def _recipes_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the recipes of a folder, and the question of each")
    listing.add_argument("folder", type=Path, nargs="?", default=Path("recipes"), metavar="FOLDER")
    show = actions.add_parser("show", help="a recipe with `extends` and overrides resolved")
    _recipe_arguments(show)
    validate = actions.add_parser("validate", help="check recipes, loading nothing")
    validate.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="YAML files, or folders of them")
    _set_argument(validate)


def _recipes(arguments: argparse.Namespace) -> int:
    return {"list": _list_recipes, "show": _show_recipe, "validate": _validate_recipes}[arguments.action](arguments)


def _list_recipes(arguments: argparse.Namespace) -> int:
    from hf_tti.recipe import expand_sweep, load_recipe
    from hf_tti.sweep import recipes_below
    from hf_tti.table import format_table

    rows = []
    for path in recipes_below(arguments.folder):
        recipe = load_recipe(path)
        rows.append({"recipe": str(path), "runs": len(expand_sweep(recipe)), "question": recipe.question})
    say(format_table(rows))
    return 0


def _show_recipe(arguments: argparse.Namespace) -> int:
    from hf_tti.recipe import load_recipe

    say(load_recipe(arguments.recipe, arguments.overrides).to_yaml().rstrip())
    return 0


def _validate_recipes(arguments: argparse.Namespace) -> int:
    from hf_tti.recipe import RecipeError, expand_sweep, load_recipe
    from hf_tti.sweep import find_recipes

    exit_code = 0
    for path in find_recipes(arguments.recipes):
        try:
            num_runs = len(expand_sweep(load_recipe(path, arguments.overrides)))
        except RecipeError as error:
            complain(str(error))
            exit_code = error.exit_code
        else:
            say(f"{path}: OK, {num_runs} {'run' if num_runs == 1 else 'runs'}")
    return exit_code


# ---- data --------------------------------------------------------------------------------------


def _data(arguments: argparse.Namespace) -> int:
    from hf_tti.data import DataConfig, prepare_data
    from hf_tti.recipe import load_recipe
    from hf_tti.run_folder import resolve_paths

    recipe = resolve_paths(load_recipe(arguments.recipe, arguments.overrides))
    data = prepare_data(DataConfig(**recipe.data))
    train = "a stream" if data.num_train_tokens is None else f"{data.num_train_tokens:,} tokens"
    say(f"train {train}, validation {data.num_validation_tokens:,} tokens, vocabulary {len(data.tokenizer):,}")
    say(f"fingerprint {data.fingerprint[:16]}; the first validation row begins:")
    say(data.tokenizer.decode(data.validation[0]["input_ids"][:64]))
    return 0


# ---- doctor ------------------------------------------------------------------------------------


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE", help="estimate the memory that it needs")
    _set_argument(parser)


def _doctor(arguments: argparse.Namespace) -> int:
    from hf_tti.doctor import diagnose, estimate_memory
    from hf_tti.recipe import load_recipe
    from hf_tti.table import format_table

    recipe = load_recipe(arguments.recipe, arguments.overrides) if arguments.recipe else None
    findings = diagnose(Path("runs"))
    say(format_table([{"what": item.what, "state": item.state, "detail": item.detail} for item in findings]))
    if recipe is not None:
        rows, assumptions = estimate_memory(recipe)
        say(f"\n{arguments.recipe}, for each process:\n\n{format_table(rows)}\n")
        say("\n".join(f"- {assumption}" for assumption in assumptions))
    return 1 if any(item.state == "problem" for item in findings) else 0


COMMANDS = {
    "train": Command("train one run of a recipe", _train_arguments, _train),
    "sweep": Command("train every run of recipes, each in its own process", _sweep_arguments, _sweep),
    "evaluate": Command("measure a trained model and write its report", _evaluate_arguments, _evaluate),
    "recipes": Command("list, show and check recipes", _recipes_arguments, _recipes),
    "data": Command("prepare a recipe's data and say what it is", _recipe_arguments, _data),
    "doctor": Command("say what works on this machine", _doctor_arguments, _doctor),
}
