"""What trackers left on disk, read back without a server: one `Recorded` per tracker."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recorded:
    """The union of what a tracker's files hold.

    Attributes:
        curves: key -> {optimizer step: value}.
        runs: (run id, run name, project, group) of every session; a set, so that one run is one entry.
    """

    curves: dict[str, dict[int, float]]
    runs: set[tuple[str, str, str, str]]


def read_tensorboard(run_dir: Path) -> Recorded:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    keys = events.Tags()["scalars"]
    return Recorded({key: {e.step: e.value for e in events.Scalars(key)} for key in keys}, set())


def read_trackio(run_dir: Path) -> Recorded:
    curves, runs = {}, set()
    for path in (run_dir / "trackio").glob("*.db"):
        store = sqlite3.connect(path)
        for (metrics,) in store.execute("SELECT metrics FROM metrics"):
            _add(curves, json.loads(metrics))
        for run_id, name, config in store.execute("SELECT run_id, run_name, config FROM configs"):
            runs.add((run_id, name, path.stem, json.loads(config)["_Group"]))
        store.close()
    return Recorded(curves, runs)


def read_wandb(run_dir: Path) -> Recorded:
    from wandb.proto.wandb_internal_pb2 import Record

    curves, runs = {}, set()
    for path in (run_dir / "wandb").glob("*/*.wandb"):
        for data in wandb_records(path):
            record = Record.FromString(data)
            if record.HasField("run"):
                run = record.run
                runs.add((run.run_id, run.display_name, run.project, run.run_group))
            if record.HasField("history"):
                items = record.history.item
                _add(curves, {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return Recorded(curves, runs)


def files_with(folder: Path, secrets: Sequence[bytes]) -> list[Path]:
    """Files below a folder that hold one of them, W&B's own records taken apart."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            texts = wandb_records(path) if path.suffix == ".wandb" else [path.read_bytes()]
            found += [path for secret in secrets if any(secret in text for text in texts)]
    return found


def _add(curves: dict[str, dict[int, float]], line: dict[str, float]) -> None:
    step = line.pop("train/global_step", None)
    if step is not None:
        for key, value in line.items():
            curves.setdefault(key, {})[step] = value


_HEADER, _BLOCK, _LAST_PARTS = 7, 32768, (1, 4)  # of LevelDB's log format; parts are full, first, middle, last


def wandb_records(path: Path) -> list[bytes]:
    """The serialized records of a `.wandb` file: LevelDB's log format after a header of 7 bytes."""
    data, records, parts, at = path.read_bytes(), [], b"", _HEADER
    assert data.startswith(b":W&B")
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK  # a block's end too short for a part is padding
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in _LAST_PARTS:
            records.append(parts)
            parts = b""
    return records
