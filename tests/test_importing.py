"""Laws of importing: a stock Trainer's steps and ours are one training, and a hostile checkpoint is refused unread."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from hf_tti import cli
from hf_tti.checkpoints import checkpoints_of, problems_of, read_manifest
from hf_tti.data import CausalLMCollator, DataConfig, prepare_data
from hf_tti.errors import UserError
from hf_tti.from_recipe import build_model
from hf_tti.importing import import_checkpoint
from hf_tti.logging_window import WINDOW_FILE
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder, resolve_paths
from hf_tti.stock_checkpoint import read_stock_checkpoint
from tiny_runs import TINY_TRAINING, write_recipe

ACCUMULATION, QUIET = 2, {"generate_stories": {"num_stories": 0}}
PICKLES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def recipe_of(folder: Path, name: str = "tiny", **training):
    settings = {"gradient_accumulation_steps": ACCUMULATION, "warmup_steps": 2, **training}
    path = write_recipe(folder, name, training=settings, callbacks=QUIET, objectives={})
    return expand_sweep(load_recipe(path))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("importing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def recipe(folder):
    return recipe_of(folder)


@pytest.fixture(scope="module")
def ours(folder, recipe) -> RunFolder:
    """All steps with ours."""
    train_run(recipe, folder / "ours")
    return RunFolder(folder / "ours")


@pytest.fixture(scope="module")
def stock(folder, recipe) -> Path:
    """The folder of transformers' own Trainer with the same model, data and arguments."""
    data = prepare_data(DataConfig(**resolve_paths(recipe).data))
    model = build_model(recipe, data.tokenizer, seed=TINY_TRAINING["seed"])
    model.loss_type = "ForCausalLM"
    settings = {**TINY_TRAINING, "gradient_accumulation_steps": ACCUMULATION, "warmup_steps": 2}
    del settings["metric_batches"]
    args = TrainingArguments(str(folder / "stock"), report_to="none", disable_tqdm=True, use_cpu=True, **settings)
    collator = CausalLMCollator(pad_token_id=data.tokenizer.eos_token_id)
    Trainer(model, args, data_collator=collator, train_dataset=data.train, eval_dataset=data.validation).train()
    return folder / "stock"


