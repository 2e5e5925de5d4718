"""Which runs recipes stand for, how far each is on the Volume, and what the rest will cost: before anything starts."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tti.errors import UserError
from hf_tti.provenance import git_commit
from hf_tti.recipe import Recipe, load_recipe
from hf_tti.run_folder import ELASTIC, flat, resolve_paths
from hf_tti.sweep import PlannedRun, find_recipes, plan
from modal_jobs.invocation import check_account
from modal_jobs.launch import divided_batch
from modal_jobs.places import CHECKPOINTS_VOLUME, ROOT, RUNS, SOURCE
from modal_jobs.volume import checkpoints_volume, copy_records

if TYPE_CHECKING:
    from hf_tti.cost import CostEstimate

BATCH = "training.per_device_train_batch_size"


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for.

    Attributes:
        recipes: files or folders. overrides: of `--set`.
        gpus: names for the estimate, in their fallback order; empty: the CPU.
        num_processes: in each container. num_nodes: containers for a run.
    """

    recipes: Sequence[Path]
    overrides: Sequence[str]
    gpus: Sequence[str] = ()
    num_processes: int = 1
    num_nodes: int = 1


@dataclass(frozen=True)
class Planned:
    """One run.

    Attributes:
        run: as `hf_tti.sweep` plans it, its folder a copy of the Volume's records.
        recipe: the file, from the root of the checkout. place: the run's folder on the Volume.
    """

    run: PlannedRun
    recipe: str
    place: str

    @property
    def name(self) -> str:
        return self.run.recipe.run_name


def plan_runs(wanted: Wanted, records: Path) -> list[Planned]:
    """Every run of the recipes, with the batch divided over the processes.

    Args:
        records: a folder of what the Volume says of runs, as `runs/` would be here.

    Raises:
        UserError: a recipe with mistakes, or outside the image; a batch that does not divide, or that the recipe's grid
            sets for each process; two runs with one folder.
    """
    plan(wanted.recipes, wanted.overrides, records)  # two recipes with one folder
    planned = []
    for path in find_recipes(wanted.recipes):
        recipe = in_image(path)
        overrides = [*wanted.overrides, *_divided(path, wanted)]
        for run in plan([path], overrides, records):
            place = str(RUNS / run.folder.path.relative_to(records))
            planned.append(Planned(_there(run), recipe, place))
    return planned


def in_image(path: Path) -> str:
    """A recipe's path from the root of the checkout. Raises a UserError where the image will not have it."""
    recipes = ROOT / "recipes"
    try:
        return str(Path("recipes") / path.resolve().relative_to(recipes))
    except ValueError:
        raise UserError(f"{path}: not in the image, which holds {recipes}; put the recipe there") from None


def _divided(path: Path, wanted: Wanted) -> list[str]:
    """The override that keeps the global batch on several processes, unless the user set it."""
    processes = wanted.num_processes * wanted.num_nodes
    if processes == 1:
        return []
    recipe = load_recipe(path, wanted.overrides)
    if any(f"{BATCH}.".startswith(f"{axis}.") for axis in recipe.sweep.get("grid") or {}):
        raise UserError(
            f"{path}: sweep.grid sets {BATCH} for each of {processes} processes, so that the global batch would not be "
            "the recipe's; train on one GPU, or sweep something else"
        )
    if any(override.startswith(f"{BATCH}=") for override in wanted.overrides):
        return []
    batch = recipe.training.get("per_device_train_batch_size", 8)
    rows = divided_batch(batch, processes)
    if rows is None:
        raise UserError(f"{path}: {BATCH} is {batch}, which {processes} processes cannot share; set it by --extra")
    return [f"{BATCH}={rows}"]


