"""The subcommands of `hf-tti`, each a few lines around the library, which is imported when one runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_tti.console import complain, say
from hf_tti.errors import UserError, did_you_mean
from hf_tti.table import Cell, format_number, format_table, headline_metrics

if TYPE_CHECKING:
    from hf_tti.loading import Checkpoint
    from hf_tti.report import Report

INTERRUPTED = 130


@dataclass(frozen=True)
class Command:
    """A subcommand: its one-line help, what adds its arguments, and what runs it and returns the
    exit code.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


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
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint that is whole")
    parser.add_argument(
        "--elastic", action="store_true", help="resume with other processes or batch, the global batch being equal"
    )


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
    train_run(
        runs[name],
        run_dir,
        resume=arguments.resume,
        elastic=arguments.elastic,
        command=arguments.command_line,
    )
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
    what = "a run folder, a folder with config.json, or a Hub id"
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=what)
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--data",
        metavar="FILE|FOLDER|BUILDER",
        help="text, or a corpus by name; default: the run's validation split, else synthetic_stories",
    )
    parser.add_argument("--metrics", metavar="A,B,C", help="and studies; default: the run's and the built-in ones")
    parser.add_argument("--max-tokens", type=_positive, metavar="N", help="default: as the run, else the corpus's own")
    parser.add_argument("--batch-size", type=_positive, metavar="N", help="rows; default: as the run, else 8")
    parser.add_argument("--metric-batches", type=_positive, metavar="N", help="batches that metrics see; default: all")
    parser.add_argument(
        "--labels", metavar="SOURCE", help="for probes: a JSONL file of words and labels, spacy, spacy:MODEL or nltk"
    )
    parser.add_argument("--sample-tokens", type=_positive, metavar="N", help="that studies look at; default: 16384")
    parser.add_argument("--nulls", metavar="A,B,C", help="random_init, rotated, shuffled_labels, or none; default: all")
    parser.add_argument("--reference", metavar="CHECKPOINT", help="a model to compare with (cka)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: RUN/report, else reports/<name>")


def _evaluate(arguments: argparse.Namespace) -> int:
    from hf_tti.loading import find_checkpoint

    if len(arguments.checkpoints) > 1 and arguments.out is not None:
        raise UserError(f"--out {arguments.out}: one folder for {len(arguments.checkpoints)} checkpoints; leave it out")
    places = [find_checkpoint(checkpoint, arguments.revision) for checkpoint in arguments.checkpoints]
    for place in places:
        _evaluate_one(place, arguments)
    return 0


def _evaluate_one(place: Checkpoint, arguments: argparse.Namespace) -> None:
    from hf_tti.evaluate import evaluate_checkpoint

    nulls = _words(arguments.nulls)
    report = evaluate_checkpoint(
        place,
        data=arguments.data,
        metrics=_words(arguments.metrics),
        max_tokens=arguments.max_tokens,
        batch_size=arguments.batch_size,
        metric_batches=arguments.metric_batches,
        labels=arguments.labels,
        sample_tokens=arguments.sample_tokens,
        nulls=[] if nulls == ["none"] else nulls,
        reference=arguments.reference,
        progress=sys.stderr.isatty(),
    )
    folder = report.save(arguments.out or place.default_out)
    if len(arguments.checkpoints) == 1:
        say(f"{report.name}, {report.metrics['num_tokens']:,} tokens of {report.data.name}\n")
        say(format_table(_with_nulls(report)))
        say(f"\nreport in {folder}")
    else:
        loss, perplexity = (format_number(report.metrics[name]) for name in ("loss", "perplexity"))
        say(f"{report.name}: loss {loss}, perplexity {perplexity}, report in {folder}")


def _with_nulls(report: Report) -> list[dict[str, Cell]]:
    """The means over layers, a row a metric, and beside them what the nulls have."""
    columns = {"value": report.metrics, **report.nulls}
    columns = {name: headline_metrics({f"eval_{k}": v for k, v in of.items()}) for name, of in columns.items()}
    rows = [{"metric": "loss", "value": report.metrics["loss"], **{n: v.get("loss") for n, v in report.nulls.items()}}]
    rows += [
        {"metric": metric, **{name: of.get(metric) for name, of in columns.items()}} for metric in columns["value"]
    ]
    return rows


def _words(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


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
