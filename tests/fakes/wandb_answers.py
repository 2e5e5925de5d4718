"""What a W&B server knows, and what it answers to each GraphQL operation that wandb 0.31's client was seen to send."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from fakes.wandb import FakeWandb

ENTITY = "somebody"


@dataclass
class Run:
    """What the server knows of one run.

    Attributes:
        files: name -> content, among them lists of lines of `wandb-history.jsonl`.
        upserts: of the run's record, each with its variables.
        sessions: how many clients said that they begin or go on with it.
    """

    name: str
    project: str
    upserts: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    is_complete: bool = False

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows of logged values."""
        return [json.loads(line) for line in self.lines.get("wandb-history.jsonl", [])]

    @property
    def config(self) -> dict[str, Any]:
        """As last sent, without the client's own part."""
        sent = self.last("config")
        return {key: item["value"] for key, item in json.loads(sent or "{}").items() if key != "_wandb"}

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """`define_metric`'s records, as the client numbers their fields."""
        return json.loads(self.last("config") or "{}").get("_wandb", {}).get("value", {}).get("m", [])

    def last(self, name: str) -> Any:
        """The newest value of one variable of the run's record."""
        return next((upsert[name] for upsert in reversed(self.upserts) if upsert.get(name) is not None), None)


@dataclass
class Artifact:
    """Files under a name and a type; `manifest` says which."""

    name: str
    type: str
    run: str
    state: str = "PENDING"
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Sweep:
    """A sweep's definition, and the runs that agents were told to begin."""

    name: str
    config: dict[str, Any]
    given: list[dict[str, Any]] = field(default_factory=list)