def _there(run: PlannedRun) -> PlannedRun:
    """The run with its local files where the image has them, so that its digest is the container's."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        is_local = isinstance(value, str) and Path(value).is_relative_to(ROOT)
        return str(SOURCE / Path(value).relative_to(ROOT)) if is_local else value

    recipe = resolve_paths(run.recipe)
    sections = {name: moved(getattr(recipe, name)) for name in ("model", "data", "evaluation")}
    return dataclasses.replace(run, recipe=dataclasses.replace(recipe, **sections))


def plan_on_volume(wanted: Wanted, *, elastic: bool = False) -> list[tuple[Planned, str]]:
    """The runs, each with its state on the Volume: new, unfinished or finished.

    Args:
        elastic: take runs that were begun with another batch too; whether processes x batch x accumulation are the same
            is for the container to say, which sees the checkpoint.

    Raises:
        UserError: as `plan_runs` and `check_account`, or a folder there that holds a run of another recipe.
    """
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder)
        places = [run.place for run in plan_runs(wanted, records)]
        check_account()
        copy_records(checkpoints_volume(), places, records)
        return [(run, _state(run, elastic)) for run in plan_runs(wanted, records)]


def _state(planned: Planned, elastic: bool) -> str:
    run = planned.run
    if (state := run.state) in ("new", "unfinished", "finished"):
        return state
    wrong = _differences(run)
    if elastic and not wrong:
        return "finished" if run.folder.result() is not None and run.is_delivered else "unfinished"
    remedy = "" if wrong else "--extra --elastic goes on with it; "
    raise UserError(
        f"{planned.place} on the Volume was begun with {wrong or 'another batch'}; {remedy}"
        f"modal volume rm -r {CHECKPOINTS_VOLUME} {planned.place} removes it"
    )


def _differences(run: PlannedRun) -> str:
    """What a run on the Volume says otherwise than the recipe, but for the batch; empty: nothing else."""
    try:
        was, now = flat(run.folder.recipe()), flat(run.recipe)
    except UserError:
        return "another recipe"
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    if not names:  # the file was changed since
        return "another recipe"
    return "; ".join(f"{name} {was.get(name)}, which is {now.get(name)} now" for name in names if name not in ELASTIC)


def arguments_of(run: Planned, wanted: Wanted, *, elastic: bool = False) -> dict[str, Any]:
    """Keywords of `container.train`."""
    return {
        "recipe": run.recipe,
        "run_name": run.name,
        "place": run.place,
        "overrides": list(run.run.overrides),
        "elastic": elastic,
        "num_processes": wanted.num_processes,
        "gpu": bool(wanted.gpus),
        "num_nodes": wanted.num_nodes,
        "git_commit": git_commit(),
    }


def estimates_of(runs: Sequence[Planned], wanted: Wanted) -> list[CostEstimate | None]:
    """The cost of each run on the dearest of the GPUs; None on the CPU, which has no price here. Loads torch."""
    if not wanted.gpus:
        return [None] * len(runs)
    from hf_tti.cost import estimate

    known: dict[str, CostEstimate] = {}
    found = []
    for run in runs:
        recipe = run.run.recipe
        shape = _shape(recipe)
        if shape not in known:
            number = wanted.num_processes * wanted.num_nodes
            each = [estimate(recipe, gpu=gpu, num_gpus=number) for gpu in wanted.gpus]
            known[shape] = max(each, key=lambda cost: cost.dollars or 0.0)
        found.append(known[shape])
    return found


def _shape(recipe: Recipe) -> str:
    """What the cost depends on: all but seeds and the weights of objectives."""
    free = ("training.seed", "training.data_seed")
    values = {key: value for key, value in flat(recipe).items() if key not in free and not key.endswith(".weight")}
    return json.dumps(values, sort_keys=True, default=str)


def check_budget(estimates: Sequence[CostEstimate | None], limit: float | None) -> None:
    """Raises a UserError where the estimate is above `limit` dollars, or there is none to compare."""
    if limit is None:
        return
    if None in estimates:
        raise UserError(f"--max-usd {limit:g}: there is no price of a CPU container to compare with; leave it out")
    total = sum(cost.dollars or 0.0 for cost in estimates if cost is not None)
    runs = "1 run" if len(estimates) == 1 else f"{len(estimates)} runs"
    if total > limit:
        raise UserError(f"--max-usd {limit:g}: about ${total:,.2f} for {runs} is more; nothing is started")
