"""Folders of models and runs that somebody else may have made: what is read from them lies in them, and runs nothing.

A link may stay inside its folder. One that leads out is refused: through it a file of this machine would be read and
republished, or written to. The Hub's cache, whose snapshots are links into its own blobs, is no such case.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hf_tti.errors import UserError

_OF_A_RUN = ("final", "report")  # folders of a run whose files are looked at one by one
_SHARD = re.compile(r"[\w.-]+\.safetensors")
_LONGEST_JSON = 64_000_000  # bytes
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path in a folder is, or lies below, a link out of it."""
    real, root = path.resolve(), folder.resolve()
    if real == root or root in real.parents:
        return False
    cache = next((above.parent for above in [root, *root.parents] if above.name == "snapshots"), None)
    return cache is None or cache / "blobs" not in real.parents


def check_links(folder: Path, paths: Iterable[Path]) -> None:
    """
    Raises:
        UserError: one of these paths leads out of the folder.
    """
    for path in paths:
        if path.is_symlink() and leads_out(path, folder):
            raise UserError(f"{path}: a link out of {folder}; a model or a run is read from its own folder alone")


def check_run_links(run: Path) -> None:
    """Of a run's folder: what lies in it, in its model and in its report. Checkpoints have their manifests."""
    if not run.is_dir():
        return
    check_links(run, sorted(run.iterdir()))
    for name in _OF_A_RUN:
        check_links(run, sorted((run / name).rglob("*")))


def check_model(source: str, revision: str | None = None) -> None:
    """What a model's own files may not say, of a folder or a Hub id: `from_pretrained` would do it.

    Raises:
        UserError: a link out of the folder, a tokenizer's or a shard's file elsewhere, weights under a name of the
            configuration's choice, an attention kernel from the Hub, an adapter; a Hub that cannot be reached, where
            the cache does not say what the model has.
    """
    if os.path.isdir(source):
        check_links(Path(source), sorted(Path(source).rglob("*")))

    reached = True

    def read(name: str) -> dict[str, Any]:
        nonlocal reached
        if os.path.isdir(source):
            found = Path(source) / name
        else:
            found, reached = _of_the_hub(source, name, revision, reached)
        return {} if found is None or not found.is_file() else _json_object(found, f"{source}: {name}")

    if read("adapter_config.json"):
        raise UserError(
            f"{source}: adapter_config.json: an adapter to a model elsewhere; merge it into its model first"
        )
    for key, value in _pairs(read("config.json")):
        if key == "transformers_weights":  # may be a pickle, or an index of files elsewhere
            raise UserError(f"{source}: config.json: {key}: {value!r}; weights are read from model.safetensors alone")
        if key in _KERNELS and "/" in str(value):
            raise UserError(f"{source}: config.json: {key}: {value!r} is code on the Hub, which is not run")
    for shard in set(_values(read("model.safetensors.index.json").get("weight_map"))):
        if not _SHARD.fullmatch(str(shard)):
            raise UserError(f"{source}: model.safetensors.index.json: {shard!r} is no safetensors file beside it")
    for key, value in read("tokenizer_config.json").items():
        for name in value if isinstance(value, list) else [value]:
            if key.endswith(("_file", "_files")) and isinstance(name, str) and _is_elsewhere(name, source):
                raise UserError(f"{source}: tokenizer_config.json: {key}: {name!r} is no file beside it")


def _of_the_hub(source: str, name: str, revision: str | None, reach: bool) -> tuple[Path | None, bool]:
    """A file of a model on the Hub, and whether the Hub was reached or need not be; else it comes from the cache.
    None: the model has no such file, or nothing is loaded but from the cache, which lacks it.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from transformers.utils import cached_file

    retries = logging.getLogger("huggingface_hub.utils._http")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        return Path(hf_hub_download(source, name, revision=revision, local_files_only=not reach)), reach
    except LocalEntryNotFoundError as error:
        known = try_to_load_from_cache(source, name, revision=revision)
        if known is None and not constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{source}: {name} cannot be looked at, {constants.ENDPOINT} cannot be reached; "
                "HF_HUB_OFFLINE=1 loads what is in the cache alone"
            ) from error
        return Path(known) if isinstance(known, str) else None, False
    except EntryNotFoundError:
        return None, reach
    except (HfHubHTTPError, HFValidationError):  # transformers' words for it
        found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found), reach
    finally:
        retries.setLevel(level)


def _is_elsewhere(name: str, source: str) -> bool:
    """A file of this machine; tokenizers that were saved elsewhere name paths that are not here."""
    place = Path(source) / name if os.path.isdir(source) else Path(name)
    return ".." in Path(name).parts or (os.path.isfile(name) and leads_out(place, Path(source)))


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else []


def _pairs(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every key with its value, those of configurations inside it as well."""
    left: list[Any] = [config]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            yield from item.items()
            left += item.values()
        elif isinstance(item, list):
            left += item


def _json_object(path: Path, shown: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST_JSON:
            raise UserError(f"{shown}: larger than {_LONGEST_JSON:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{shown}: not JSON ({next(iter(str(error).splitlines()), '')[:200]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown}: an object is wanted, not {type(content).__name__}")
    return content
