"""One repository of the Hub, by operations that may all be repeated: what is already so is left so.

A push looks at the branch first and commits only what is not there byte for byte, on top of the commit that it looked
at. So a reply that is lost never makes a second commit. No waiting and no second tries here: see `outbox`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import disable_progress_bars, logging

from hf_tti.hub.files import Content, check_files, is_allowed
from hf_tti.pushes import MAIN

TIMEOUT_S = 60.0  # without a byte; the client's own default is none, and it would wait for ever
_REPLACED = ("model*.safetensors", "model.safetensors.index.json", "assets/*.png")  # of which old ones go


class Remote:
    """A repository that is made when something is first pushed to it.

    Args:
        repo: owner/name.
        private: what it is made as; one that exists stays as it is.
    """

    def __init__(self, repo: str, *, private: bool, api: HfApi | None = None):
        self.repo = repo
        self._private = private
        self._api = api or HfApi()
        self._first: str | None = None
        self._heard: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        return f"{self._api.endpoint}/{self.repo}"

    def push(
        self, branch: str, files: Mapping[str, Content], message: str, *, heard: Callable[[], None] | None = None
    ) -> str | None:
        """Makes the branch hold these files. Returns the new commit, or None where there was nothing to do.

        Args:
            heard: called whenever the Hub grants a request.

        Raises:
            PushError: a file that may not leave.
            HTTPError, OSError and others of huggingface_hub: the Hub refused, or did not answer.
        """
        check_files(files)
        disable_progress_bars()  # which loading a model may have turned on again
        logging.set_verbosity_error()  # its retries: what matters is said by whoever pushes
        self._heard = heard
        try:
            return self._push(branch, files, message)
        finally:
            self._heard = None
            get_session().event_hooks["response"] = [
                hook for hook in get_session().event_hooks["response"] if hook != self._listen
            ]

    def _push(self, branch: str, files: Mapping[str, Content], message: str) -> str | None:
        self._prepare(branch)
        head = self._call().repo_info(self.repo, revision=branch).sha
        there = self._tree(head)
        changed = [path for path, content in files.items() if path not in there or not is_same(there[path], content)]
        gone = [path for path in there if is_allowed(path, _REPLACED) and path not in files]
        if not changed and not gone:
            return None
        operations = [CommitOperationAdd(path, files[path]) for path in changed]
        operations += [CommitOperationDelete(path, is_folder=False) for path in gone]
        made = self._call().create_commit(
            self.repo, operations, commit_message=message, revision=branch, parent_commit=head, num_threads=2
        )
        return made.oid

    def missing(self, branch: str, files: Mapping[str, Content]) -> list[str]:
        """Paths that the branch does not hold byte for byte."""
        there = self._tree(branch)
        return [path for path, content in files.items() if path not in there or not is_same(there[path], content)]

    def _prepare(self, branch: str) -> None:
        """The repository, and the branch from the repository's first commit."""
        if self._first is None:
            self._call().create_repo(self.repo, private=self._private, exist_ok=True)
            self._first = self._call().list_repo_commits(self.repo)[-1].commit_id
        if branch != MAIN:
            self._call().create_branch(self.repo, branch=branch, revision=self._first, exist_ok=True)

    def _tree(self, revision: str) -> dict[str, RepoFile]:
        entries = self._call().list_repo_tree(self.repo, revision=revision, recursive=True)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _call(self) -> HfApi:
        session = get_session()
        session.timeout = TIMEOUT_S
        if _limit not in session.event_hooks["request"]:
            session.event_hooks["request"].append(_limit)
        if self._heard is not None and self._listen not in session.event_hooks["response"]:
            session.event_hooks["response"].append(self._listen)
        return self._api

    def _listen(self, response: Any) -> None:
        """Another hook of the client's session."""
        if self._heard is not None and response.status_code < 400:
            self._heard()


def _limit(request: Any) -> None:
    """A hook of the client's session: some of its calls, `list_repo_tree` for one, ask to wait for ever."""
    asked = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        kind: TIMEOUT_S if asked.get(kind) is None else asked[kind] for kind in ("connect", "read", "write", "pool")
    }


def is_same(entry: RepoFile, content: Content) -> bool:
    """Whether a file of the Hub has this content, by size and digest."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    if entry.lfs is not None:
        return entry.lfs.size == size and entry.lfs.sha256 == _digest("sha256", content)
    return entry.size == size and entry.blob_id == _digest("sha1", content, b"blob %d\0" % size)


def _digest(algorithm: str, content: Content, prefix: bytes = b"") -> str:
    digest = hashlib.new(algorithm, prefix)
    if isinstance(content, Path):
        with open(content, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    else:
        digest.update(content)
    return digest.hexdigest()
