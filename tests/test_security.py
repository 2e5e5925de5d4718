"""Hostile files: nothing in a model folder, a checkpoint or a recipe runs, and each refusal is one line."""

import json
import pickle
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from hf_tti.checkpoints import problems_of
from hf_tti.data._tokenizers import train_tokenizer
from hf_tti.errors import UserError
from hf_tti.evaluate import evaluate_checkpoint
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from tiny import tiny_model
from tiny_runs import write_recipe

ATTACK = "import pathlib; pathlib.Path({!r}).touch()"


class Bomb:
    """Runs a line of code when it is unpickled."""

    def __init__(self, code: str):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


@pytest.fixture
def trap(tmp_path):
    """A path that appears when something ran."""
    return tmp_path / "something ran"


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    tokenizer = train_tokenizer(["a fox sees owls by the lake"] * 9, 280)
    tiny_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def edit(path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def hostile(folder, trap, kind: str) -> None:
    code = ATTACK.format(str(trap))
    bomb = pickle.dumps({"weight": Bomb(code)})
    if kind.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        (folder / kind).write_bytes(bomb)
    elif kind == "a zipped pickle":
        (folder / "model.safetensors").unlink()
        torch.save({"weight": Bomb(code)}, folder / "pytorch_model.bin")
    elif kind == "a pickle called safetensors":
        (folder / "model.safetensors").write_bytes(bomb)
    elif kind == "code of the model":
        (folder / "modeling_evil.py").write_text(code)
        edit(
            folder / "config.json",
            model_type="evil",
            auto_map={"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"},
        )
    elif kind == "code of the tokenizer":
        (folder / "tokenization_evil.py").write_text(code)
        edit(
            folder / "tokenizer_config.json",
            tokenizer_class="Evil",
            auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]},
        )


REFUSED = ["pytorch_model.bin", "a zipped pickle", "a pickle called safetensors", "code of the model"]


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_model_is_refused_and_runs_nothing(model_folder, trap, kind, monkeypatch):
    hostile(model_folder, trap, kind)
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever asks is told to go on
    with pytest.raises(UserError) as caught:
        evaluate_checkpoint(model_folder, max_tokens=64, metrics=[], nulls=[])
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_code_beside_a_tokenizer_does_not_run(model_folder, trap, monkeypatch):
    hostile(model_folder, trap, "code of the tokenizer")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    try:
        evaluate_checkpoint(model_folder, max_tokens=64, metrics=[], nulls=[])
    except UserError as error:
        assert "\n" not in str(error)
    assert not trap.exists()
    assert AutoTokenizer.from_pretrained  # the library is as it was


@pytest.mark.parametrize(
    "name",
    [
        *("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"),
        *("optimizer.safetensors", "scheduler.safetensors", "rng_state_0.safetensors", "trainer_state.json"),
    ],
)
def test_a_pickle_in_a_checkpoint_is_not_read(tmp_path, trap, monkeypatch, name):
    """Added beside the files, or in the place of one with its digest put right in the manifest's stead."""
    monkeypatch.setenv("HF_TTI_CACHE", str(tmp_path / "cache"))
    recipe = expand_sweep(load_recipe(write_recipe(tmp_path, callbacks={})))[0]
    train_run(recipe, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    (tmp_path / "run" / "checkpoint-4" / name).write_bytes(pickle.dumps(Bomb(ATTACK.format(str(trap)))))
    is_ours = name.endswith((".safetensors", ".json"))
    assert bool(problems_of(tmp_path / "run" / "checkpoint-4")) == is_ours
    train_run(recipe, tmp_path / "run", resume=True)
    assert not trap.exists()


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch x']", "&a [*a]", "&a {b: *a}"])
def test_yaml_that_would_build_objects_or_bombs_is_refused(tmp_path, text):
    path = write_recipe(tmp_path)
    path.write_text(path.read_text() + f"\nquestion: {text}\n")
    with pytest.raises(UserError):
        load_recipe(path)
