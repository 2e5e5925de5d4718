"""What hostile files are planted in and used by: a model, a trained run with its report, made reports, and an outside.

Outside lie secrets and a folder. A hostile file succeeds where its trap appears, where anything outside changes, or
where an outside secret turns up in what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "analysis"))

from made_reports import make_run

from analysis.comparison import compare_runs
from analysis.csv_files import write_csv_files
from analysis.markdown import markdown
from analysis.neurons import read_neurons, write_neuron_page
from analysis.runs import find_runs
from hf_tti.checkpoints import publish, read_manifest
from hf_tti.data._tokenizers import train_tokenizer
from hf_tti.errors import UserError
from hf_tti.evaluate import evaluate_checkpoint
from hf_tti.hub.card import card_files
from hf_tti.hub.files import check_files
from hf_tti.loading import find_checkpoint, load_tokenizer
from hf_tti.recipe import RecipeError, expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder
from tiny import tiny_model
from tiny_runs import write_recipe

OUTSIDE = "OUTSIDE-SECRET-7731"
METRICS = ["activation_sparsity"]


class Bomb:
    """Runs a line of code when it is unpickled."""

    def __init__(self, code: str):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


class World:
    """Made once; every case works on copies of its own.

    Attributes:
        base: `model/`, `run/` (finished, checkpoints 2, 4, 6, a report) and `made/` (two reports without a training).
        outside: what nothing may read into an output or write to.
    """

    def __init__(self, folder: Path):
        self.base, self.outside, self._cases = folder / "base", folder / "outside", folder / "cases"
        self.base.mkdir(parents=True)
        os.environ["HF_TTI_CACHE"] = str(self.base / "cache")
        tokenizer = train_tokenizer(["a fox sees owls by the lake"] * 9, 280)
        tiny_model(vocab_size=len(tokenizer)).save_pretrained(self.base / "model")
        tokenizer.save_pretrained(self.base / "model")
        recipe = expand_sweep(load_recipe(write_recipe(self.base, callbacks={})))[0]
        train_run(recipe, self.base / "run")
        evaluate(self.base / "run").save(self.base / "run" / "report")
        for method in ("baseline", "orthogonality"):
            make_run(self.base / "made" / f"{method}-seed1", method, 1, layers=1, units=4)
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(f"{OUTSIDE}\n" * 3)
        (self.outside / "secret.json").write_text(json.dumps({OUTSIDE: OUTSIDE, "vocab": {OUTSIDE: 0}}))
        shutil.copytree(self.base / "model", self.outside / "model")
        shutil.copytree(self.base / "run" / "checkpoint-6", self.outside / "checkpoint-6")
        (self.outside / "folder").mkdir()
        (self.outside / "folder" / "kept.txt").write_text("kept\n")

    def case(self, name: str) -> Case:
        folder = self._cases / "".join(c if c.isalnum() else "_" for c in name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return Case(self, folder)


class Case:
    """A folder of one's own to plant a hostile file in, and to use it."""

    def __init__(self, world: World, folder: Path):
        self.folder, self.out, self.world = folder, folder / "out", world
        self.trap = folder / "something ran"
        self.outside = world.outside
        self.code = f"import pathlib; pathlib.Path({str(self.trap)!r}).touch()"
        self.pickle = pickle.dumps({"weight": Bomb(self.code)})
        self.out.mkdir()

    def copy(self, name: str) -> Path:
        """A fresh copy of something of the base."""
        target = self.folder / name
        if not target.exists():
            shutil.copytree(self.world.base / name, target, symlinks=True)
        return target

    def attempt(self, plant: Callable[[Case], None], use: Callable[[Case], object]) -> str:
        """What was said against it, or '' where it was used without harm.

        Raises:
            AssertionError: it did harm, or the refusal is not one printable line.
        """
        plant(self)
        before, here = digest_of(self.outside), os.getcwd()
        os.environ["HF_TTI_CACHE"] = str(self.folder / "cache")
        os.chdir(self.folder)
        said = ""
        try:
            use(self)
        except UserError as error:
            said = str(error)
            lines = error.problems if isinstance(error, RecipeError) else [said]
            assert all(line and line.isprintable() for line in lines), repr(said)
        finally:
            os.chdir(here)
            os.environ["HF_TTI_CACHE"] = str(self.world.base / "cache")
        assert not self.trap.exists(), "something ran"
        assert digest_of(self.outside) == before, "something outside was changed"
        assert OUTSIDE not in said, "a secret was said"
        for path in self.out.rglob("*"):
            if path.is_file():
                assert OUTSIDE.encode() not in path.read_bytes(), f"an outside secret is in {path}"
        assert not any(path.name.startswith("escaped") for path in self.folder.parent.iterdir()), "it escaped"
        assert "evil" not in sys.modules
        return said


