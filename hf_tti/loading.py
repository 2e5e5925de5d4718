"""A saved model and its tokenizer, from a run folder, a checkpoint, any folder with config.json or a Hub id.

Refuses what `from_pretrained` lets pass: weights that are missing from the file and would be random, a tokenizer that
is not the model's.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from hf_tti.errors import UserError, did_you_mean
from hf_tti.own_files import check_links, check_model, check_run_links
from hf_tti.published import NotOnHub, hub_name, open_repo, published_recipe
from hf_tti.recipe import Recipe, load_recipe
from hf_tti.report import REPORT_DIR
from hf_tti.run_folder import RECIPE_FILE, RESULT_FILE, RUN_FILE, RunFolder


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is, and what is known of it without opening it.

    Attributes:
        given: as the user named it.
        source: the folder, or the Hub id.
        commit: of the Hub; None for folders.
        run: the folder of the run that it came from, None where there is none.
        recipe: the resolved recipe of that run.
        data_problem: why the recipe's data cannot be had here; "" where they can.
    """

    given: str
    source: str
    name: str
    revision: str | None = None
    commit: str | None = None
    step: int | None = None
    run: Path | None = None
    recipe: Recipe | None = None
    data_problem: str = ""

    @property
    def default_out(self) -> Path:
        """`RUN/report` for a run folder, else `reports/<name>`."""
        return self.run / REPORT_DIR if self.run == Path(self.given) else Path("reports") / self.name


# ---- Which checkpoint --------------------------------------------------------------------------


def find_checkpoint(given: str | Path, revision: str | None = None) -> Checkpoint:
    """The model that a path or a Hub id stands for.

    Raises:
        UserError: nothing there, no model in it, an unfinished run, `revision` of a folder.
    """
    if not str(given).strip():
        raise UserError(f"{given!r}: an empty name; name a run folder, a folder with config.json, or a Hub id")
    path = Path(given)
    if not path.exists():
        return _on_hub(str(given), revision)
    if revision is not None:
        raise UserError(f"--revision {revision}: {path} is a folder; revisions are of Hub ids")
    if not path.is_dir():
        raise UserError(f"{path}: a file; name its folder, or a run folder, or a Hub id")
    if (path / RECIPE_FILE).is_file():
        return _of_run(path)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: holds no model (config.json) and no run ({RECIPE_FILE})")
    if (path.resolve().parent / RECIPE_FILE).is_file():
        return _below_run(path, path.resolve().parent)
    return Checkpoint(str(given), str(path), path.resolve().name, step=_step_of_folder(path))


def _of_run(path: Path) -> Checkpoint:
    check_run_links(path)
    folder = RunFolder(path)
    if folder.result() is None:
        newest = folder.newest_checkpoint()
        hint = f"finish it with --resume, or name {newest}" if newest else "train it first"
        raise UserError(f"{path}: holds an unfinished run; {hint}")
    folder.check_final()
    name = (folder.record() or {}).get("name") or path.resolve().name
    return Checkpoint(str(path), str(folder.final), name, step=_num_steps(folder), run=path, recipe=_recipe_of(path))


def _below_run(path: Path, run: Path) -> Checkpoint:
    check_links(run, [run / RECIPE_FILE, run / RUN_FILE, run / RESULT_FILE])
    folder = RunFolder(run)
    name = (folder.record() or {}).get("name") or run.name
    step = _step_of_folder(path)
    if path.resolve() == folder.final and folder.result() is not None:
        folder.check_final()
        step = _num_steps(folder)
    return Checkpoint(str(path), str(path), f"{name}-{path.resolve().name}", step=step, run=run, recipe=_recipe_of(run))


def _num_steps(folder: RunFolder) -> int | None:
    steps = folder.result().get("num_steps")
    return steps if isinstance(steps, int) else None


def _recipe_of(run: Path) -> Recipe:
    return load_recipe(run / RECIPE_FILE)


