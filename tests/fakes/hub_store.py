"""What the fake Hub holds: users, repositories with commits and branches, uploaded objects, collections."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any

_BY_LFS = re.compile(r"\.(safetensors|bin|npz|npy|pt|zip|gz|parquet|arrow|png)$")  # as the Hub's .gitattributes
_NOW = "2026-11-01T12:00:00.000Z"
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.png filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Answer:
    """A response: JSON, or bytes as they are."""

    code: int
    value: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if isinstance(self.value, bytes):
            return self.value
        self.headers.setdefault("Content-Type", "application/json; charset=utf-8")
        return b"" if self.value is None else json.dumps(self.value).encode()


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub keeps a file as a large object."""
    return bool(_BY_LFS.search(path)) or size > 10_000_000


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def oid_of(path: str, content: bytes) -> str:
    """sha256 of large objects, git's hash of others."""
    return hashlib.sha256(content).hexdigest() if is_lfs(path, len(content)) else git_hash(content)


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, bytes]
    parent: str | None


class Repo:
    """Commits by sha, and branches that name one each."""

    def __init__(self, name: str, private: bool):
        self.name, self.private = name, private
        self.commits: dict[str, Commit] = {}
        self.heads: dict[str, str] = {}
        self.add("main", "initial commit", {".gitattributes": GITATTRIBUTES})

    @property
    def branches(self) -> dict[str, dict[str, bytes]]:
        return {branch: dict(self.commits[sha].files) for branch, sha in self.heads.items()}

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.heads.get(revision, revision))

    def history(self, revision: str) -> list[Commit]:
        """Newest first."""
        found, commit = [], self.at(revision)
        while commit is not None:
            found.append(commit)
            commit = self.commits.get(commit.parent) if commit.parent else None
        return found

    def add(self, branch: str, title: str, files: dict[str, bytes]) -> Commit:
        parent = self.heads.get(branch)
        mark = f"{self.name} {branch} {len(self.commits)} {parent}".encode()
        commit = Commit(hashlib.sha1(mark).hexdigest(), title, files, parent)
        self.commits[commit.sha], self.heads[branch] = commit, commit.sha
        return commit


class Store:
    """Of every user.

    Attributes:
        users: token -> name. orgs: name -> the organisations that the user is in.
        objects: sha256 -> content, of uploads by LFS.
        collections: slug -> what the API answers for it.
    """

    def __init__(self, users: dict[str, str], orgs: dict[str, list[str]]):
        self.users, self.orgs = users, orgs
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}

    def may_write(self, user: str | None, namespace: str) -> bool:
        return user is not None and (namespace == user or namespace in self.orgs[user])

    def create(self, name: str, *, private: bool = False) -> Repo:
        self.repos[name] = Repo(name, private)
        return self.repos[name]


def model_info(repo: Repo, commit: Commit) -> dict[str, Any]:
    return {
        "_id": hashlib.sha256(repo.name.encode()).hexdigest()[:24],
        "id": repo.name,
        "modelId": repo.name,
        "author": repo.name.partition("/")[0],
        "sha": commit.sha,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "createdAt": _NOW,
        "lastModified": _NOW,
        "siblings": [{"rfilename": path} for path in commit.files],
        "spaces": [],
    }


def tree_entries(commit: Commit, folder: str, *, recursive: bool) -> list[dict[str, Any]] | None:
    """Files and folders below `folder` ("": the root), or None where there is no such folder."""
    prefix = f"{folder}/" if folder else ""
    found: dict[str, dict[str, Any]] = {}
    for path, content in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)):
            name = prefix + "/".join(parts[:depth])
            if recursive or depth == 1:
                found[name] = {"type": "directory", "oid": git_hash(name.encode()), "size": 0, "path": name}
        if recursive or len(parts) == 1:
            found[path] = file_entry(path, content)
    return list(found.values()) if found or not folder else None


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": git_hash(content), "size": len(content), "path": path}
    if is_lfs(path, len(content)):
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        entry |= {
            "oid": git_hash(pointer),
            "lfs": {"oid": sha256, "size": len(content), "pointerSize": len(pointer)},
        }
    return entry
