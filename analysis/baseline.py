"""Which method is the baseline, and which are shorter baselines.

Without other instructions the method without objectives that trained for most steps; a shorter baseline has its recipe
but for the number of steps (and warm-up, and how often it was looked at).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.runs import Run
from hf_tti.errors import UserError, did_you_mean

_LENGTH = ("max_steps", "num_train_epochs", "warmup_steps", "seed", "data_seed")
_LOOKS = ("eval_", "save_", "logging_", "metric_batches", "force_ratio_steps")


def by_method(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Method -> its runs by seed, methods in the order in which runs bring them."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.method, []).append(run)
    return {name: sorted(group, key=lambda run: (run.seed is None, run.seed)) for name, group in groups.items()}


def find_baseline(groups: Mapping[str, list[Run]], asked: str | None, notes: list[str]) -> str | None:
    """The method that is asked for, else the longest without objectives; None where that is not one (which is noted).

    Raises:
        UserError: the one that is asked for is not there.
    """
    if asked is not None:
        if asked not in groups:
            raise UserError(f"baseline {asked}: no such method{did_you_mean(asked, groups)}: {', '.join(groups)}")
        return asked
    plain = [name for name, runs in groups.items() if all(_has_no_objectives(run) for run in runs)]
    longest = [name for name in plain if _steps(groups[name]) == max(map(_steps, (groups[one] for one in plain)))]
    if len(longest) == 1:
        return longest[0]
    if "baseline" in longest:
        return "baseline"
    found = f"{', '.join(longest)} are equally long without objectives" if longest else "no method without objectives"
    notes.append(f"no baseline ({found}), so no differences and no verdicts: name one with --baseline")
    return None


def _has_no_objectives(run: Run) -> bool:
    return run.report.recipe is not None and not run.report.recipe.get("objectives")


def _steps(runs: Sequence[Run]) -> int:
    """Optimizer steps of the longest run."""
    return max(run.report.step or 0 for run in runs)


def shorter_baselines(groups: Mapping[str, list[Run]], baseline: str | None, notes: list[str]) -> list[str]:
    """Methods that are the baseline's recipe with fewer steps, the longest first."""
    if baseline is None:
        return []
    recipe, steps = _without_length(groups[baseline][0]), _steps(groups[baseline])
    shorter = [
        name
        for name, runs in groups.items()
        if recipe is not None and _steps(runs) < steps and all(_without_length(run) == recipe for run in runs)
    ]
    shorter.sort(key=lambda name: -_steps(groups[name]))
    if shorter:
        notes.append(f"{', '.join(shorter)}: the baseline's recipe with fewer steps, for equal cross-entropy alone")
    if unfinished := [name for name in shorter if not all(map(has_ended, groups[name]))]:
        notes.append(f"{', '.join(unfinished)}: evaluated before its end, when the learning rate had not decayed")
    return shorter


def has_ended(run: Run) -> bool:
    """Whether the weights are of the last step of the recipe; true where one of the two does not say."""
    last = ((run.report.recipe or {}).get("training") or {}).get("max_steps") or 0
    return run.report.step is None or run.report.step >= last


def _without_length(run: Run) -> dict | None:
    recipe = run.report.recipe
    if recipe is None:
        return None
    training = {
        key: value
        for key, value in (recipe.get("training") or {}).items()
        if key not in _LENGTH and not key.startswith(_LOOKS)
    }
    return {"training": training, **{key: recipe.get(key) or {} for key in ("model", "data", "objectives")}}
