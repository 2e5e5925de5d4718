"""Laws of saving and resuming in the Trainer: what fails is one line, and only the run that saved goes on."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import hf_tti.saving
from hf_tti import InterpTrainer
from hf_tti.checkpoints import NoValidCheckpoint, checkpoints_of, problems_of, read_manifest
from hf_tti.data import CausalLMCollator
from hf_tti.errors import UserError
from hf_tti.facts import differences
from hf_tti.objectives import Orthogonality
from hf_tti.saving import agreed, rng_file
from hf_tti.state_files import load_state
from tiny import arguments, rows, tiny_configs, tiny_model, training_logs


def build(folder: Path, *, model=None, data=None, callbacks=None, **changes) -> InterpTrainer:
    settings = {"save_strategy": "steps", "save_steps": 1, **changes}
    return InterpTrainer(
        model or tiny_model(),
        arguments(folder, **settings),
        metrics={},
        train_dataset=data or rows(),
        eval_dataset=rows(8),
        callbacks=callbacks,
    )


def same_weights(a, b) -> bool:
    return all(torch.equal(value, b.model.state_dict()[name]) for name, value in a.model.state_dict().items())


def steps(folder: Path) -> list[int]:
    assert not [problem for path in checkpoints_of(folder) for problem in problems_of(path)]
    return [read_manifest(path).step for path in checkpoints_of(folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> InterpTrainer:
    """Four steps, each saved, with dropout."""
    trainer = build(tmp_path_factory.mktemp("finished") / "run")
    trainer.train()
    return trainer


@pytest.fixture
def stopped(finished, tmp_path) -> Path:
    """Its folder as it was after two steps."""
    folder = Path(shutil.copytree(finished.args.output_dir, tmp_path / "run"))
    for step in (3, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    return folder


def test_a_checkpoint_is_whole_and_holds_no_pickle(finished):
    folder = Path(finished.args.output_dir)
    assert steps(folder) == [1, 2, 3, 4]
    assert {path.name for path in folder.iterdir()} == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}
    files = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}


def test_nothing_is_pickled_not_even_for_a_moment(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("torch.save was called")

    monkeypatch.setattr(torch, "save", refuse)
    trainer = build(tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    assert steps(tmp_path / "run") == [1, 2, 3, 4]
    assert {path.suffix for path in (tmp_path / "final").iterdir()} == {".json", ".safetensors"}


def test_a_stock_push_of_checkpoints_is_refused(tmp_path):
    with pytest.raises(UserError, match="hub_strategy: every_save .* pickled arguments; use end"):
        arguments(tmp_path, push_to_hub=True)
    assert arguments(tmp_path, push_to_hub=True, hub_strategy="end").push_to_hub


def test_the_tokenizer_is_saved_with_the_model(tmp_path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")))
    given = InterpTrainer(tiny_model(), arguments(tmp_path), metrics={}, processing_class=tokenizer)
    of_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    collated = InterpTrainer(tiny_model(), arguments(tmp_path), metrics={}, data_collator=of_collator)
    for name, trainer in (("given", given), ("collated", collated)):
        trainer.save_model(str(tmp_path / name))
        assert AutoTokenizer.from_pretrained(tmp_path / name).get_vocab() == {"a": 0, "b": 1}


def test_a_checkpoint_is_a_plain_model(finished):
    model, info = AutoModelForCausalLM.from_pretrained(
        Path(finished.args.output_dir) / "checkpoint-4", output_loading_info=True
    )
    assert not any(info.values())
    assert all(torch.equal(value, finished.model.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_holds_optimizer_schedule_and_generators(finished):
    folder = Path(finished.args.output_dir) / "checkpoint-4"
    moments = load_state(folder / "optimizer.safetensors")["state"]
    expected = finished.optimizer.state_dict()["state"]
    assert all(torch.equal(moments[key][name], value) for key, of in expected.items() for name, value in of.items())
    assert load_state(folder / "scheduler.safetensors") == finished.lr_scheduler.state_dict()
    assert load_state(folder / rng_file(0)).keys() >= {"python", "numpy", "cpu"}


def test_resumed_by_true_or_by_path_it_ends_bitwise_the_same(finished, stopped):
    again = build(stopped)
    again.train(resume_from_checkpoint=True)
    assert same_weights(again, finished) and steps(stopped) == [1, 2, 3, 4]
    third = build(stopped)
    third.train(resume_from_checkpoint=stopped / "checkpoint-1")  # replaces 2, 3 and 4
    assert same_weights(third, finished) and steps(stopped) == [1, 2, 3, 4]
    keys = ("step", "loss", "grad_norm", "learning_rate")
    ledger = [[line[key] for key in keys] for line in training_logs(finished)]
    assert [[line[key] for key in keys] for line in training_logs(third)] == ledger


@pytest.mark.parametrize("rows_", [32, 16])  # the end inside an epoch, and at an epoch's end
def test_a_training_that_had_ended_does_no_step_more(tmp_path, rows_):
    """At a constant rate one more step would show in the weights."""
    settings = {"data": rows(rows_), "lr_scheduler_type": "constant"}
    trainer = build(tmp_path / "run", **settings)
    trainer.train()
    again = build(tmp_path / "run", **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert same_weights(again, trainer)
    assert len(training_logs(again)) == 4


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        build(tmp_path).train(resume_from_checkpoint=True)


def test_no_whole_checkpoint_has_its_own_exit_code(stopped):
    for folder in checkpoints_of(stopped):
        (folder / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(NoValidCheckpoint) as caught:
        build(stopped).train(resume_from_checkpoint=True)
    assert caught.value.exit_code == 3


def test_a_damaged_checkpoint_by_path_is_refused(stopped):
    (stopped / "checkpoint-2" / "scheduler.safetensors").unlink()
    with pytest.raises(UserError, match="checkpoint-2/scheduler.safetensors: missing"):
        build(stopped).train(resume_from_checkpoint=str(stopped / "checkpoint-2"))


def test_a_checkpoint_of_another_trainer_is_refused(tmp_path):
    """Its pickles are not read."""
    args = TrainingArguments(
        str(tmp_path),
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    data, collator = rows(8), CausalLMCollator(pad_token_id=0)
    Trainer(tiny_model(), args, train_dataset=data, data_collator=collator).train()
    with pytest.raises(UserError, match="checkpoint-1: a checkpoint of another Trainer"):
        build(tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"per_device_train_batch_size": 2}, "per_device_train_batch_size was 4, is 2"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1, is 2"),
        ({"seed": 2}, "seed was 1, is 2; data_seed was 1, is 2"),
        ({"learning_rate": 0.5}, "learning_rate was 0.01, is 0.5"),
        ({"max_steps": 5}, "max_steps was 4, is 5"),
        ({"lr_scheduler_type": "constant"}, "lr_scheduler_type was linear, is constant"),
        ({"weight_decay": 0.5}, "weight_decay was 0.0, is 0.5"),
        ({"optim": "sgd"}, "optimizer was adamw_torch.*, is sgd"),
        ({"data": rows(31)}, "num_train_rows was 32, is 31"),
        ({"elastic_resume": True, "gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1, is 2"),
        ({"adam_epsilon": 0.5}, "adam_epsilon was 1e-08, is 0.5"),
        ({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha was None, is 5.0"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy was random, is sequential"),
        ({"data": rows(seed=2)}, "train_rows_sha256 was .*, is "),
        ({"model": tiny_model(n_head=4)}, "model.n_head was 2, is 4"),
        ({"model": tiny_model(resid_pdrop=0.5)}, "model.resid_pdrop was 0.1, is 0.5"),
    ],
)
def test_another_run_is_refused_in_one_line(stopped, changes, said):
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"checkpoint-2: of another run than this: {said}") as caught:
        build(stopped, **changes).train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before


def test_elastic_lets_the_split_differ_where_the_product_is_the_same(stopped):
    trainer = build(stopped, per_device_train_batch_size=2, gradient_accumulation_steps=2, elastic_resume=True)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    facts = {"world_size": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "seed": 1}
    alone = {**facts, "world_size": 1, "gradient_accumulation_steps": 2}
    assert differences(facts, alone, elastic=True) == []
    assert differences(facts, {**alone, "seed": 2}, elastic=True) == ["seed was 1, is 2"]
    assert len(differences(facts, {**alone, "world_size": 2}, elastic=True)) == 1
    assert differences(facts, alone) == ["world_size was 2, is 1", "gradient_accumulation_steps was 1, is 2"]
    assert differences({"old": 1, "seed": 1}, {"new": 1, "seed": 1}) == []  # of another version


def test_missing_generators_are_never_passed_over(stopped):
    """Even where a manifest does not name them."""
    trainer = build(stopped)
    os.unlink(stopped / "checkpoint-2" / rng_file(0))
    with pytest.raises(UserError, match="rng_state_0"):
        trainer._load_rng_state(str(stopped / "checkpoint-2"))
    trainer.args.elastic_resume = True
    trainer._load_rng_state(str(stopped / "checkpoint-2"))


# ---- A save that fails ----


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error: no space")])
@pytest.mark.parametrize("place", ["save_state", "publish"])
def test_a_disk_that_refuses_is_one_line_and_costs_no_checkpoint(stopped, monkeypatch, error, place):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(hf_tti.saving, place, fails)
    with pytest.raises(UserError, match="could not be written: .*o space.*; earlier checkpoints are as they were"):
        build(stopped).train(resume_from_checkpoint=True)
    assert steps(stopped) == [1, 2]
    assert {path.name for path in stopped.iterdir()} == {"checkpoint-1", "checkpoint-2"}


def test_too_little_room_is_said_before_writing(stopped, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(UserError, match="a checkpoint needs"):
        build(stopped).train(resume_from_checkpoint=True)
    assert {path.name for path in stopped.iterdir()} == {"checkpoint-1", "checkpoint-2"}


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def fails(self, output_dir):
        raise AttributeError("a mistake")

    monkeypatch.setattr(InterpTrainer, "_save_rng_state", fails)
    with pytest.raises(AttributeError, match="a mistake"):
        build(tmp_path).train()


def test_what_one_rank_raises_is_raised_as_it_is_or_as_one_line():
    def fails():
        raise OSError(5, "Input/output error")

    assert agreed(lambda: 3, 1) == 3
    with pytest.raises(UserError, match="Input/output error"):
        agreed(fails, 1)


# ---- The best ----


class _Worse(TrainerCallback):
    """Makes the evaluation of each step worse than the one before."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_made"] = float(state.global_step)


