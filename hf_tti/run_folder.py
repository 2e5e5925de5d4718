"""A run's folder: which recipe it holds, how far it is, and what may be done with it.

recipe.yaml   the resolved recipe, under a comment header that says what made it
run.json      digest of the recipe, versions, command, tracker; written before the first step
metrics.jsonl, log.txt, stories.txt, checkpoint-<step>/, final/
result.json   written last and atomically: the run is finished if and only if it is there and final/ is whole
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hf_tti.checkpoints import FINAL, NoValidCheckpoint, newest_valid
from hf_tti.errors import UserError
from hf_tti.final_model import problems_of_final
from hf_tti.own_files import check_run_links
from hf_tti.recipe import Recipe, load_recipe
from hf_tti.recipe.check import SWEPT_SECTIONS
from hf_tti.redaction import secret_in

RUN_FILE, RESULT_FILE, RECIPE_FILE, METRICS_FILE = (
    "run.json",
    "result.json",
    "recipe.yaml",
    "metrics.jsonl",
)

# key -> types of its value, in files that another process, or a failing disk, may have changed
_TEXT_OR_NONE = (str, type(None))
_OF_RECORD: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "digest", "data_fingerprint", "recipe", "tracker_run_id"), (str,)),
    **dict.fromkeys(("experiment", "command", "git_commit"), _TEXT_OR_NONE),
    "versions": (dict,),
}
_OF_RESULT: dict[str, tuple[type, ...]] = {
    "metrics": (dict,),
    **dict.fromkeys(("num_steps", "num_train_tokens", "num_parameters"), (int,)),
    "wall_seconds": (int, float),
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_LOCKS: set[IO[str]] = set()  # that this process holds
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # of write_text, left by a process that was killed
ELASTIC = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")


def default_run_dir(recipe: Recipe, runs_dir: Path = Path("runs")) -> Path:
    """`runs/<experiment>/<run_name>`; the recipe's name stands in for a missing experiment."""
    return runs_dir / (recipe.experiment or recipe.name) / recipe.run_name


