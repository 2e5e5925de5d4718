"""The `hub:` section: pushing a finished run's `final/` to the HuggingFace Hub.

Only files of an allow-list leave the machine, with a model card of our own. The token comes from
the environment or `hf auth login`, never from a recipe. A push that fails costs nothing but the
push: the run stays finished.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HTTPError  # of httpx or httpx2, as it uses

from hf_tti.errors import UserError
from hf_tti.recipe import Recipe
from hf_tti.recipe.sections import HubSection
from hf_tti.table import format_number, headline_metrics

ALLOWED_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
_WAITS_S = (1.0, 4.0, 16.0)
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class PushError(UserError):
    """The run is finished, its model is not on the Hub."""

    exit_code = 4


def check_hub(section: HubSection) -> None:
    """Raises a UserError, before training, for a push that cannot succeed."""
    if section.push == "none":
        return
    if not section.repo:
        raise UserError("hub.repo: missing; hub.push: final needs owner/name")
    if get_token() is None:
        raise UserError("hub.push: final needs a token; set HF_TOKEN, log in with hf auth login, or set hub.push=none")


def push_final(
    section: HubSection,
    final: Path,
    recipe: Recipe,
    metrics: Mapping[str, float | None],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Pushes the folder, after writing its model card. Returns the repository's address.

    Raises:
        PushError: the Hub refused, or did not answer on 4 attempts; says the command that finishes
            the push.
    """
    api = HfApi()
    (final / "README.md").write_text(str(model_card(section.repo, recipe, metrics)), encoding="utf-8")

    def attempt() -> str:
        api.create_repo(section.repo, private=section.private, exist_ok=True)
        api.upload_folder(
            repo_id=section.repo,
            folder_path=final,
            allow_patterns=list(ALLOWED_FILES),
            commit_message=f"{recipe.run_name}, trained with hf_tti",
        )
        return f"{api.endpoint}/{section.repo}"

    for wait in (*_WAITS_S, None):
        try:
            return attempt()
        except (HTTPError, OSError) as error:
            if wait is None or not _may_pass(error):
                raise _unfinished(section.repo, final, error) from error
            sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _may_pass(error: Exception) -> bool:
    response = getattr(error, "response", None)  # of errors that are an answer of the server
    return response is None or response.status_code in _TRANSIENT


def _unfinished(repo: str, final: Path, error: Exception) -> PushError:
    reason = " ".join(str(error).split())[:200]
    include = " ".join(f"--include {shlex.quote(name)}" for name in ALLOWED_FILES)
    return PushError(
        f"the run is finished, but not pushed to {repo} ({reason}); to push it: "
        f"hf upload {repo} {shlex.quote(str(final))} {include}"
    )


def model_card(repo: str, recipe: Recipe, metrics: Mapping[str, float | None]) -> ModelCard:
    """What the model is, how it did, and the recipe that makes it again."""
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    base = recipe.model.get("pretrained")
    if base and not Path(base).exists():
        data["base_model"] = base
    header = ModelCardData(tags=["hf-tti", "interpretability"], **data)
    rows = [f"| {name} | {format_number(value)} |" for name, value in headline_metrics(metrics).items()]
    objectives = ", ".join(f"{label} (weight {entry['weight']:g})" for label, entry in recipe.objectives.items())
    return ModelCard(
        "\n".join(
            [
                f"---\n{header.to_yaml()}\n---",
                f"# {repo.rpartition('/')[2]}",
                f"A run of the experiment {recipe.experiment or recipe.name}. {recipe.question}",
                f"Objectives beside cross-entropy: {objectives or 'none'}.",
                "",
                "| validation | |",
                "| --- | --- |",
                *rows,
                "",
                "The recipe, for hf_tti:",
                "",
                *(f"    {line}" for line in recipe.to_yaml().splitlines()),
                "",
            ]
        )
    )
