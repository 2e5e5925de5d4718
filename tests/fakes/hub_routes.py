"""The fake Hub's answers, one function a route; `None` from `answer` means that no route has this path."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import yaml

from fakes.hub_store import (
    _NOW,
    Answer,
    Commit,
    Repo,
    Store,
    file_entry,
    is_lfs,
    model_info,
    oid_of,
    tree_entries,
)

if TYPE_CHECKING:
    from fakes.hub import Request

_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"


def answer(store: Store, request: Request, endpoint: str) -> Answer | None:
    """What the Hub says to a request, after doing it."""
    if request.token is not None and request.token not in store.users and not request.path.startswith("/_lfs/"):
        message = "Invalid credentials in Authorization header"
        return Answer(401, {"error": message}, {"X-Error-Message": message})
    for method, pattern, route in _ROUTES:
        if request.method in method and (match := re.fullmatch(pattern, request.path)):
            return route(store, request, endpoint, **match.groupdict())
    return None


def _user(store: Store, request: Request) -> str | None:
    return store.users.get(request.token)


def _readable(store: Store, request: Request, name: str) -> Repo | Answer:
    repo = store.repos.get(name)
    if repo is None or repo.private and not store.may_write(_user(store, request), name.partition("/")[0]):
        code = 404 if request.token else 401
        words = "Repository not found"
        return Answer(code, {"error": words}, {"X-Error-Code": "RepoNotFound", "X-Error-Message": words})
    return repo


def _writable(store: Store, request: Request, name: str) -> Repo | Answer:
    repo = _readable(store, request, name)
    if isinstance(repo, Repo) and not store.may_write(_user(store, request), name.partition("/")[0]):
        if request.token is None:
            return Answer(401, {"error": "Invalid username or password."})
        words = "Forbidden: you don't have write access to this repository"
        return Answer(403, {"error": words}, {"X-Error-Message": words})
    return repo


def _at(repo: Repo, revision: str) -> Commit | Answer:
    words = f"Invalid rev id: {revision}"
    missing = Answer(404, {"error": words}, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": words})
    return repo.at(revision) or missing


# ---- Repositories and branches ----


def agent_harnesses(store: Store, request: Request, endpoint: str) -> Answer:
    return Answer(200, {"standardEnvVars": [], "harnesses": {}})


def whoami(store: Store, request: Request, endpoint: str) -> Answer:
    user = _user(store, request)
    if user is None:
        return Answer(401, {"error": "Invalid username or password."})
    orgs = [{"type": "org", "name": org, "fullname": org, "roleInOrg": "write"} for org in store.orgs[user]]
    token = {"accessToken": {"displayName": "t", "role": "write"}}
    return Answer(200, {"type": "user", "name": user, "fullname": user, "orgs": orgs, "auth": token})


def create_repo(store: Store, request: Request, endpoint: str) -> Answer:
    sent = request.json()
    namespace = sent.get("organization") or _user(store, request)
    name = f"{namespace}/{sent['name']}"
    if request.token is None:
        return Answer(401, {"error": "Invalid username or password."})
    if not store.may_write(_user(store, request), namespace):
        words = f'You don\'t have the rights to create a model under the namespace "{namespace}"'
        return Answer(403, {"error": words}, {"X-Error-Message": words})
    value = {"url": f"{endpoint}/{name}", "name": name, "id": hashlib.sha256(name.encode()).hexdigest()[:24]}
    if name in store.repos:
        return Answer(409, {**value, "error": "You already created this model repo"})
    private = sent.get("visibility") == "private" or sent.get("private") is True
    store.create(name, private=private)
    return Answer(200, value)


def create_branch(store: Store, request: Request, endpoint: str, *, name: str, branch: str) -> Answer:
    repo = _writable(store, request, name)
    if isinstance(repo, Answer):
        return repo
    if branch in repo.heads:
        return Answer(409, {"error": f"Reference already exists: refs/heads/{branch}"})
    start = _at(repo, request.json().get("startingPoint", "main") if request.body else "main")
    if isinstance(start, Answer):
        return start
    repo.heads[branch] = start.sha
    return Answer(200, {"success": True})


def refs(store: Store, request: Request, endpoint: str, *, name: str) -> Answer:
    repo = _readable(store, request, name)
    if isinstance(repo, Answer):
        return repo
    heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in repo.heads.items()]
    return Answer(200, {"branches": heads, "converts": [], "tags": [], "pullRequests": []})


def commits(store: Store, request: Request, endpoint: str, *, name: str, revision: str) -> Answer:
    repo = _readable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    if isinstance(at, Answer):
        return at
    found = [
        {"id": c.sha, "title": c.title, "message": "", "date": _NOW, "authors": [{"user": "me"}]}
        for c in repo.history(revision)
    ]
    return Answer(200, found)


def info(store: Store, request: Request, endpoint: str, *, name: str, revision: str = "main") -> Answer:
    repo = _readable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    return at if isinstance(at, Answer) else Answer(200, model_info(repo, at))


def tree(
    store: Store, request: Request, endpoint: str, *, name: str, revision: str, folder: str | None = None
) -> Answer:
    repo = _readable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    if isinstance(at, Answer):
        return at
    recursive = request.query.get("recursive", ["false"])[0].lower() == "true"
    found = tree_entries(at, folder or "", recursive=recursive)
    if found is None:
        return Answer(404, {"error": f"{folder} does not exist"}, {"X-Error-Code": "EntryNotFound"})
    return Answer(200, found)


def paths_info(store: Store, request: Request, endpoint: str, *, name: str, revision: str) -> Answer:
    repo = _readable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    if isinstance(at, Answer):
        return at
    sent = parse_qs(request.body.decode())
    return Answer(200, [file_entry(p, at.files[p]) for p in sent.get("paths", []) if p in at.files])


# ---- Uploads ----


def validate_yaml(store: Store, request: Request, endpoint: str) -> Answer:
    content = request.json()["content"]
    match = re.match(r"---\n(.*?)\n---(\n|$)", content, re.DOTALL)
    try:
        header = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return Answer(400, {"errors": [{"message": str(error)}], "warnings": []})
    wrong = [] if isinstance(header, dict) else [{"message": '"metadata" must be of type object'}]
    return Answer(400 if wrong else 200, {"errors": wrong, "warnings": []})


def preupload(store: Store, request: Request, endpoint: str, *, name: str, revision: str) -> Answer:
    repo = _writable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    if isinstance(at, Answer):
        return at
    files = [
        {
            "path": sent["path"],
            "uploadMode": "lfs" if is_lfs(sent["path"], sent["size"]) else "regular",
            "shouldIgnore": False,
            "oid": oid_of(sent["path"], at.files[sent["path"]]) if sent["path"] in at.files else None,
        }
        for sent in request.json()["files"]
    ]
    return Answer(200, {"files": files, "commitOid": at.sha})


def lfs_batch(store: Store, request: Request, endpoint: str, *, name: str) -> Answer:
    repo = _writable(store, request, name)
    if isinstance(repo, Answer):
        return repo
    objects = []
    for sent in request.json()["objects"]:
        found = {"oid": sent["oid"], "size": sent["size"], "authenticated": True}
        if sent["oid"] not in store.objects:
            verify = {"href": f"{endpoint}/{name}.git/info/lfs/objects/verify", "header": {}}
            found["actions"] = {"upload": {"href": f"{endpoint}/_lfs/{sent['oid']}"}, "verify": verify}
        objects.append(found)
    return Answer(200, {"transfer": "basic", "objects": objects})


def lfs_put(store: Store, request: Request, endpoint: str, *, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        return Answer(400, {"error": "content does not match its oid"})
    store.objects[oid] = request.body
    return Answer(200, None, {"ETag": f'"{oid}"'})


def lfs_verify(store: Store, request: Request, endpoint: str, *, name: str) -> Answer:
    sent = request.json()
    found = len(store.objects.get(sent["oid"], b"")) == sent["size"]
    return Answer(200 if found else 404, {"message": "ok" if found else "no such object"})


def commit(store: Store, request: Request, endpoint: str, *, name: str, revision: str) -> Answer:
    repo = _writable(store, request, name)
    if isinstance(repo, Answer):
        return repo
    if revision not in repo.heads:
        return _at(repo, revision) if repo.at(revision) is None else Answer(400, {"error": "not a branch"})
    lines = [json.loads(line) for line in request.body.splitlines()]
    header = lines[0]["value"]
    parent = header.get("parentCommit", repo.heads[revision])
    if parent != repo.heads[revision]:
        words = "A commit has happened since. Please refresh and try again."
        return Answer(412, {"error": words}, {"X-Error-Message": words})
    files = dict(repo.at(revision).files)
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            if value["oid"] not in store.objects:
                return Answer(400, {"error": f"{value['path']}: no object {value['oid']}"})
            files[value["path"]] = store.objects[value["oid"]]
        elif line["key"] == "deletedFile":
            if files.pop(value["path"], None) is None:
                words = "A file with this name doesn't exist"
                return Answer(404, {"error": words}, {"X-Error-Code": "EntryNotFound", "X-Error-Message": words})
        else:
            files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
    made = repo.add(revision, header["summary"], files)
    url = f"{endpoint}/{name}/commit/{made.sha}"
    return Answer(200, {"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})


# ---- Downloads ----


def resolve(store: Store, request: Request, endpoint: str, *, name: str, revision: str, path: str) -> Answer:
    repo = _readable(store, request, name)
    at = repo if isinstance(repo, Answer) else _at(repo, revision)
    if isinstance(at, Answer):
        return at
    if path not in at.files:
        words = "Entry not found"
        known = {"X-Error-Code": "EntryNotFound", "X-Error-Message": words, "X-Repo-Commit": at.sha}
        return Answer(404, {"error": words}, known)
    content = at.files[path]
    found = {
        "ETag": f'"{oid_of(path, content)}"',
        "X-Repo-Commit": at.sha,
        "Content-Length": str(len(content)),
        "Content-Type": "application/octet-stream",
        "Accept-Ranges": "bytes",
    }
    return Answer(200, content, found)


# ---- Collections ----


def create_collection(store: Store, request: Request, endpoint: str) -> Answer:
    sent = request.json()
    if not store.may_write(_user(store, request), sent["namespace"]):
        return Answer(403, {"error": "Forbidden"}, {"X-Error-Message": "Forbidden"})
    title = re.sub(r"\W+", "-", sent["title"].lower()).strip("-")
    slug = f"{sent['namespace']}/{title}-{hashlib.sha256(title.encode()).hexdigest()[:24]}"
    if slug in store.collections:
        return Answer(409, {"error": "Collection already exists", "slug": slug})
    store.collections[slug] = {
        "slug": slug,
        "title": sent["title"],
        "description": sent.get("description"),
        "owner": {"name": sent["namespace"], "type": "user"},
        "items": [],
        "lastUpdated": _NOW,
        "position": len(store.collections),
        "private": sent.get("private", False),
        "theme": "orange",
        "upvotes": 0,
    }
    return Answer(200, store.collections[slug])


def list_collections(store: Store, request: Request, endpoint: str) -> Answer:
    owners = request.query.get("owner")
    user = _user(store, request)
    seen = [
        found
        for found in store.collections.values()
        if (not owners or found["owner"]["name"] in owners)
        and (not found["private"] or store.may_write(user, found["owner"]["name"]))
    ]
    return Answer(200, [{key: value for key, value in found.items() if key != "position"} for found in seen])


def get_collection(store: Store, request: Request, endpoint: str, *, slug: str) -> Answer:
    found = store.collections.get(slug)
    if found is None or found["private"] and not store.may_write(_user(store, request), found["owner"]["name"]):
        return Answer(404, {"error": "Collection not found"})
    return Answer(200, found)


def add_item(store: Store, request: Request, endpoint: str, *, slug: str) -> Answer:
    found = store.collections.get(slug)
    if found is None:
        return Answer(404, {"error": "Collection not found"})
    if not store.may_write(_user(store, request), found["owner"]["name"]):
        return Answer(403, {"error": "Forbidden"}, {"X-Error-Message": "Forbidden"})
    item = request.json()["item"]
    if item["type"] == "model" and item["id"] not in store.repos:
        return Answer(404, {"error": "Repository not found"})
    if any((known["id"], known["type"]) == (item["id"], item["type"]) for known in found["items"]):
        return Answer(409, {"error": "Item already exists in collection"})
    number = len(found["items"])
    added = {"_id": f"{number:024x}", "id": item["id"], "type": item["type"], "position": number}
    note = request.json().get("note")
    found["items"].append({**added, **({"note": {"text": note, "html": note}} if note else {})})
    return Answer(200, found)


_ROUTES = (
    (("GET",), "/api/agent-harnesses", agent_harnesses),
    (("GET",), "/api/whoami-v2", whoami),
    (("POST",), "/api/repos/create", create_repo),
    (("POST",), "/api/validate-yaml", validate_yaml),
    (("POST",), f"/api/models/{_NAME}/branch/(?P<branch>.+)", create_branch),
    (("POST",), f"/api/models/{_NAME}/preupload/(?P<revision>.+)", preupload),
    (("POST",), f"/api/models/{_NAME}/commit/(?P<revision>.+)", commit),
    (("POST",), f"/api/models/{_NAME}/paths-info/(?P<revision>.+)", paths_info),
    (("GET",), f"/api/models/{_NAME}/refs", refs),
    (("GET",), f"/api/models/{_NAME}/commits/(?P<revision>.+)", commits),
    (("GET",), f"/api/models/{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", tree),
    (("GET",), f"/api/models/{_NAME}/revision/(?P<revision>.+)", info),
    (("GET",), f"/api/models/{_NAME}", info),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/batch", lfs_batch),
    (("POST",), rf"/{_NAME}\.git/info/lfs/objects/verify", lfs_verify),
    (("PUT",), "/_lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    (("GET", "HEAD"), f"/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    (("POST",), "/api/collections", create_collection),
    (("GET",), "/api/collections", list_collections),
    (("POST",), "/api/collections/(?P<slug>.+)/items", add_item),
    (("GET",), "/api/collections/(?P<slug>.+)", get_collection),
)