def digest_of(folder: Path) -> str:
    """Of names, links and bytes of everything below it."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {path.is_symlink()}\n".encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def edit(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def signed(checkpoint: Path) -> None:
    """The checkpoint with a manifest that fits what is in it now, as somebody would write who knows how."""
    manifest = read_manifest(checkpoint)
    staged = checkpoint.with_name(".staged")
    checkpoint.rename(staged)
    (staged / "manifest.json").unlink()
    publish(staged, checkpoint, step=manifest.step, facts=manifest.facts)


def link(path: Path, target: Path) -> None:
    """A link in the place of whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


# ---- What people do with files of others -------------------------------------------------------


def evaluate(folder: Path):
    return evaluate_checkpoint(folder, max_tokens=64, metrics=METRICS, nulls=[])


def evaluate_model(case: Case) -> None:
    """Evaluate it, and save its tokenizer again."""
    evaluate(case.folder / "model").save(case.out / "report")
    load_tokenizer(find_checkpoint(case.folder / "model")).save_pretrained(case.out / "tokenizer")


def train_on_it(case: Case) -> None:
    """Go on training the model."""
    path = write_recipe(case.folder, model={"pretrained": "model"}, callbacks={})
    text = path.read_text().replace("vocab_size: 280", "tokenizer: model")
    path.write_text(text)
    train_run(expand_sweep(load_recipe(path, ["training.max_steps=1"]))[0], case.out / "run")


def evaluate_run(case: Case) -> None:
    evaluate(case.folder / "run").save(find_checkpoint(case.folder / "run").default_out)
    shutil.copytree(case.folder / "run" / "report", case.out / "report")


def evaluate_step(case: Case) -> None:
    place = find_checkpoint(case.folder / "run" / "checkpoint-4")
    evaluate(case.folder / "run" / "checkpoint-4").save(place.default_out)


def resume(case: Case) -> None:
    """Resume it from its newest checkpoint that is whole; `checkpoint-6` and the result are gone."""
    run = case.folder / "run"
    train_run(RunFolder(run).recipe(), run, resume=True)


def unfinished(case: Case) -> Path:
    """A run to plant in that `resume` goes on with, from step 4."""
    run = case.copy("run")
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoint-6")
    return run


def report_made(case: Case) -> None:
    """Everything of `hf-tti report` but the pictures."""
    runs = find_runs([case.folder / "made"])
    comparison = compare_runs(runs)
    (case.out / "report.md").write_text(markdown(comparison), encoding="utf-8")
    write_csv_files(comparison, case.out)
    for run in runs:
        assert all(isinstance(line, dict) for line in run.curves)
        (case.out / f"{run.seed}.txt").write_text(repr(run.stories))
        if next(read_neurons(run.report), None) is not None:
            write_neuron_page(run, case.out / "neurons" / "page.html")


def prepare_push(case: Case) -> None:
    """What a push would send, checked as it is."""
    run = RunFolder(case.folder / "run")
    with run.lock():
        check_files(card_files(run, "someone/something"))
