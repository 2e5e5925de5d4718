"""What is known of a run without opening its model: the material of a card."""

from __future__ import annotations

import ast
import inspect
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hf_tti
from hf_tti.components import component_names, load_component
from hf_tti.errors import UserError
from hf_tti.hub.side_files import recipe_text, sae_folders
from hf_tti.recipe import Recipe
from hf_tti.report import REPORT_DIR, REPORT_FILE, Report
from hf_tti.run_folder import METRICS_FILE, RESULT_FILE, RunFolder

_SIZES = {  # words -> names in config.json, of GPT-2 and of the others
    "layers": ("n_layer", "num_hidden_layers"),
    "width": ("n_embd", "hidden_size"),
    "heads": ("n_head", "num_attention_heads"),
    "MLP width": ("n_inner", "intermediate_size"),
    "positions": ("n_positions", "max_position_embeddings"),
    "vocabulary": ("vocab_size",),
}
_MAX_STORY = 1500  # characters


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """One run, and where it goes.

    Attributes:
        repo, revision: on the Hub. name: of the run.
        recipe: resolved. recipe_text: as it is published.
        record, result: of `run.json` and `result.json`; {} where there is none.
        config: of the model, `config.json`.
        report: None where the run was not evaluated.
        saes: `<hookpoint>/seed_<n>` of each.
        story: the first that the run generated; "" where it generated none.
        year: in which the run ended.
        license: as the recipe's `hub.license` names it; None where none was chosen.
        branches: of the repository that hold checkpoints, by step.
    """

    repo: str
    revision: str
    name: str
    recipe: Recipe
    recipe_text: str
    record: Mapping[str, Any]
    result: Mapping[str, Any]
    config: Mapping[str, Any]
    report: Report | None
    saes: Sequence[str]
    story: str
    year: int
    run: RunFolder
    branches: Sequence[str] = ()

    @classmethod
    def of(cls, run: RunFolder, repo: str, revision: str, branches: Sequence[str] = ()) -> CardFacts:
        """Of a checkpoint only what was known when it was made: its card stays the same when the run goes on.

        Raises:
            UserError: no run there, or a damaged report or one of other weights.
        """
        recipe, is_main = run.recipe(), revision == "main"
        ended = run.path / RESULT_FILE
        return cls(
            repo=repo,
            revision=revision,
            name=recipe.run_name,
            recipe=recipe,
            recipe_text=recipe_text(run, made_by=is_main),
            record=run.record() or {},
            result=(is_main and run.result()) or {},
            config=_config(run, revision),
            report=report_of(run) if is_main else None,
            saes=sae_folders(run) if is_main else [],
            story=_first_story(run.path / "stories.txt") if is_main else "",
            year=time.gmtime((ended if ended.is_file() else run.path).stat().st_mtime).tm_year,
            run=run,
            branches=branches,
        )

    @property
    def license(self) -> str | None:
        return self.recipe.hub.get("license")

    @property
    def step(self) -> int | None:
        """Of a checkpoint's branch."""
        digits = self.revision.removeprefix("step")
        return int(digits) if digits != self.revision and digits.isdigit() else None

    @property
    def model_type(self) -> str:
        return self.config.get("model_type") or self.recipe.model.get("model_type", "gpt2")

    def sizes(self) -> dict[str, int]:
        """`layers`, `width`, …: whatever of it the configuration names."""
        found = {
            words: next((self.config[n] for n in names if self.config.get(n)), None) for words, names in _SIZES.items()
        }
        if self.model_type == "gpt2" and found["MLP width"] is None and found["width"]:
            found["MLP width"] = 4 * found["width"]
        return {words: value for words, value in found.items() if isinstance(value, int)}

    def metrics_at(self, step: int) -> dict[str, Any]:
        """What the run's log says of an evaluation at this step; {} where there was none before the checkpoint."""
        found: dict[str, Any] = {}
        for line in _lines(self.run.path / METRICS_FILE):
            if line.get("step") == step and "eval_loss" in line and "final" not in line:
                found = line
        return found


def report_of(run: RunFolder) -> Report | None:
    """The evaluation of the final model; None where the run was not evaluated.

    Raises:
        UserError: a damaged report, or one of other weights than `final/` holds.
    """
    path = run.path / REPORT_DIR / REPORT_FILE
    if not path.is_file():
        return None
    report, steps = Report.load(run.path), (run.result() or {}).get("num_steps")
    other = None
    if isinstance(steps, int) and report.step is not None and report.step != steps:
        other = f"step {report.step}, and training ended at step {steps}"
    elif (run.final / "model.safetensors").is_file() and report.model.weights_sha256 != _weights_of(run):
        other = "other weights than those in final/"
    if other is not None:
        raise UserError(f"{path}: is of {report.name}, {other}; hf-tti evaluate {run.path} makes one of this model")
    return report


def _weights_of(run: RunFolder) -> str:
    from hf_tti.evaluate import weights_sha256  # which loads torch
    from hf_tti.loading import find_checkpoint, load_model

    return weights_sha256(load_model(find_checkpoint(run.final)))


def corpus_of(report: Report) -> str:
    """What a report was measured on: its name, its own files, the split."""
    settings = report.data.settings
    source = settings.get("validation") or settings.get("train")
    files = f" ({', '.join(map(short, source if isinstance(source, list) else [source]))})" if source else ""
    return f"{report.data.name}{files}, {report.data.split} split, {report.data.num_tokens:,} tokens"


def is_own_corpus(report: Report, recipe: Recipe) -> bool:
    """Whether a report was measured on the corpus that the run was trained on."""
    ours, theirs = {"name": "synthetic_stories", **recipe.data}, report.data.settings
    same_files = all((ours.get(key) or None) == (theirs.get(key) or None) for key in ("train", "validation"))
    return report.data.name == ours["name"] and same_files


def short(value: Any) -> str:
    """As it can stand in a cell; of a path its last part."""
    if isinstance(value, list):
        return ", ".join(map(short, value))
    text = str(value)
    return re.split(r"[/\\]", text)[-1] if text.startswith(("/", "~")) else text


def definition(name: str) -> str:
    """What the objective of this name computes: the docstring of its file, or of its class; "" without one."""
    if name in component_names("objectives"):  # without importing it, which loads torch
        source = Path(hf_tti.__file__).parent / "objectives" / f"{name}.py"
        return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    try:
        return inspect.getdoc(load_component("objectives", name)) or ""
    except UserError:
        return ""


def _config(run: RunFolder, revision: str) -> dict[str, Any]:
    """Of `final/`, or of the checkpoint, which rotation may have left in the hands of the push alone."""
    checkpoints = [run.path / ".push" / revision, run.path / f"checkpoint-{revision.removeprefix('step')}"]
    for folder in [*(checkpoints if revision != "main" else []), run.final]:
        if (folder / "config.json").is_file():
            try:
                return json.loads((folder / "config.json").read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{folder / 'config.json'}: damaged: {error}") from error
    return {}


def _first_story(path: Path) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    story = text.removeprefix("--- 1\n").split("\n--- 2\n")[0].strip()
    return story if len(story) <= _MAX_STORY else f"{story[:_MAX_STORY]}…"


def _lines(path: Path) -> list[dict[str, Any]]:
    """Of a JSONL file, a torn one left out."""
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return [line for line in found if isinstance(line, dict)]
