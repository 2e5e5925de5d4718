"""`hf-tti recipes`, `data` and `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hf_tti.commands.base import recipe_arguments, set_argument
from hf_tti.console import complain, say
from hf_tti.table import format_table


def recipes_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the recipes of a folder, and the question of each")
    listing.add_argument("folder", type=Path, nargs="?", default=Path("recipes"), metavar="FOLDER")
    show = actions.add_parser("show", help="a recipe with `extends` and overrides resolved")
    recipe_arguments(show)
    validate = actions.add_parser("validate", help="check recipes, loading nothing")
    validate.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE", help="YAML files, or folders of them")
    set_argument(validate)


def recipes(arguments: argparse.Namespace) -> int:
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


def data(arguments: argparse.Namespace) -> int:
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


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE", help="estimate the memory that it needs")
    set_argument(parser)


def doctor(arguments: argparse.Namespace) -> int:
    from hf_tti.cost.memory import estimate_memory
    from hf_tti.doctor import diagnose
    from hf_tti.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides) if arguments.recipe else None
    findings = diagnose(Path("runs"))
    say(format_table([{"what": item.what, "state": item.state, "detail": item.detail} for item in findings]))
    if recipe is not None:
        rows, assumptions = estimate_memory(recipe)
        say(f"\n{arguments.recipe}, for each process:\n\n{format_table(rows)}\n")
        say("\n".join(f"- {assumption}" for assumption in assumptions))
    return 1 if any(item.state == "problem" for item in findings) else 0
