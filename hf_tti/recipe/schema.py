"""What a recipe may say: keys, types, ranges and choices, as `hf_tti.recipe.schema_build` wrote them down.

A component whose file is in the package but not yet in that JSON is described from its class, which
imports torch.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_tti.components import component_names
from hf_tti.errors import did_you_mean
from hf_tti.recipe.parse import quoted
from hf_tti.recipe.sections import LABEL_PATTERN

SCHEMA_DIR = Path(__file__).parent / "schemas"
SECTIONS = (
    "model",
    "data",
    "training",
    "objectives",
    "metrics",
    "studies",
    "callbacks",
    "evaluation",
    "analysis",
    "tracking",
    "hub",
    "sweep",
)
CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_RUN_FOLDER = "chosen by the command that starts the run (--run-dir)"
_CLI = "chosen by the command that starts the run"
_HUB = "set by hub.push, hub.repo and hub.private"
_PRECISION = "set by training.precision"
_TRACKIO = "trackio takes it from its own environment variables"
_CLASSIFIER = "does not concern a causal language model"
_BY_MODEL = "decided by the library, not by a recipe"

# Keys of the underlying classes that a recipe may not set -> where the value comes from.
_TRAINER = "set by the trainer, which knows the model's inputs"
_DDP_ONLY = "not supported: objectives read whole weights and activations; use accelerate launch (DDP)"

OWNED: dict[str, dict[str, str]] = {
    "training": {
        **dict.fromkeys(["output_dir", "overwrite_output_dir", "logging_dir"], _RUN_FOLDER),
        **dict.fromkeys(["do_train", "do_eval", "do_predict", "resume_from_checkpoint", "elastic_resume"], _CLI),
        "run_name": "made from the recipe's name and the sweep",
        "report_to": "set by tracking.tracker",
        "project": "set by tracking.project",
        **dict.fromkeys(["trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"], _TRACKIO),
        "push_to_hub": "set by hub.push",
        "hub_model_id": "set by hub.repo",
        "hub_private_repo": "set by hub.private",
        "hub_token": "taken from the environment (HF_TOKEN), never from a recipe",
        **dict.fromkeys(["hub_strategy", "hub_always_push", "hub_revision"], _HUB),
        **dict.fromkeys(["bf16", "fp16", "bf16_full_eval", "fp16_full_eval"], _PRECISION),
        "local_rank": "set by accelerate launch",
        **dict.fromkeys(["label_names", "remove_unused_columns", "prediction_loss_only"], _TRAINER),
        **dict.fromkeys(["fsdp", "fsdp_config", "deepspeed"], _DDP_ONLY),
        "ignore_data_skip": "a resumed run would see other data and other dropout than one that nothing stopped",
        "dataloader_persistent_workers": "a resumed run would draw other random numbers than one that nothing stopped",
        "save_on_each_node": "rank 0 alone writes checkpoints",
        "save_only_model": "a run could not resume; every checkpoint keeps its optimizer",
        "parallelism_config": "set by the accelerate configuration (recipes/accelerate)",
    },
    "model": {
        "dtype": _PRECISION,
        "torch_dtype": _PRECISION,
        **dict.fromkeys(["id2label", "label2id", "problem_type", "num_labels"], _CLASSIFIER),
        **dict.fromkeys(["is_encoder_decoder", "add_cross_attention", "is_decoder"], _CLASSIFIER),
        **dict.fromkeys(["architectures", "transformers_version", "name_or_path"], _BY_MODEL),
        **dict.fromkeys(["return_dict", "output_hidden_states", "output_attentions"], _BY_MODEL),
        **dict.fromkeys(["chunk_size_feed_forward", "loss_type"], _BY_MODEL),
    },
}


def shipped_versions() -> dict[tuple[int, int], Path]:
    """(major, minor) of transformers -> the file that describes it."""
    files = SCHEMA_DIR.glob("transformers-*.json")
    return {_version(path.stem.partition("-")[2]): path for path in sorted(files)}


def _version(text: str) -> tuple[int, int]:
    major, minor = (re.findall(r"\d+", text) + ["0", "0"])[:2]
    return int(major), int(minor)


def transformers_schema_path() -> Path:
    """The newest shipped file not newer than the installed transformers, which is not imported."""
    shipped = shipped_versions()
    try:
        installed = _version(importlib.metadata.version("transformers"))
    except importlib.metadata.PackageNotFoundError:
        installed = max(shipped)
    return shipped[max((v for v in shipped if v <= installed), default=min(shipped))]


@functools.cache
def load_schema() -> dict[str, Any]:
    """Both generated files as one: `sites`, `head`, `training`, `models`, `objectives`, …"""
    ours = json.loads((SCHEMA_DIR / "hf_tti.json").read_text(encoding="utf-8"))
    theirs = json.loads(transformers_schema_path().read_text(encoding="utf-8"))
    return {
        **ours,
        "training": {**theirs["training"], **ours["training"]},
        "models": theirs["models"],
    }


@functools.cache
def component_fields(kind: str, name: str) -> dict[str, Any]:
    """Key -> specification of a built-in component of `objectives`, `metrics`, `studies` or `callbacks`."""
    known = load_schema()[kind]
    if name in known:
        return known[name]
    return importlib.import_module("hf_tti.recipe.schema_build").component_schema(kind, name)


def bad_component(kind: str, name: str) -> str | None:
    """Why this names no component of the kind, or None. Your own class is not imported."""
    names = component_names(kind)
    if name in names or CLASS_PATH.fullmatch(name):
        return None
    what = {"data": "data set", "studies": "study"}.get(kind, kind.removesuffix("s"))
    if ":" in name:
        return f"{quoted(name)} is not of the form package.module:Class"
    choices = f"choices: {listed(names)}, or package.module:Class"
    return f"unknown {what} {quoted(name)}{did_you_mean(name, names)}; {choices}"


def bad_site(site: str, sites: list[str]) -> str | None:
    """Why this can be no site in any model, or None. Only a model tells whether a path exists."""
    body, colon, side = site.partition(":")
    if site in sites:
        return None
    if colon and side != "in":
        return f"unknown site {quoted(site)}: after the colon there is only ':in', a module's input"
    is_path = "." in body or "*" in body
    if is_path and body.split(".")[0] not in {name.split(".")[0] for name in sites}:
        return None if all(body.split(".")) else f"unknown site {quoted(site)}: an empty part in the module path"
    choices = f"choices: {', '.join(sites)}, or a module path such as 'h.*.mlp.c_fc'"
    return f"unknown site {quoted(site)}{did_you_mean(site, sites)}; {choices}"


def bad_label(label: str) -> str | None:
    """Why this cannot label an entry, or None."""
    if re.fullmatch(LABEL_PATTERN, label):
        return None
    return "a label has letters, digits, '_' and '-' only, and starts with a letter"


def listed(names: Iterable[Any], most: int = 14) -> str:
    """Choices for an error's end, cut short where they are many."""
    texts = [str(name) for name in names]
    return ", ".join(texts[:most]) + (", …" if len(texts) > most else "") if texts else "none"