def resolve_paths(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, so that it means the same from any folder.

    A path starts from the recipe's folder; a name that is no path there stays as it is. A
    pretrained model brings its own tokenizer unless `data:` names one.

    Raises:
        UserError: such a path holds a secret, which the run's files would then hold.
    """
    base = recipe.path.parent.resolve()

    def absolute(value: Any) -> Any:
        is_path = isinstance(value, str) and os.path.exists(base / value)  # False where no path can be so long
        return str((base / value).resolve()) if is_path else value

    model = {key: absolute(value) if key == "pretrained" else value for key, value in recipe.model.items()}
    paths = ("train", "validation", "tokenizer")
    data = {key: absolute(value) if key in paths else value for key, value in recipe.data.items()}
    if model.get("pretrained") and not data.get("vocab_size"):
        data.setdefault("tokenizer", model["pretrained"])
    evaluation = {key: absolute(value) if key == "labels" else value for key, value in recipe.evaluation.items()}
    for section, values in (("model", model), ("data", data), ("evaluation", evaluation)):
        for key, value in values.items():
            if isinstance(value, str) and (what := secret_in(value)):
                raise UserError(f"{section}.{key}: its absolute path holds {what}, as would the run; rename a folder")
    return dataclasses.replace(recipe, model=model, data=data, evaluation=evaluation)


@dataclass(frozen=True)
class RunFolder:
    """The paths and the state of one run."""

    path: Path

    @property
    def final(self) -> Path:
        """The trained model, its tokenizer and its configuration."""
        return self.path / FINAL

    def record(self) -> dict[str, Any] | None:
        """What `run.json` holds, or None where no run has begun.

        Raises:
            UserError: not written by a run, or a value of another type.
        """
        record = _read_json(self.path / RUN_FILE, {"name", "digest"}, _OF_RECORD)
        if record is not None and not _NAME.fullmatch(record["name"]):
            raise UserError(f"{self.path / RUN_FILE}: name: {record['name'][:80]!r} is no name of a run")
        return record

    def data_fingerprint(self) -> str | None:
        """Of the data that the run was begun on, or None where no run has begun.

        Raises:
            UserError: as `record`, or `run.json` does not say.
        """
        record = self.record()
        if record is not None and "data_fingerprint" not in record:
            raise UserError(f"{self.path / RUN_FILE}: data_fingerprint: missing; put back a copy")
        return record and record["data_fingerprint"]

    def result(self) -> dict[str, Any] | None:
        """What `result.json` holds, or None where it is not there.

        Raises:
            UserError: not written by a run, or a value of another type.
        """
        result = _read_json(self.path / RESULT_FILE, {"metrics"}, _OF_RESULT)
        for name, value in (result or {"metrics": {}})["metrics"].items():
            _check_type(self.path / RESULT_FILE, f"metrics.{name}", value, (int, float, type(None)))
        return result

    def finished(self) -> dict[str, Any] | None:
        """The result of a run that is finished: nothing is missing in `result.json`, and `final/` is whole. Else None.

        Raises:
            UserError: as `result`, or a key is missing.
        """
        result = self.result()
        if result is None:
            return None
        names = [*(name for name in _OF_RESULT if name not in result), *{"eval_loss"} - result["metrics"].keys()]
        if names:
            raise UserError(f"{self.path / RESULT_FILE}: {names[0]}: missing; remove it and go on with --resume")
        return None if self.final_problems() else result

    def final_problems(self) -> list[str]:
        """What is wrong with `final/`, one line a file; empty where it is whole."""
        return problems_of_final(self.final)

    def check_final(self) -> None:
        """
        Raises:
            UserError: `final/` is missing or damaged.
        """
        problems = self.final_problems()
        if problems:
            raise UserError(f"{problems[0]}; hf-tti resume {self.path} writes it anew")

    def check_final_can_be_written_anew(self, *, resume: bool) -> None:
        """For a run that has its result and is not finished.

        Raises:
            UserError: `resume` is not set. NoValidCheckpoint: it is, and there is no checkpoint to go on from.
        """
        problems = self.final_problems()
        if not resume:
            self.check_final()
        elif problems and self.newest_checkpoint() is None:
            raise NoValidCheckpoint(
                f"{problems[0]}; and no checkpoint is whole: put back a copy, or train anew in another folder"
            )

    def recipe(self, overrides: Sequence[str] = ()) -> Recipe:
        """The run's own recipe, under the run's name.

        Raises:
            UserError: no run in this folder, or a recipe that was spoiled.
        """
        record = self.record()
        if record is None:
            raise UserError(f"{self.path}: holds no run ({RUN_FILE})")
        recipe = load_recipe(self.path / RECIPE_FILE, overrides)
        return dataclasses.replace(recipe, name=record["name"], run_name=record["name"])

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint with the highest step that is whole, or None. Moves nothing."""
        return newest_valid(self.path)[0]

    def check(self, recipe: Recipe, *, resume: bool, elastic: bool = False) -> None:
        """Whether a run of this recipe may train here.

        Args:
            recipe: one run, its paths resolved.
            resume: go on with an unfinished run.
            elastic: let batch and accumulation differ; the checkpoint is held to their product.

        Raises:
            UserError: the folder holds another recipe's run, an unfinished run and `resume` is not
                set, or things that no run wrote.
        """
        check_run_links(self.path)
        record = self.record()
        if record is None:
            self._check_unclaimed()
        elif record["digest"] != recipe.digest() and (wrong := self._differences(recipe, elastic)):
            raise UserError(
                f"{self.path} holds a run of another recipe ({record['name']}): {wrong}; "
                "name another folder with --run-dir, or remove it"
            )
        elif self.result() is None and not resume:
            raise UserError(f"{self.path} holds an unfinished run of {recipe.run_name}; add --resume to go on with it")

    def _differences(self, recipe: Recipe, elastic: bool) -> str:
        """What the recipe says otherwise than the folder's; empty where `elastic` covers it all."""
        try:
            was, now = (flat(of) for of in (load_recipe(self.path / RECIPE_FILE), recipe))
        except UserError:
            return f"{self.path / RECIPE_FILE} cannot be read, and its digest is another"
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        if not names:
            return f"{self.path / RECIPE_FILE} was changed since"
        names = [name for name in names if not elastic or name not in ELASTIC]
        return "; ".join(f"{name} was {was.get(name)}, is {now.get(name)}" for name in names)

    def _check_unclaimed(self) -> None:
        ours = {"log.txt", ".lock"}
        names = {entry.name for entry in self.path.glob("*")} - ours
        others = sorted(name for name in names if not _TEMPORARY.fullmatch(name))
        if others:
            raise UserError(
                f"{self.path} is not empty and holds no run ({others[0]} is there); name another folder with --run-dir"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second process from training here; ends with this process."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            check_run_links(self.path)
            handle = open(self.path / ".lock", "w")
        except OSError as error:
            raise unwritable(error, self.path) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.path}: another process is training in this folder") from None
            _LOCKS.add(handle)
            try:
                yield
            finally:
                _LOCKS.discard(handle)
                fcntl.flock(handle, fcntl.LOCK_UN)  # for a child too that was forked a moment ago


def _let_go() -> None:
    """In a forked child, such as one that loads data: the lock is not its own to keep."""
    while _LOCKS:
        _LOCKS.pop().close()


os.register_at_fork(after_in_child=_let_go)


def flat(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value of what determines a run's result."""
    found: dict[str, Any] = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                walk(item, f"{key}.{name}")
        else:
            found[key] = value

    for section in SWEPT_SECTIONS:
        walk(getattr(recipe, section), section)
    return found


def unwritable(error: OSError, path: Path) -> UserError:
    """What the system said, of the file that it said it of, or else of `path`."""
    return UserError(f"{error.filename or path}: {(error.strerror or str(error)).lower()}")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _read_json(path: Path, needed: set[str], types: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise UserError(f"{path.parent} is a file or below one; name a folder") from error
    except OSError as error:
        raise unwritable(error, path) from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a JSON file ({error.msg}, line {error.lineno}); remove it") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of thousands of digits, too deep
        raise UserError(f"{path}: not a JSON file ({error}); remove it") from error
    if not isinstance(content, dict) or not needed <= content.keys():
        raise UserError(f"{path}: not written by a run; remove it")
    for key in types.keys() & content.keys():
        _check_type(path, key, content[key], types[key])
    return content


def _check_type(path: Path, key: str, value: Any, types: tuple[type, ...]) -> None:
    if not isinstance(value, types) or isinstance(value, bool):
        remedy = "remove it and go on with --resume" if path.name == RESULT_FILE else "put back a copy"
        raise UserError(f"{path}: {key}: {str(value)[:80]!r} is no value that a run writes; {remedy}")