@pytest.fixture
def copy(stock, tmp_path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(stock / "checkpoint-2", tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("step", [2, 4, 6])
def test_stock_steps_and_then_ours_are_bitwise_all_ours(recipe, ours, stock, tmp_path, step):
    place = import_checkpoint(recipe, stock / f"checkpoint-{step}", tmp_path / "run")
    assert not problems_of(place) and {path.suffix for path in place.iterdir()} == {".json", ".safetensors"}
    train_run(recipe, tmp_path / "run", resume=True)
    went_on, alone = (load_file(of / "final" / "model.safetensors") for of in (tmp_path / "run", ours.path))
    assert all(torch.equal(value, went_on[name]) for name, value in alone.items())
    states = [load_file(run / "checkpoint-6" / "optimizer.safetensors") for run in (tmp_path / "run", ours.path)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert (RunFolder(tmp_path / "run").result()["metrics"]) == ours.result()["metrics"]


def test_the_manifest_says_what_the_recipe_says_and_the_run_where_it_came_from(recipe, ours, stock, tmp_path):
    place = import_checkpoint(recipe, stock / "checkpoint-2", tmp_path / "run")
    assert read_manifest(place).facts == read_manifest(ours.path / "checkpoint-2").facts
    imported = RunFolder(tmp_path / "run").record()["imported"]
    assert imported["step"] == 2 and imported["checkpoint"] == str((stock / "checkpoint-2").resolve())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth"} <= imported["sha256"].keys()
    assert "training_args.bin" not in imported["sha256"]


def test_the_command_says_how_to_go_on(folder, recipe, stock, tmp_path, capsys):
    command = ["import-checkpoint", str(stock / "checkpoint-4"), str(recipe.path), "--run-dir", str(tmp_path / "run")]
    assert cli.main(command) == 0
    assert f"go on with: hf-tti resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert cli.main(command) == 2
    assert "holds a run with checkpoints" in capsys.readouterr().err


# ---- Another training ----


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"max_steps": 8}, "max_steps was 6, is 8"),
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size was 4, is 2"),
        ({"gradient_accumulation_steps": 1}, "epoch at step 2 .* was .*, is "),
        ({"learning_rate": 0.5}, "learning_rate was .0.01, 0.01., is .0.5, 0.5."),
        ({"warmup_steps": 0}, "learning rate after 2 steps .lr_scheduler_type, warmup. was .*, is "),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 1}, "learning rate after 2 steps"),
        ({"weight_decay": 0.3}, "optimizer's weight_decay was 0.0, is 0.3"),
        ({"adam_beta2": 0.9}, "optimizer's betas was .0.9, 0.999., is .0.9, 0.9."),
        ({"optim": "sgd"}, "optimizer's .* was"),
    ],
)
def test_another_training_is_refused_in_one_line(folder, stock, tmp_path, training, said):
    name = "other-" + "-".join(training)
    with pytest.raises(UserError, match=f"checkpoint-2: of another training than the recipe's: .*{said}") as caught:
        import_checkpoint(recipe_of(folder, name, **training), stock / "checkpoint-2", tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not checkpoints_of(tmp_path / "run") and RunFolder(tmp_path / "run").record() is None


def test_another_model_is_refused(folder, stock, tmp_path):
    path = write_recipe(
        folder,
        "wide",
        training={"gradient_accumulation_steps": ACCUMULATION, "warmup_steps": 2},
        objectives={},
        model={"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 32},
    )
    with pytest.raises(UserError, match="optimizer's .* of parameter|of another model than the recipe's"):
        import_checkpoint(expand_sweep(load_recipe(path))[0], stock / "checkpoint-2", tmp_path / "run")


def test_objectives_that_the_stock_trainer_cannot_have_trained_are_refused(folder, stock, tmp_path):
    path = write_recipe(folder, "with_objectives")
    with pytest.raises(UserError, match="has objectives .orthogonality., and the stock Trainer trained without"):
        import_checkpoint(expand_sweep(load_recipe(path))[0], stock / "checkpoint-2", tmp_path / "run")


def test_a_checkpoint_of_two_processes_is_not_taken_for_one(recipe, copy, tmp_path):
    for rank in (0, 1):
        shutil.copy(copy / "rng_state.pth", copy / f"rng_state_{rank}.pth")
    with pytest.raises(UserError, match="processes was 2, is 1"):
        import_checkpoint(recipe, copy, tmp_path / "run")


def test_our_own_checkpoint_is_resumed_and_not_imported(recipe, ours, tmp_path):
    with pytest.raises(UserError, match="a checkpoint of hf_tti; resume its run instead"):
        import_checkpoint(recipe, ours.path / "checkpoint-2", tmp_path / "run")


# ---- Hostile and damaged files ----


class Bomb:
    """Runs where it is unpickled carelessly."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def archive_of(pickled: bytes, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A file as torch.save writes it, around any pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def saved(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def shared_lists(depth: int = 60) -> list:
    """Small in a pickle, 2 ** depth items when walked through."""
    value: list = [0]
    for _ in range(depth):
        value = [value, value]
    return value


HOSTILE = {
    "a bare pickle": lambda marker: pickle.dumps(Bomb(marker)),
    "a pickle in an archive": lambda marker: archive_of(pickle.dumps(Bomb(marker), protocol=2)),
    "a pickle below a state": lambda marker: archive_of(
        pickle.dumps({"state": {}, "param_groups": [Bomb(marker)], "last_epoch": 2, "python": Bomb(marker)}, protocol=2)
    ),
    "torch.save of an object": lambda marker: saved({"state": Bomb(marker), "param_groups": []}),
    "the old format": lambda marker: b"".join(
        pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001)
    ),
    "a compressed archive": lambda marker: archive_of(b"\x80\x02" + b"0" * 10**6, compression=zipfile.ZIP_DEFLATED),
    "lists that share their parts": lambda marker: saved(
        {"state": shared_lists(), "param_groups": [], "last_epoch": 2}
    ),
    "an expanded tensor": lambda marker: saved({"state": torch.zeros(1).expand(10**12), "param_groups": []}),
    "nothing": lambda marker: b"",
    "text": lambda marker: b"not an archive",
    "half": lambda marker: saved({"state": torch.zeros(1000)})[:500],
    "another kind of value": lambda marker: saved([1, 2, 3]),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_file_is_refused_in_one_line_and_nothing_runs(copy, tmp_path, name, kind):
    marker = tmp_path / "it ran"
    (copy / name).write_bytes(HOSTILE[kind](marker))
    with pytest.raises(UserError, match=name) as caught:
        read_stock_checkpoint(copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 + 2 * len(str(copy))
    assert not marker.exists()


def test_the_bomb_of_these_tests_goes_off_where_it_is_unpickled_carelessly(tmp_path):
    with pytest.raises(AttributeError):  # mkdir gives None
        torch.load(io.BytesIO(archive_of(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))), weights_only=False).keys()
    assert (tmp_path / "ran").exists()


def test_pickled_arguments_and_weights_are_never_opened(recipe, ours, copy, tmp_path):
    marker = tmp_path / "it ran"
    for name in ("training_args.bin", "pytorch_model.bin", "scaler.bin", "optimizer.bin", "custom.py"):
        (copy / name).write_bytes(pickle.dumps(Bomb(marker)))
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "custom.Model"}
    (copy / "config.json").write_text(json.dumps(config))
    place = import_checkpoint(recipe, copy, tmp_path / "run")
    assert not marker.exists()
    files = {path.name for path in (ours.path / "checkpoint-2").iterdir()}
    assert {path.name for path in place.iterdir()} == files - {WINDOW_FILE}  # the stock Trainer keeps none
    assert "auto_map" not in json.loads((place / "config.json").read_text())


def test_weights_that_are_a_pickle_are_refused(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "it ran")))
    with pytest.raises(UserError, match="model.safetensors: missing; pytorch_model.bin is a pickle and is not read"):
        read_stock_checkpoint(copy)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", [*PICKLES, "trainer_state.json"])
def test_a_missing_file_or_a_link_is_refused(copy, tmp_path, name):
    (copy / name).rename(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: missing; a training cannot go on exactly without it"):
        read_stock_checkpoint(copy)
    (copy / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: a link"):
        read_stock_checkpoint(copy)


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")


LAST = "transformer.ln_f.bias"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop(LAST), f"lacks 1 tensors, {LAST} among them"),
        (
            lambda weights: weights.update(extra=torch.zeros(1)),
            "of another model than the recipe's: extra is not there",
        ),
        (
            lambda weights: weights.update({LAST: torch.zeros(3)}),
            f"{LAST} was torch.float32 .3., is torch.float32 .16.",
        ),
        (lambda weights: weights.update({LAST: weights[LAST].bfloat16()}), f"{LAST} was torch.bfloat16 .16., is"),
    ],
)
def test_weights_of_another_model_are_refused(recipe, copy, tmp_path, change, said):
    change_weights(copy, change)
    with pytest.raises(UserError, match=said):
        import_checkpoint(recipe, copy, tmp_path / "run")
    assert RunFolder(tmp_path / "run").record() is None


def change_state(folder: Path, name: str, change) -> None:
    with torch.serialization.safe_globals([]):
        value = torch.load(folder / name, weights_only=name != "rng_state.pth")
    change(value)
    torch.save(value, folder / name)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("optimizer.pt", lambda v: v["state"].pop(3), "parameters with a state in optimizer.pt was"),
        ("optimizer.pt", lambda v: v["state"][0].update(exp_avg=torch.zeros(3)), "exp_avg of parameter 0 was"),
        ("optimizer.pt", lambda v: v["state"][0].update(exp_avg="x"), "exp_avg of parameter 0 was x"),
        ("optimizer.pt", lambda v: v["param_groups"].pop(), "groups was"),
        (
            "optimizer.pt",
            lambda v: v["param_groups"][0].update(lr=torch.zeros(2)),
            "not what transformers' Trainer saves",
        ),
        ("optimizer.pt", lambda v: v.update(param_groups="many"), "param_groups was str"),
        ("scheduler.pt", lambda v: v.update(last_epoch=5), "steps of the schedule was 5, is 2"),
        ("scheduler.pt", lambda v: v.update(base_lrs=[torch.zeros(3)]), "learning_rate was"),
        ("rng_state.pth", lambda v: v.update(cpu=torch.zeros(3)), "not what transformers' Trainer saves"),
        ("rng_state.pth", lambda v: v.update(python="x"), "not what transformers' Trainer saves"),
        ("rng_state.pth", lambda v: v.update(numpy=("MT19937", [1, 2])), "not what transformers' Trainer saves"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_written(recipe, copy, tmp_path, name, change, said):
    change_state(copy, name, change)
    with pytest.raises(UserError, match=said) as caught:
        import_checkpoint(recipe, copy, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert RunFolder(tmp_path / "run").record() is None


@pytest.mark.parametrize(
    ("key", "value"),
    ids=lambda value: str(value)[:20],
    argvalues=[
        ("global_step", "2"),
        ("global_step", -1),
        ("global_step", True),
        ("global_step", 10**400),
        ("epoch", None),
        ("epoch", float("nan")),
        ("log_history", {}),
        ("log_history", [{"step": 1, "loss": {"x": 1}}]),
    ],
)
def test_a_state_file_of_something_else_is_refused(copy, key, value):
    path = copy / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match="trainer_state.json: not a state of transformers' Trainer") as caught:
        read_stock_checkpoint(copy)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 + len(str(copy))


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, "\ud800", '{"global_step": 2'], ids=range(6))
def test_a_state_file_that_is_no_state_is_refused(copy, text):
    (copy / "trainer_state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="trainer_state.json: not a state of transformers' Trainer"):
        read_stock_checkpoint(copy)
