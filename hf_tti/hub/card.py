"""The model card of a run, and the files that it speaks of: what a colleague sees on the Hub.

    card_files(RunFolder(path), "me/decorrelation-seed42") -> {"README.md": ..., "recipe.yaml": ..., ...}

The YAML header is huggingface_hub's; a report's values are in it as `model-index`. All text of recipes, logs and models
is escaped. The same run gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_tti.card_parts import card_parts
from hf_tti.components import component_names, load_component
from hf_tti.data._hub import HubStories
from hf_tti.hub import card_sections as sections
from hf_tti.hub.card_facts import CardFacts
from hf_tti.hub.side_files import Files, side_files
from hf_tti.hub_results import eval_results
from hf_tti.run_folder import RECIPE_FILE, RunFolder
from hf_tti.table import headline_metrics

CARD_FILE, ASSETS, MAIN = "README.md", "assets", "main"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card_files(
    run: RunFolder,
    repo: str,
    *,
    revision: str = MAIN,
    report_dir: Path | None = None,
    branches: Sequence[str] = (),
) -> Files:
    """The card and what goes with it.

    Args:
        run: a run; finished for `main`.
        repo: owner/name on the Hub.
        revision: `main`, or the branch of a checkpoint, `step<N>`.
        report_dir: what `hf-tti report` wrote, for its frontier pictures.
        branches: of the repository that hold checkpoints, by step.

    Returns:
        Path in the repository -> content, or the file that holds it.

    Raises:
        UserError: no run there, a damaged report or one of other weights, no frontier pictures in `report_dir`.
    """
    facts = CardFacts.of(run, repo, revision, branches)
    if revision != MAIN:
        text = f"{_header(facts)}\n{sections.step_card(facts)}\n"
        return {CARD_FILE: text.encode(), RECIPE_FILE: facts.recipe_text.encode()}
    parts = card_parts(run, report_dir)
    files = side_files(run, repo)
    text = f"{_header(facts)}\n{sections.main_card(facts, parts, files, ASSETS)}\n"
    pictures = {f"{ASSETS}/{picture.name}.png": picture.png for picture in (*parts.curves, *parts.frontiers)}
    return {CARD_FILE: text.encode(), **files, **pictures}


def _header(facts: CardFacts) -> str:
    """The YAML between dashes. It claims nothing that the run does not know: no language, no licence but the chosen."""
    recipe, results = facts.recipe, _results(facts)
    known: dict[str, Any] = {"license": facts.license, "datasets": _dataset(facts), "base_model": _base_model(facts)}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["hf-tti", "interpretability", *recipe.objectives],
        **{name: value for name, value in known.items() if value},
        **({"model_name": facts.name, "eval_results": results} if results else {}),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def _results(facts: CardFacts) -> list[EvalResult]:
    """Cross-entropy, perplexity and each metric's headline."""
    if facts.report is None:
        return []
    headlines = headline_metrics({f"eval_{key}": value for key, value in facts.report.metrics.items()})
    others = {f"{name}/mean" for name in headlines}
    return [r for r in eval_results(facts.report) if "/" not in r.metric_name or r.metric_name in others]


def _dataset(facts: CardFacts) -> str | None:
    """The corpus, where it is on the Hub."""
    data = facts.recipe.data
    name = data.get("name", "")
    builder = load_component("data", name) if name in component_names("data") else None
    if builder is None or not issubclass(builder, HubStories):
        return None
    source = data.get("train") or builder.hub_id
    return source if _HUB_ID.fullmatch(source) and not Path(source).exists() else None


def _base_model(facts: CardFacts) -> str | None:
    """The model that training went on from, where it is on the Hub."""
    base = facts.recipe.model.get("pretrained")
    return base if base and _HUB_ID.fullmatch(base) and not Path(base).exists() else None
