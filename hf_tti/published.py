"""Runs that lie on the Hub, read: which commit a name stands for, and its report, recipe and log, within bounds.

    repo = open_repo("me/decorrelation-seed42", "step150", first="config.json")
    repo.fetch("recipe.yaml")           # a file of the cache, or None where the repository has none

What a repository holds is nobody's word: files are asked for by names of our own, no larger than stated, never run and
never unpickled. A revision is pinned to its commit first. Without a network the cache answers. Loads no torch.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_tti.components import component_names
from hf_tti.console import complain
from hf_tti.errors import UserError, did_you_mean
from hf_tti.recipe import Recipe, load_recipe
from hf_tti.report import ARRAYS_FILE, REPORT_DIR, REPORT_FILE, Report
from hf_tti.run_folder import METRICS_FILE, RECIPE_FILE

MAX_BYTES = {  # of what is fetched
    "config.json": 1_000_000,
    RECIPE_FILE: 1_000_000,
    (_REPORT := f"{REPORT_DIR}/{REPORT_FILE}"): 16_000_000,
    f"{REPORT_DIR}/{ARRAYS_FILE}": 64_000_000,
    METRICS_FILE: 16_000_000,
    "stories.txt": 1_000_000,
}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_RUN_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,199}")
_REVISION = re.compile(r"[A-Za-z0-9][\w./+-]*")
_SHOWN_REVISIONS = 12
_FILES_OF_DATA = ("train", "validation")
_NUMBERS_OF_DATA = ("block_size", "packing", "max_tokens", "max_validation_tokens")


@dataclass(frozen=True)
class Published:
    """A repository at one commit.

    Attributes:
        commit: 40 hex digits.
        is_cached: the Hub did not answer; only what was fetched before is there.
    """

    repo: str
    revision: str | None
    commit: str
    is_cached: bool = False

    @property
    def address(self) -> str:
        """As a user writes it: `owner/name`, `owner/name@revision`."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    def fetch(self, path: str) -> Path | None:
        """A file of `MAX_BYTES` in the client's cache; None where the repository has none of this name.

        Raises:
            UserError: it is larger than stated there, or can be had neither from the Hub nor from the cache.
        """
        try:
            if not self.is_cached:
                self._check_size(get_hf_file_metadata(hf_hub_url(self.repo, path, revision=self.commit)).size, path)
            file = self._download(path, from_cache=self.is_cached)
        except UserError:
            raise
        except Exception as error:  # of huggingface_hub, httpx and the disk alike
            has_answer = self.is_cached or not isinstance(error, LocalEntryNotFoundError)
            if isinstance(error, EntryNotFoundError) and has_answer:
                return None
            try:
                file = self._download(path, from_cache=True)  # a commit does not change
            except Exception:
                raise UserError(f"{self.address}: {path} cannot be fetched: {_reason(error)}") from error
        self._check_size(file.stat().st_size, path)
        return file

    def _download(self, path: str, *, from_cache: bool) -> Path:
        return Path(hf_hub_download(self.repo, path, revision=self.commit, local_files_only=from_cache))

    def _check_size(self, size: int | None, path: str) -> None:
        if size is None or size > MAX_BYTES[path]:
            found = "of unknown size" if size is None else f"{size:,} bytes"
            raise UserError(f"{self.address}: {path} is {found}; at most {MAX_BYTES[path]:,} are fetched")


class NotOnHub(UserError):
    """No such repository, or none that this user may see, or no answer and nothing in the cache."""


def hub_name(given: str) -> tuple[str, str | None] | None:
    """(owner/name, revision) of `owner/name` or `owner/name@revision`; None for any other text."""
    name, at, revision = given.partition("@")
    if not _NAME.fullmatch(name) or ".." in name or (at and not _is_revision(revision)):
        return None
    return name, revision or None


def open_repo(repo: str, revision: str | None = None, *, first: str) -> Published:
    """The commit that a revision is now; without a network, the one that it was when `first` was fetched.

    Args:
        repo: owner/name, or a name alone.
        first: a file of `MAX_BYTES` that the repository should have.

    Raises:
        NotOnHub: no such repository, or no network and nothing in the cache.
        UserError: no such revision (names those that are there), a repository that has to be asked for.
    """
    if revision is not None and not _is_revision(revision):
        raise UserError(f"{repo}: revision {revision!r} is not the name of a branch, tag or commit")
    try:
        commit = HfApi().repo_info(repo, revision=revision, timeout=20).sha
    except GatedRepoError as error:
        raise UserError(f"{repo}: its owner grants access; ask for it on {HfApi().endpoint}/{repo}") from error
    except RepositoryNotFoundError as error:
        raise NotOnHub(f"{repo}: no such repository on the Hub, or a private one that is not for your token") from error
    except RevisionNotFoundError as error:
        raise UserError(f"{repo}: has no revision {revision}{_revisions(repo, revision or '')}") from error
    except HFValidationError as error:
        raise NotOnHub(f"{repo}: not the name of a repository, which is owner/name") from error
    except Exception as error:  # no network, a Hub that is down, offline mode
        return _from_cache(repo, revision, first, error)
    found = Published(repo, revision, commit)
    if found.fetch(first) is not None:
        hf_hub_download(repo, first, revision=revision)  # the cache then knows which commit the revision was
    return found