def best_of(folder: Path) -> InterpTrainer:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_made"}
    settings |= {"load_best_model_at_end": True, "greater_is_better": False, "save_total_limit": 2}
    return build(folder, callbacks=[_Worse()], **settings)


def test_the_best_stays_beside_the_newest_and_is_loaded_at_the_end(finished, tmp_path):
    trainer = best_of(tmp_path / "run")
    trainer.train()
    folder = tmp_path / "run"
    assert trainer.state.best_global_step == 1 and trainer.state.best_model_checkpoint == str(folder / "checkpoint-1")
    assert steps(folder) == [1, 3, 4]
    best = AutoModelForCausalLM.from_pretrained(folder / "checkpoint-1").state_dict()
    assert all(torch.equal(value, best[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("kind", tiny_configs())
def test_all_weights_come_from_the_checkpoint(tmp_path, kind, caplog, monkeypatch):
    """Whatever transformers calls them in its files, and whatever the resuming model was drawn with."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    settings = {"save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_made"}
    settings |= {"load_best_model_at_end": True, "greater_is_better": False}
    whole = build(tmp_path / "run", model=tiny_model(kind), callbacks=[_Worse()], **settings)
    whole.train()  # ends with the weights of step 2
    best = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2").state_dict()
    assert all(torch.equal(value, best[name]) for name, value in whole.model.state_dict().items())
    again = build(tmp_path / "run", model=tiny_model(kind, seed=7), callbacks=[_Worse()], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert same_weights(again, whole)
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4").state_dict()
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert not all(torch.equal(value, best[name]) for name, value in last.items())
    whole.save_model(str(tmp_path / "final"))
    final = AutoModelForCausalLM.from_pretrained(tmp_path / "final").state_dict()
    assert all(torch.equal(value, final[name]) for name, value in whole.model.state_dict().items())
    assert "missing keys" not in caplog.text


def test_a_weight_that_is_not_in_the_file_is_never_left_as_it_was_drawn(stopped):
    file = stopped / "checkpoint-2" / "model.safetensors"
    weights = load_file(file)
    weights["other"] = weights.pop("transformer.h.0.attn.c_attn.weight")
    trainer = build(stopped)
    with pytest.raises(UserError, match="another model: no transformer.h.0.attn.c_attn.weight, unknown other$"):
        save_file(weights, file, metadata={"format": "pt"})
        trainer._load_from_checkpoint(str(file.parent))


def test_one_checkpoint_is_never_all_that_is_kept(tmp_path):
    build(tmp_path, save_total_limit=1, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True).train()
    assert len(steps(tmp_path)) >= 2


def test_the_best_of_another_folder_is_asked_for_at_the_start(tmp_path):
    best_of(tmp_path / "run").train()
    elsewhere = best_of(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="the best so far is checkpoint-1, which is not in .*elsewhere; resume in"):
        elsewhere.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert elsewhere.state.global_step == 0


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(rows(8))


def test_a_stream_that_had_begun_again_cannot_be_resumed(tmp_path):
    whole = build(tmp_path, data=_Stream())
    whole.train()  # two passes of two steps
    first = build(tmp_path, data=_Stream())
    first.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert same_weights(first, whole)
    with pytest.raises(UserError, match="a stream that had begun again"):
        build(tmp_path, data=_Stream()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_a_damaged_best_is_said_and_not_loaded(tmp_path, monkeypatch):
    trainer = best_of(tmp_path / "run")
    best = tmp_path / "run" / "checkpoint-1" / "model.safetensors"
    load = InterpTrainer._load_best_model
    monkeypatch.setattr(InterpTrainer, "_load_best_model", lambda self: (best.write_bytes(b"damaged"), load(self)))
    with pytest.raises(UserError, match="checkpoint-1/model.safetensors: 7 bytes"):
        trainer.train()


def test_another_weight_of_an_objective_is_another_run(tmp_path):
    def train(weight, **how):
        model, args = tiny_model(), arguments(tmp_path, save_strategy="steps", save_steps=2)
        objectives = [Orthogonality(sites=("mlp.out",)).weighted(weight)]
        InterpTrainer(model, args, objectives=objectives, metrics={}, train_dataset=rows()).train(**how)

    train(0.1)
    with pytest.raises(UserError, match="objectives was .*weight=0.1.*, is .*weight=0.2"):
        train(0.2, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    train(0.1, resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