def _step_of_folder(path: Path) -> int | None:
    state = path / "trainer_state.json"
    if not state.is_file():
        return None
    try:
        return int(json.loads(state.read_text(encoding="utf-8"))["global_step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{state}: not a state of transformers' Trainer") from error


def _on_hub(given: str, revision: str | None) -> Checkpoint:
    parent = Path(given).parent
    nearby = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    no_folder = f"{given}: no such folder{did_you_mean(Path(given).name, nearby)}"
    if given.startswith((".", "/", "~")) or given.count("/") > 1:
        raise UserError(no_folder)
    if (named := hub_name(given)) is not None and named[1] is not None:
        raise UserError(f"{no_folder}; of the Hub name {named[0]} --revision {named[1]}")
    with _quiet():
        try:
            repo = open_repo(given, revision, first="config.json")
        except NotOnHub as error:
            raise UserError(
                f"{no_folder}, and not on the Hub either: {str(error).removeprefix(given + ': ')}"
            ) from error
        if repo.fetch("config.json") is None:
            raise UserError(f"{repo.address}: holds no model of transformers (config.json)")
        recipe, data_problem = published_recipe(repo)
    step = re.fullmatch(r"step(\d+)", revision or "")
    return Checkpoint(
        given,
        given,
        re.sub(r"[^A-Za-z0-9._-]+", "-", f"{given}-{revision}" if revision else given),
        revision=revision,
        commit=repo.commit,
        step=int(step[1]) if step else None,
        recipe=recipe,
        data_problem=data_problem,
    )


# ---- Model and tokenizer -----------------------------------------------------------------------


def load_model(place: Checkpoint) -> PreTrainedModel:
    """The causal LM in float32 on the CPU.

    Raises:
        UserError: weights that are truncated, missing or of other shapes.
    """
    with _quiet(), _blamed_on(f"{place.given}: cannot load the model"):
        check_model(place.source, place.commit)
        model, info = AutoModelForCausalLM.from_pretrained(
            place.source,
            revision=place.commit,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    if info["missing_keys"]:
        name = min(info["missing_keys"])
        raise UserError(f"{place.given}: its weights lack {len(info['missing_keys'])} tensors, {name} among them")
    for name, found, wanted in sorted(info["mismatched_keys"]):
        raise UserError(f"{place.given}: {name} is {list(found)} in the weights, {list(wanted)} in config.json")
    return model


def load_tokenizer(place: Checkpoint) -> PreTrainedTokenizerBase:
    """The model's own tokenizer.

    Raises:
        UserError: there is none, or it has no end-of-text token.
    """
    with _quiet(), _blamed_on(f"{place.given}: cannot load the tokenizer"):
        check_model(place.source, place.commit)
        tokenizer = AutoTokenizer.from_pretrained(place.source, revision=place.commit, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without one
        raise UserError(f"{place.given}: holds no tokenizer; save the model's own beside it")
    if tokenizer.eos_token_id is None:
        raise UserError(f"{place.given}: its tokenizer has no end-of-text (eos) token to put between documents")
    return tokenizer


def check_vocabulary(place: Checkpoint, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a UserError where the tokenizer has ids that the model does not, or not half of those that it has.

    A vocabulary is often padded to a round number, so that a somewhat larger one is usual.
    """
    vocab_size = model.config.get_text_config().vocab_size
    if not vocab_size / 2 <= len(tokenizer) <= vocab_size:
        raise UserError(
            f"{place.given}: its tokenizer has {len(tokenizer):,} tokens, its model a vocabulary of {vocab_size:,}; "
            "they do not belong together"
        )


# ---- What libraries say ------------------------------------------------------------------------


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its table of missing weights, which we say in one line, nor the Hub's retries."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    hub_level = hub_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _blamed_on(place: str) -> Iterator[None]:
    """Whatever a library raises inside, as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # OSError, RuntimeError, SafetensorError, KeyError, httpx errors alike
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise UserError(f"{place}: {reason[:300]}") from error