def _viewer(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    teams = {"edges": [{"node": {"name": ENTITY}}]}
    viewer = {"id": "VXNlcjox", "entity": ENTITY, "username": ENTITY, "email": "somebody@example.invalid"}
    return {"viewer": {**viewer, "flags": "{}", "teams": teams, "admin": False, "apiKeys": {"edges": []}}}


def _project(name: str) -> dict[str, Any]:
    return {"id": "UHJvamVjdDox", "name": name, "entity": {"id": "RW50aXR5OjE=", "name": ENTITY}}


def _resume_status(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    run = server.runs.get(given["name"])
    if run is None or not run.upserts:
        return {"model": {**_project(given["project"]), "bucket": None}}
    history, events = (run.lines.get(name, []) for name in ("wandb-history.jsonl", "wandb-events.jsonl"))
    bucket = {
        "id": run.name,
        "name": run.name,
        "displayName": run.last("displayName"),
        "summaryMetrics": (run.lines.get("wandb-summary.json") or ["{}"])[-1],
        "logLineCount": len(run.lines.get("output.log", [])),
        "historyLineCount": len(history),
        "eventsLineCount": len(events),
        "historyTail": json.dumps(history[-1:]),
        "eventsTail": json.dumps(events[-1:]),
        "config": run.last("config") or "{}",
        "tags": run.last("tags") or [],
        "notes": None,
        "wandbConfig": json.dumps({"t": 1}),
    }
    return {"model": {**_project(run.project), "bucket": bucket}}


def _upsert_bucket(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    name = given.get("name") or given["id"]
    is_new = name not in server.runs or not server.runs[name].upserts
    run = server.run(given.get("project"), name)
    run.upserts.append(dict(given))
    bucket = {
        "id": name,
        "name": name,
        "displayName": run.last("displayName") or name,
        "description": None,
        "config": run.last("config") or "{}",
        "sweepName": run.last("sweep"),
        "project": _project(run.project),
        "historyLineCount": len(run.history),
    }
    return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}


def _create_run_files(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    files = [{"name": name, "uploadUrl": f"{server.url}/run/{given['run']}/{name}"} for name in given["files"]]
    return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}


def _artifact_type(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    name = given["name"].split(":")[0]
    kinds = [artifact.type for artifact in server.artifacts if artifact.name == name]
    return {"project": {"artifact": {"artifactType": {"name": kinds[-1]}} if kinds else None}}


def _create_artifact(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    asked = given["input"]
    name, kind = asked["artifactCollectionName"], asked["artifactTypeName"]
    server.artifacts.append(Artifact(name, kind, asked["runName"]))
    number = len(server.artifacts) - 1
    sequence = {"id": name, "latestArtifact": {"id": str(number), "versionIndex": 0}}
    artifact = {"id": str(number), "digest": asked["digest"], "state": "PENDING", "artifactSequence": sequence}
    return {"createArtifact": {"artifact": artifact}}


def _manifest(server: FakeWandb, number: str) -> dict[str, Any]:
    url = f"{server.url}/artifact/{number}/wandb_manifest.json"
    return {"artifactManifest": {"id": number, "file": {"id": number, "uploadUrl": url, "uploadHeaders": []}}}


def _create_artifact_files(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    def edge(spec: Mapping[str, Any]) -> dict[str, Any]:
        number, name = spec["artifactID"], spec["name"]
        node = {"storagePath": f"{number}/{name}", "uploadUrl": f"{server.url}/artifact/{number}/{name}"}
        return {"node": {**node, "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": number}}}

    edges = [edge(spec) for spec in given["input"]["artifactFiles"]]
    return {"createArtifactFiles": {"files": {"edges": edges}}}


def _commit_artifact(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    artifact = server.artifacts[int(given["artifactID"])]
    artifact.state = "COMMITTED"
    return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}


def _upsert_sweep(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    name = f"sweep{len(server.sweeps)}"
    server.sweeps[name] = Sweep(name, yaml.safe_load(given["config"]))
    sweep = {"name": name, "project": _project(given["projectName"])}
    return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}


def _sweep_with_runs(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    sweep = server.sweeps[given["sweep"]]
    return {
        "project": {
            "sweep": {
                "id": sweep.name,
                "name": sweep.name,
                "method": sweep.config["method"],
                "state": "RUNNING",
                "config": yaml.safe_dump(sweep.config),
                "runs": {"edges": []},
            }
        }
    }


def _create_agent(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    return {"createAgent": {"agent": {"id": given["sweep"]}}}


def _heartbeat(server: FakeWandb, given: Mapping[str, Any]) -> dict[str, Any]:
    """One run of the grid at a time, then the end."""
    sweep, commands = server.sweeps[given["id"]], []
    points = grid(sweep.config["parameters"])
    if not json.loads(given["runState"]):
        if len(sweep.given) < len(points):
            run_id = f"agent{len(sweep.given):03d}"
            args = {name: {"value": value} for name, value in points[len(sweep.given)].items()}
            commands = [{"type": "run", "run_id": run_id, "program": sweep.config.get("program"), "args": args}]
            sweep.given += commands
        else:
            commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}


def grid(parameters: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every combination of a sweep's parameters."""
    values: list[Sequence[Any]] = [
        item["values"] if "values" in item else [item["value"]] for item in parameters.values()
    ]
    return [dict(zip(parameters, combination, strict=True)) for combination in itertools.product(*values)]


ANSWERS: dict[str, Callable[[FakeWandb, Mapping[str, Any]], dict[str, Any]]] = {
    "Viewer": _viewer,
    "ServerFeaturesQuery": lambda server, given: {"serverInfo": {"features": []}},
    "RunResumeStatus": _resume_status,
    "UpsertBucket": _upsert_bucket,
    "CreateRunFiles": _create_run_files,
    "ArtifactType": _artifact_type,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": lambda server, given: {"createArtifactManifest": _manifest(server, given["artifactID"])},
    "UpdateArtifactManifest": lambda server, given: {
        "updateArtifactManifest": _manifest(server, given["artifactManifestID"])
    },
    "CreateArtifactFiles": _create_artifact_files,
    "CommitArtifact": _commit_artifact,
    "UpsertSweep": _upsert_sweep,
    "SweepWithRuns": _sweep_with_runs,
    "CreateAgent": _create_agent,
    "Heartbeat": _heartbeat,
}