def published_recipe(repo: Published) -> tuple[Recipe | None, str]:
    """The resolved recipe as far as it may be used on another machine, and why its data may not ("": they may).

    Neither components of a module's own (`package.module:Class`) nor files by their paths: a recipe from elsewhere
    decides neither what is imported here nor what is read. A file of this name that is no recipe is left alone, in a
    line on standard error.

    Raises:
        UserError: it cannot be fetched.
    """
    path = repo.fetch(RECIPE_FILE)
    if path is None:
        return None, ""
    try:
        recipe = load_recipe(path)
    except UserError as error:
        problem = str(error).splitlines()[0].removeprefix(f"{path}:")
        complain(f"{repo.address}: {RECIPE_FILE} is no recipe of this hf_tti, left alone: line {problem}")
        return None, ""
    kinds = {"metrics": "metric", "studies": "study"}
    ours = {kind: _built_in(getattr(recipe, kind), kind, word) for kind, word in kinds.items()}
    for kind, entries in ours.items():
        if left_out := [label for label in getattr(recipe, kind) if label not in entries]:
            complain(f"{repo.address}: left out of its {kind}, not built in: {', '.join(left_out)}")
    labels = recipe.evaluation.get("labels") or ""
    evaluation = {key: value for key, value in recipe.evaluation.items() if key != "labels" or _is_tagger(labels)}
    problem = _data_problem(recipe)
    data = {key: value for key, value in recipe.data.items() if key != "tokenizer"}  # the model's own is taken
    if problem:
        data = {key: data[key] for key in _NUMBERS_OF_DATA if key in data}
    return dataclasses.replace(recipe, **ours, evaluation=evaluation, data=data, hub={}, tracking={}), problem


def published_report(repo: Published, *, arrays: bool = True) -> Report | None:
    """The report that a repository holds; None where it holds none.

    Args:
        arrays: whether its arrays are fetched too, and into the folder above it what the run logged.

    Raises:
        UserError: it is damaged, not of the form of a report, or too large.
    """
    file = repo.fetch(_REPORT)
    if file is None:
        return None
    if arrays:
        for path in (f"{REPORT_DIR}/{ARRAYS_FILE}", METRICS_FILE, "stories.txt"):
            repo.fetch(path)
    report = Report.load(file, need_arrays=False)
    if not _RUN_NAME.fullmatch(report.name):
        raise UserError(f"{repo.address}: its report is of {report.name[:60]!r}, which is no name of a run")
    if report.recipe is not None:
        _check_recipe(repo, report.recipe)
    return report


def _check_recipe(repo: Published, content: dict[str, Any]) -> None:
    """Raises UserError where a report's recipe is none: who reads the report relies on the form of its sections."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / RECIPE_FILE
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        try:
            load_recipe(file)
        except UserError as error:
            problem = str(error).splitlines()[0].removeprefix(f"{file}:")
            raise UserError(f"{repo.address}: the recipe in its report is none: {problem}") from error


def _built_in(entries: dict[str, dict], kind: str, word: str) -> dict[str, dict]:
    names = component_names(kind)
    return {label: entry for label, entry in entries.items() if entry.get(word, label) in names}


def _is_tagger(labels: str) -> bool:
    return labels.partition(":")[0] in ("spacy", "nltk")


def _data_problem(recipe: Recipe) -> str:
    name = recipe.data.get("name", "synthetic_stories")
    if name not in component_names("data"):
        return f"its data are {name}, which is not built in"
    files = [f"{key} {recipe.data[key]}" for key in _FILES_OF_DATA if recipe.data.get(key)]
    return f"its data are files of another machine ({', '.join(files)})" if files else ""


# ---- What can go wrong -------------------------------------------------------------------------


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and ".." not in text


def _revisions(repo: str, asked: str) -> str:
    try:
        refs = HfApi().list_repo_refs(repo)
    except Exception:  # the first error is the one to tell of
        return ""
    names = sorted({ref.name for ref in (*refs.branches, *refs.tags)}, key=_by_number)
    listed = ", ".join(names[:_SHOWN_REVISIONS]) + ", …" * (len(names) > _SHOWN_REVISIONS)
    return f"{did_you_mean(asked, names)}; it has {listed}"


def _by_number(name: str) -> list[tuple[bool, int | str]]:
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]


def _from_cache(repo: str, revision: str | None, first: str, error: Exception) -> Published:
    try:
        file = hf_hub_download(repo, first, revision=revision, local_files_only=True)
    except Exception:
        wanted = f" at {revision}" if revision else ""
        raise NotOnHub(f"{repo}: not in the cache{wanted}, and the Hub gives no answer: {_reason(error)}") from error
    depth = len(Path(first).parts)
    return Published(repo, revision, Path(file).parents[depth - 1].name, is_cached=True)


def _reason(error: Exception) -> str:
    words = next(iter(str(error).strip().splitlines()), "")
    return f"{words or type(error).__name__}"[:200]
