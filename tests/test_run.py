"""Laws of a run's folder: what is in it, when it is refused, and that resuming changes nothing."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hf_tti import cli
from hf_tti.checkpoints import NoValidCheckpoint
from hf_tti.errors import UserError
from hf_tti.from_recipe import build_arguments, build_model
from hf_tti.recipe import expand_sweep, load_recipe
from hf_tti.run import train_run
from hf_tti.run_folder import RunFolder, default_run_dir
from hf_tti.trainer import InterpTrainer
from tiny_runs import TINY_DATA, write_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_recipe(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TTI_CACHE", str(folder / "cache"))
        yield folder


def run_of(path: Path, *overrides: str):
    return expand_sweep(load_recipe(path, overrides))[0]


@pytest.fixture(scope="module")
def recipe(folder):
    return run_of(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def finished(folder, recipe) -> RunFolder:
    """A run that nothing interrupted."""
    train_run(recipe, folder / "finished", command="hf-tti train tiny.yaml")
    return RunFolder(folder / "finished")


def weights(folder: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.final / "model.safetensors")


def log_lines(folder: RunFolder) -> list[dict]:
    lines = [json.loads(text) for text in (folder.path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def crash_at(monkeypatch, step: int) -> None:
    stock = InterpTrainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(InterpTrainer, "training_step", training_step)


def contents(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_finished_folder_holds_what_the_readme_promises(finished, recipe):
    names = {entry.name for entry in finished.path.iterdir()}
    assert {
        "recipe.yaml",
        "run.json",
        "metrics.jsonl",
        "stories.txt",
        "final",
        "result.json",
    } <= names
    assert {"checkpoint-2", "checkpoint-4", "checkpoint-6"} <= names
    result, record = finished.result(), finished.record()
    assert result["num_steps"] == 6
    assert result["num_train_tokens"] == 6 * 4 * 32
    assert result["metrics"]["eval_perplexity"] > 1
    assert {"eval_sparsity/mean", "eval_polysemanticity/mean"} <= result["metrics"].keys()
    assert record["versions"]["torch"] == torch.__version__
    assert record["command"] == "hf-tti train tiny.yaml"
    assert not list(finished.path.rglob("training_args.bin"))


def test_result_counts_the_parameters_of_the_saved_model(finished):
    assert finished.result()["num_parameters"] == sum(t.numel() for t in weights(finished).values())


def test_recorded_recipe_is_the_same_recipe(finished):
    again = run_of(finished.path / "recipe.yaml")
    assert again.digest() == finished.record()["digest"]


def test_every_log_line_is_there_once_in_order(finished):
    lines = log_lines(finished)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "eval_loss" in line] == [2, 4, 6]
    training = next(line for line in lines if "loss" in line)
    assert {"ce_loss", "objective/orthogonality", "weight/orthogonality"} <= training.keys()
    assert not any("runtime" in key or "per_second" in key for line in lines for key in line)


def test_stories_begin_with_the_prompt(finished):
    stories = (finished.path / "stories.txt").read_text().split("--- ")[1:]
    assert len(stories) == 2
    assert all(story.split("\n", 1)[1].startswith("the cat") for story in stories)


_PLAIN_LOAD = """
import sys
sys.modules["hf_tti"] = None  # any import of it fails
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel
model, info = GPT2LMHeadModel.from_pretrained(sys.argv[1], output_loading_info=True)
problems = {key: list(value) for key, value in info.items() if value}
assert not problems, problems
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
assert len(tokenizer) == model.config.vocab_size
assert model.generation_config.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
assert torch.isfinite(model(**tokenizer("the cat", return_tensors="pt")).logits).all()
"""


def test_final_model_loads_without_hf_tti(finished, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_LOAD, str(finished.final)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_a_finished_run_is_left_alone(finished, recipe, capsys):
    before = contents(finished.path)
    result = train_run(recipe, finished.path)
    assert contents(finished.path) == before
    assert result.num_steps == 6
    assert "is finished" in capsys.readouterr().out


def test_another_recipe_in_the_folder_is_refused_and_nothing_changes(finished, folder):
    other = run_of(folder / "tiny.yaml", "training.seed=8")
    before = contents(finished.path)
    for resume in (False, True):
        with pytest.raises(UserError, match=r"another recipe \(tiny-seed7\): training.seed was 7, is 8; ") as caught:
            train_run(other, finished.path, resume=resume)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
    assert contents(finished.path) == before


def test_names_and_tracking_do_not_make_it_another_recipe(finished, folder):
    renamed = run_of(folder / "tiny.yaml", "question=Another one", "tracking.tags=[a]")
    assert train_run(renamed, finished.path).num_steps == 6


@pytest.fixture(scope="module")
def interrupted(folder, recipe) -> RunFolder:
    with pytest.MonkeyPatch.context() as monkeypatch:
        crash_at(monkeypatch, 5)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe, folder / "interrupted")
    return RunFolder(folder / "interrupted")


def copied(run: RunFolder, path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(run.path, path)))


def test_an_unfinished_run_asks_for_resume(interrupted, recipe):
    before = contents(interrupted.path)
    with pytest.raises(UserError, match="--resume"):
        train_run(recipe, interrupted.path)
    assert contents(interrupted.path) == before


def test_a_resumed_run_equals_an_uninterrupted_one(interrupted, finished, recipe, tmp_path, capsys):
    run = copied(interrupted, tmp_path / "run")
    assert max(line["step"] for line in log_lines(run)) == 5  # beyond the checkpoint
    train_run(recipe, run.path, resume=True)
    assert f"resuming from {run.path / 'checkpoint-4'}" in capsys.readouterr().out
    expected, actual = weights(finished), weights(run)
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    assert log_lines(run) == log_lines(finished)
    assert run.result()["metrics"] == finished.result()["metrics"]
    assert run.result()["resumed_from"] == "checkpoint-4"


def test_an_incomplete_checkpoint_is_passed_over(interrupted, finished, recipe, tmp_path):
    run = copied(interrupted, tmp_path / "run")
    (run.path / "checkpoint-4" / "trainer_state.json").unlink()
    assert run.newest_checkpoint() == run.path / "checkpoint-2"
    train_run(recipe, run.path, resume=True)
    assert torch.equal(weights(run)["transformer.wte.weight"], weights(finished)["transformer.wte.weight"])


def test_resume_without_a_checkpoint_starts_anew_and_says_so(interrupted, finished, recipe, tmp_path, capsys):
    run = copied(interrupted, tmp_path / "run")
    for checkpoint in run.path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    train_run(recipe, run.path, resume=True)
    assert "no checkpoint to resume from" in capsys.readouterr().out
    assert log_lines(run) == log_lines(finished)


def test_a_run_that_ended_before_its_result_was_written_finishes(finished, recipe, tmp_path):
    run = copied(finished, tmp_path / "run")
    (run.path / "result.json").unlink()
    shutil.rmtree(run.final)
    train_run(recipe, run.path, resume=True)
    assert run.result()["metrics"] == finished.result()["metrics"]
    assert torch.equal(weights(run)["transformer.wte.weight"], weights(finished)["transformer.wte.weight"])


def test_the_final_evaluation_is_logged_once_whatever_died_after_it(folder, tmp_path):
    run = RunFolder(tmp_path / "run")
    best = run_of(folder / "tiny.yaml", "training.load_best_model_at_end=true")
    train_run(best, run.path)
    before = log_lines(run)
    assert sum("final" in line for line in before) == 1
    (run.path / "result.json").unlink()
    train_run(best, run.path, resume=True)
    assert log_lines(run) == before


@pytest.mark.parametrize("error", [SafetensorError("I/O error: No space left on device"), OSError(28, "No space left")])
@pytest.mark.parametrize("place", ["final", "result.json"])
def test_a_disk_that_refuses_the_end_of_a_run_is_one_line_and_resume_writes_it(
    finished, recipe, tmp_path, monkeypatch, error, place
):
    run = copied(finished, tmp_path / "run")
    (run.path / "result.json").unlink()

    def refuses(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        if place == "final":
            patch.setattr(InterpTrainer, "save_model", refuses)
        else:
            patch.setattr("hf_tti.run.write_json", refuses)
        with pytest.raises(UserError, match=f"^{run.path / place} could not be written: .*No space left") as caught:
            train_run(recipe, run.path, resume=True)
    assert "\n" not in str(caught.value) and run.result() is None
    train_run(recipe, run.path, resume=True)
    assert run.result()["metrics"] == finished.result()["metrics"]


@pytest.mark.parametrize("key", ["ignore_data_skip", "save_on_each_node"])
def test_a_key_that_would_break_resume_is_refused_and_says_why(folder, key):
    with pytest.raises(UserError, match=rf"training\.{key}.*(nothing stopped|rank 0)"):
        run_of(folder / "tiny.yaml", f"training.{key}=true")


def test_a_run_that_had_ended_does_no_step_more(folder, tmp_path, monkeypatch):
    """At a constant rate one more step would show in the weights; also after early stopping."""
    early = ["callbacks.early_stopping.patience=1", "callbacks.early_stopping.threshold=100", "training.max_steps=20"]
    for index, overrides in enumerate(([], early)):
        once = run_of(folder / "tiny.yaml", "training.lr_scheduler_type=constant", *overrides)
        run = RunFolder(tmp_path / str(index))
        train_run(once, run.path)
        result, before = run.result(), weights(run)
        (run.path / "result.json").unlink()
        shutil.rmtree(run.final)
        train_run(once, run.path, resume=True)
        again = run.result()
        assert (again["num_steps"], again["num_train_tokens"]) == (result["num_steps"], result["num_train_tokens"])
        assert again["metrics"] == result["metrics"]
        assert all(torch.equal(value, weights(run)[name]) for name, value in before.items())
    assert result["num_steps"] < 20


def test_other_data_on_resume_is_refused(tmp_path):
    write_recipe(tmp_path)
    run = RunFolder(tmp_path / "run")
    train_run(run_of(tmp_path / "tiny.yaml"), run.path)
    (run.path / "result.json").unlink()
    with open(tmp_path / "stories.jsonl", "a") as handle:
        handle.write('{"text": "one more story"}\n')
    with pytest.raises(UserError, match="was begun on other data"):
        train_run(run_of(tmp_path / "tiny.yaml"), run.path, resume=True)


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "optimizer.safetensors", "scheduler.safetensors", "rng_state_0.safetensors"),
        *("trainer_state.json", "config.json", "manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(interrupted, tmp_path, name):
    for damage in DAMAGES.values():
        run = copied(interrupted, tmp_path / "run")
        newest = run.newest_checkpoint()
        damage(newest / name)
        assert run.newest_checkpoint() == newest.with_name("checkpoint-2")
        shutil.rmtree(run.path)


def flip_a_bit(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit flipped": flip_a_bit,
    "another step's": lambda path: (
        shutil.copy(path.parent.with_name("checkpoint-2") / path.name, path)
        if path.name not in ("config.json", "scheduler.safetensors")
        else path.write_text("{}")
    ),
    "a link": lambda path: (path.rename(path.parent / "elsewhere"), path.symlink_to("elsewhere")),
}


def test_damaged_checkpoints_are_set_aside_and_said(interrupted, finished, recipe, tmp_path, capsys):
    run = copied(interrupted, tmp_path / "run")
    flip_a_bit(run.path / "checkpoint-4" / "optimizer.safetensors")
    train_run(recipe, run.path, resume=True)
    assert "its content has changed since it was written" in capsys.readouterr().out
    assert (run.path / ".damaged" / "checkpoint-4" / "optimizer.safetensors").is_file()
    assert torch.equal(weights(run)["transformer.wte.weight"], weights(finished)["transformer.wte.weight"])


def test_without_a_whole_checkpoint_nothing_begins_anew_in_silence(interrupted, recipe, tmp_path):
    run = copied(interrupted, tmp_path / "run")
    for checkpoint in run.path.glob("checkpoint-*"):
        flip_a_bit(checkpoint / "model.safetensors")
    with pytest.raises(NoValidCheckpoint, match="none of its 2 checkpoints is whole; the newest: ") as caught:
        train_run(recipe, run.path, resume=True)
    assert caught.value.exit_code == 3
    assert len(list(run.path.glob("checkpoint-*"))) == 2 and not run.result()


def test_a_run_is_verified_and_resumed_from_its_folder_alone(interrupted, finished, tmp_path, monkeypatch, capsys):
    run = copied(interrupted, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["verify", "run"]) == cli.main(["resume", "run", "--dry-run"]) == 0
    said = "checkpoint-2: whole\ncheckpoint-4: whole\ntiny-seed7 would go on from checkpoint-4\n"
    assert capsys.readouterr().out == 2 * said
    flip_a_bit(run.path / "checkpoint-4" / "model.safetensors")
    assert cli.main(["verify", "run"]) == 0
    assert "checkpoint-4/model.safetensors: its content has changed" in capsys.readouterr().out
    before = contents(run.path)
    assert cli.main(["verify", "run"]) == 0 and contents(run.path) == before
    assert cli.main(["resume", "run"]) == 0
    assert run.result()["metrics"] == finished.result()["metrics"] and run.result()["name"] == "tiny-seed7"
    assert cli.main(["verify", "run"]) == 0
    assert "tiny-seed7 is finished" in capsys.readouterr().out
    assert cli.main(["verify", "."]) == 2
    assert capsys.readouterr().err.endswith(".: holds no run (run.json)\n")


def test_verify_ends_with_3_where_nothing_is_whole(interrupted, tmp_path, capsys):
    run = copied(interrupted, tmp_path / "run")
    for checkpoint in run.path.glob("checkpoint-*"):
        (checkpoint / "manifest.json").unlink()
    assert cli.main(["verify", str(run.path)]) == cli.main(["resume", str(run.path)]) == 3
    assert "none of its 2 checkpoints is whole" in capsys.readouterr().err


def test_a_checkpoint_holds_no_pickle(interrupted):
    files = [path for path in interrupted.path.rglob("*") if path.is_file()]
    assert any(path.name == "optimizer.safetensors" for path in files)
    assert not [path for path in files if path.suffix in (".pt", ".pth", ".bin", ".pkl")]


def test_another_batch_on_resume_is_refused_unless_the_product_is_the_same(interrupted, folder, tmp_path):
    run = copied(interrupted, tmp_path / "run")
    path = run.path / "recipe.yaml"
    halved = ["training.per_device_train_batch_size=2"]
    with pytest.raises(UserError, match="training.per_device_train_batch_size was 4, is 2; name another folder"):
        train_run(run_of(path, *halved), run.path, resume=True)
    with pytest.raises(UserError, match="checkpoint-4: of another run than this: per_device_train_batch_size"):
        train_run(run_of(path, *halved), run.path, resume=True, elastic=True)
    train_run(run_of(path, *halved, "training.gradient_accumulation_steps=2"), run.path, resume=True, elastic=True)
    assert run.result()["num_steps"] == 6


def test_two_processes_do_not_train_in_one_folder(interrupted, recipe):
    with interrupted.lock(), pytest.raises(UserError, match="another process"):
        train_run(recipe, interrupted.path, resume=True)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("model.n_head=3", "n_head"),
        ("objectives.orthogonality.sites=[mlp.nothing]", "mlp.nothing"),
        ("tracking.tracker=wandb", "tracking.tracker: 'wandb' is not installed"),
        ("training.load_best_model_at_end=true training.eval_steps=4", "load_best_model_at_end"),
        ("callbacks.early_stopping.patience=2 training.eval_strategy=no", "early_stopping"),
        ("hub.push=final hub.repo=a/b", "hub.push: final needs a token"),
        ("training.optim=galore_adamw", "training: "),
        ("training.lr_scheduler_type=cosine_with_min_lr", "training: "),
        ("training.metric_for_best_model=eval_nope training.greater_is_better=true", "no evaluation has 'eval_nope'"),
        ("training.max_steps=0", "training.max_steps: 0 trains nothing"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_run_behind(folder, tmp_path, overrides, said, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no tracker is installed
    monkeypatch.setattr("hf_tti.hub.check.get_token", lambda: None)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=said) as caught:
        train_run(run_of(folder / "tiny.yaml", *overrides.split()), run.path)
    assert "\n" not in str(caught.value)
    run.check(run_of(folder / "tiny.yaml"), resume=False)  # free for the corrected recipe


def test_a_tokenizer_larger_than_the_model_is_refused(folder, tokenizer):
    run = run_of(folder / "tiny.yaml")
    run.model["vocab_size"] = 100
    with pytest.raises(UserError, match="model.vocab_size: 100 is smaller than the tokenizer's 280"):
        build_model(run, tokenizer, seed=0)


def test_a_child_that_outlives_a_training_does_not_keep_its_folder(tmp_path):
    """A process that loads data may: it ignores signals, and ends when it sees that the training has."""
    run = RunFolder(tmp_path / "run")
    reading, writing = os.pipe()
    with run.lock():
        child = os.fork()
        if child == 0:
            os.read(reading, 1)
            os._exit(0)
        with pytest.raises(UserError, match="another process"), run.lock():
            pass
    with run.lock():
        os.write(writing, b".")
    assert os.waitpid(child, 0)[1] == 0
    os.close(reading)
    os.close(writing)


def test_a_block_longer_than_the_model_is_refused(folder, tokenizer, finished):
    run = run_of(folder / "tiny.yaml")
    run.model.clear()
    run.model["pretrained"] = str(finished.final)
    run.data["block_size"] = 64
    with pytest.raises(UserError, match="data.block_size: 64 is longer than model.n_positions = 32"):
        build_model(run, tokenizer, seed=0)


def test_a_folder_of_other_things_is_refused(recipe, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="thesis.txt"):
        train_run(recipe, tmp_path)


def test_the_same_seed_gives_the_same_initial_weights_whatever_the_method(folder, tokenizer):
    plain = build_model(run_of(folder / "tiny.yaml", "objectives={}"), tokenizer, seed=3)
    torch.rand(7)
    other = build_model(run_of(folder / "tiny.yaml", "training.max_steps=9"), tokenizer, seed=3)
    different = build_model(run_of(folder / "tiny.yaml"), tokenizer, seed=4)
    states = [model.state_dict() for model in (plain, other, different)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["transformer.wte.weight"], states[2]["transformer.wte.weight"])


@pytest.fixture(scope="module")
def tokenizer(finished):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(finished.final)


def test_a_pretrained_model_goes_on_from_its_weights_with_its_tokenizer(folder, finished, tmp_path):
    data = {key: value for key, value in TINY_DATA.items() if key != "vocab_size"}
    still = {"max_steps": 1, "learning_rate": 0.0}
    path = write_recipe(tmp_path, "more", model={"pretrained": str(finished.final)}, data=data, training=still)
    run = RunFolder(tmp_path / "run")
    train_run(run_of(path), run.path)
    before, after = weights(finished), weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before)


HIGHER_LOSS_IS_BETTER = (
    "training.metric_for_best_model=eval_loss",
    "training.greater_is_better=true",
)


def test_best_checkpoint_is_what_is_saved(folder, tmp_path):
    overrides = ["training.load_best_model_at_end=true", *HIGHER_LOSS_IS_BETTER]
    run = RunFolder(tmp_path / "run")
    train_run(run_of(folder / "tiny.yaml", *overrides), run.path)
    lines = log_lines(run)
    losses = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line and "final" not in line}
    assert losses[2] > losses[4] > losses[6]
    assert run.result()["best_step"] == 2
    assert run.result()["metrics"]["eval_loss"] == losses[2]
    assert lines[-1]["final"] is True
    saved = load_file(run.path / "checkpoint-2" / "model.safetensors")
    assert torch.equal(saved["transformer.wte.weight"], weights(run)["transformer.wte.weight"])


def test_early_stopping_ends_a_run_that_does_not_improve(folder, tmp_path):
    overrides = ["callbacks.early_stopping.patience=1", *HIGHER_LOSS_IS_BETTER]
    assert train_run(run_of(folder / "tiny.yaml", *overrides), tmp_path / "run").num_steps == 4


@pytest.mark.parametrize(
    ("best", "greater"),
    [("eval_perplexity", False), ("eval_loss", False), ("loss", False)],
)
def test_the_better_direction_is_known(folder, tmp_path, best, greater):
    run = run_of(folder / "tiny.yaml", f"training.metric_for_best_model={best}")
    assert build_arguments(run, tmp_path).greater_is_better is greater


def test_precision_auto_is_fp32_without_a_gpu_and_bf16_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_tti.from_recipe.has_bf16", lambda: False)
    args = build_arguments(run_of(folder / "tiny.yaml"), tmp_path)
    assert not args.bf16 and not args.fp16
    with pytest.raises(UserError, match="training.precision: 'bf16'"):
        build_arguments(run_of(folder / "tiny.yaml", "training.precision=bf16"), tmp_path)


def test_default_run_dir_is_by_experiment_and_run(recipe):
    assert default_run_dir(recipe) == Path("runs/tiny_runs/tiny-seed7")


def test_two_processes_train_one_run(folder, tmp_path):
    """2 x 2 rows and 1 x 4 rows are one global batch: the same tokens, the same loss up to
    rounding.
    """
    still = [f"model.{name}_pdrop=0.0" for name in ("resid", "embd", "attn")]
    train_run(run_of(folder / "tiny.yaml", *still), tmp_path / "one")
    config = Path(__file__).parents[1] / "recipes" / "accelerate" / "cpu.yaml"
    overrides = [part for value in [*still, "training.per_device_train_batch_size=2"] for part in ("--set", value)]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)),
            *(
                "--num_processes",
                "2",
                "-m",
                "hf_tti",
                "train",
                str(folder / "tiny.yaml"),
                *overrides,
            ),
            *("--run-dir", str(tmp_path / "two")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("step 6/6  loss") == 1, "only the main process speaks"
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert two.result()["world_size"] == 2
    assert two.result()["num_train_tokens"] == one.result()["num_train_tokens"]
    assert [line["step"] for line in log_lines(two)] == [line["step"] for line in log_lines(one)]
    losses = [run.result()["metrics"]["eval_loss"] for run in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
