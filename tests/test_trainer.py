"""Laws of InterpTrainer: what it leaves alone, and what it adds."""

from dataclasses import dataclass

import pytest
import torch
from accelerate.parallelism_config import ParallelismConfig
from torch import nn
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, Trainer, TrainingArguments

from hf_tti import InterpTrainer, Objective, Term
from hf_tti.components import component_names, load_component
from hf_tti.data import CausalLMCollator
from hf_tti.errors import UserError
from hf_tti.objectives.decorrelation import Decorrelation
from hf_tti.objectives.orthogonality import Orthogonality
from tiny import VOCAB, arguments, rows, tiny_model, training_logs, without_dropout


@dataclass(frozen=True, kw_only=True)
class MeanSquare(Objective):
    """Mean square of the activations per token and unit: a token_sum."""

    def terms(self, forward, scope):
        mask = forward.token_mask.unsqueeze(-1)
        squares = [(site.activations.float() ** 2 * mask).mean(dim=-1).sum() for site in forward.sites.values()]
        return {"mean_square": Term(torch.stack(squares).mean())}


@dataclass(frozen=True, kw_only=True)
class OnlineProbe(Objective):
    """Predicts the next activation from this one; never touches the model."""

    def own_module(self, setup):
        return nn.ModuleList(nn.Linear(p.width, p.width) for p in setup.hookpoints)

    def terms(self, forward, scope):
        errors = []
        for site, linear in zip(forward.sites.values(), scope.own, strict=True):
            x = site.activations.detach().float()
            errors.append(((linear(x[:, :-1]) - x[:, 1:]) ** 2 * 100).mean(dim=-1).sum())
        return {"error": Term(torch.stack(errors).sum(), to="own")}


def weights(trainer) -> dict[str, torch.Tensor]:
    """Of the model, and of what objectives own."""
    own = (
        {f"own.{name}": value for name, value in trainer.own.state_dict().items()}
        if isinstance(trainer, InterpTrainer)
        else {}
    )
    return {name: value.clone() for name, value in {**trainer.model.state_dict(), **own}.items()}


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different, different


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_objectives_equals_stock_trainer_bitwise(tmp_path, seed, accumulation):
    """200 steps with dropout, evaluating with metrics on one side and without on the other."""
    settings = {
        "max_steps": 200,
        "seed": seed,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 2,
        "eval_strategy": "steps",
        "eval_steps": 90,
        "weight_decay": 0.1,
        "warmup_steps": 10,
        "lr_scheduler_type": "cosine",
    }
    data = {"train_dataset": rows(40, 8, ragged=True), "eval_dataset": rows(6, 8, seed=9)}
    ours = InterpTrainer(tiny_model(seed=seed), arguments(tmp_path / "ours", **settings), **data)
    ours.train()

    model = tiny_model(seed=seed)
    model.loss_type = "ForCausalLM"
    stock_args = TrainingArguments(
        output_dir=str(tmp_path / "stock"),
        per_device_eval_batch_size=4,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        data_seed=seed,
        **settings,
    )
    stock = Trainer(model, stock_args, data_collator=CausalLMCollator(pad_token_id=0), **data)
    stock.train()

    assert_same(weights(ours), weights(stock))
    keys = ("loss", "grad_norm", "learning_rate", "step")
    assert [[line[k] for k in keys] for line in training_logs(ours)] == [
        [line[k] for k in keys] for line in training_logs(stock)
    ]
    assert len(training_logs(ours)) == 200


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "qwen2"])
def test_every_objective_trains_every_family(tmp_path, kind):
    model = tiny_model(kind)
    before = {name: value.clone() for name, value in model.named_parameters()}
    names = component_names("objectives")
    objectives = [load_component("objectives", name)().weighted(0.1) for name in names]
    objectives.append(MeanSquare(sites=("resid",)).weighted(0.1))
    trainer = InterpTrainer(model, arguments(tmp_path), objectives=objectives, train_dataset=rows())
    trainer.train()
    unchanged = [n for n, p in model.named_parameters() if torch.equal(p, before[n]) and not n.startswith("interp_")]
    assert not unchanged
    line = training_logs(trainer)[-1]
    for name in [*names, "MeanSquare"]:
        assert {f"objective/{name}", f"weight/{name}", f"weighted/{name}"} <= line.keys()
        assert line[f"weighted/{name}"] == pytest.approx(0.1 * line[f"objective/{name}"], rel=1e-5, abs=1e-9)
    total = line["ce_loss"] + sum(line[f"weighted/{name}"] for name in [*names, "MeanSquare"])
    assert line["loss"] == pytest.approx(total, rel=1e-5)
    ratio = sum(abs(line[f"weighted/{name}"]) for name in [*names, "MeanSquare"]) / line["ce_loss"]
    assert line["reg_to_ce_ratio"] == pytest.approx(ratio, rel=1e-5)


def test_objective_goes_down_when_it_is_pushed(tmp_path):
    def last(weight):
        trainer = InterpTrainer(
            tiny_model(),
            arguments(tmp_path, max_steps=60),
            objectives=[Orthogonality(sites=("mlp.out",)).weighted(weight)],
            train_dataset=rows(),
        )
        trainer.train()
        return training_logs(trainer)[-1]["objective/orthogonality"]

    assert last(10.0) < 0.8 * last(0.0)


def test_weight_zero_changes_nothing(tmp_path):
    def train(objectives):
        trainer = InterpTrainer(tiny_model(), arguments(tmp_path), objectives=objectives, train_dataset=rows())
        trainer.train()
        return weights(trainer)

    assert_same(train([Orthogonality().weighted(0.0)]), train([]))


def test_eval_loss_is_pure_token_mean_cross_entropy(tmp_path):
    """Ragged rows: neither the mean over rows nor over batches is right; and no penalty enters."""
    data = rows(10, 12, ragged=True, seed=5)
    model = tiny_model()
    trainer = InterpTrainer(
        model,
        arguments(tmp_path),
        objectives=[MeanSquare().weighted(1e3)],
        train_dataset=rows(),
        eval_dataset=data,
    )
    metrics = trainer.evaluate()
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for row in data:
            ids = torch.tensor([row["input_ids"]])
            logits = model(ids).logits.double()
            total += nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    assert metrics["eval_loss"] == pytest.approx(total / count, abs=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(torch.tensor(total / count).exp().item(), rel=1e-5)
    assert {
        "eval_sparsity/layer_0",
        "eval_sparsity/layer_1",
        "eval_polysemanticity/layer_1",
    } <= metrics.keys()


def test_warmup_is_a_pure_function_of_the_step(tmp_path):
    weighted = MeanSquare().weighted(0.5, warmup_steps=4)
    assert [weighted.weight_at(step) for step in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    trainer = InterpTrainer(
        tiny_model(),
        arguments(tmp_path, gradient_accumulation_steps=2),
        objectives=[weighted],
        train_dataset=rows(),
    )
    trainer.train()
    assert [line["weight/MeanSquare"] for line in training_logs(trainer)] == pytest.approx([0.125, 0.25, 0.375, 0.5])


def test_logged_means_over_a_window_equal_the_mean_of_its_steps(tmp_path):
    def lines(**changes):
        trainer = InterpTrainer(
            tiny_model(),
            arguments(tmp_path, **changes),
            objectives=[MeanSquare().weighted(0.1)],
            train_dataset=rows(),
        )
        trainer.train()
        return training_logs(trainer)

    each, window = (
        lines(gradient_accumulation_steps=2),
        lines(gradient_accumulation_steps=2, logging_steps=4),
    )
    for key in ("ce_loss", "objective/MeanSquare", "loss"):
        assert window[-1][key] == pytest.approx(sum(line[key] for line in each) / 4, rel=1e-6)


# ---- What objectives own ----


def test_a_probe_leaves_the_model_bitwise_alone_and_learns(tmp_path):
    def train(objectives):
        trainer = InterpTrainer(
            without_dropout(),
            arguments(tmp_path, max_steps=30),
            objectives=objectives,
            train_dataset=rows(),
        )
        trainer.train()
        return trainer

    probed, plain = train([OnlineProbe().weighted(1.0)]), train([])
    of_model = {n: v for n, v in weights(probed).items() if not n.startswith("own.")}
    assert_same(of_model, weights(plain))
    assert [x["grad_norm"] for x in training_logs(probed)] == [x["grad_norm"] for x in training_logs(plain)]
    lines = training_logs(probed)
    assert lines[-1]["loss"] - lines[-1]["ce_loss"] < lines[0]["loss"] - lines[0]["ce_loss"]
    groups = probed.optimizer.param_groups
    assert [g["weight_decay"] for g in groups][-1] == 0.0
    assert len(groups[-1]["params"]) == 4


def test_exported_checkpoint_is_plain_and_the_rest_lies_beside_it(tmp_path):
    trainer = InterpTrainer(
        tiny_model(),
        arguments(tmp_path),
        objectives=[OnlineProbe().weighted(1.0)],
        train_dataset=rows(),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert type(model) is GPT2LMHeadModel
    assert not info["missing_keys"] and not info["unexpected_keys"]
    ids = torch.arange(1, 9).unsqueeze(0)
    assert torch.equal(model.eval()(ids).logits, trainer.model.eval()(ids).logits)
    assert {p.name for p in (tmp_path / "final").iterdir()} >= {
        "objectives.safetensors",
        "model.safetensors",
    }
    assert not (tmp_path / "final" / "training_args.bin").exists()


@pytest.mark.parametrize("name", [*component_names("objectives"), "own_parameters"])
def test_resume_is_bitwise_the_uninterrupted_run(tmp_path, name):
    def build(folder, **changes):
        objective = OnlineProbe() if name == "own_parameters" else load_component("objectives", name)()
        args = arguments(folder, max_steps=6, save_strategy="steps", save_steps=3, **changes)
        return InterpTrainer(tiny_model(), args, objectives=[objective.weighted(0.1)], train_dataset=rows())

    whole = build(tmp_path / "whole")
    whole.train()
    resumed = build(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same(weights(resumed), weights(whole))


def test_resume_without_the_objectives_file_is_refused(tmp_path):
    args = arguments(tmp_path, save_strategy="steps", save_steps=2)
    trainer = InterpTrainer(tiny_model(), args, objectives=[OnlineProbe().weighted(1.0)], train_dataset=rows())
    trainer.train()
    (tmp_path / "checkpoint-2" / "objectives.safetensors").unlink()
    with pytest.raises(UserError, match="objectives.safetensors: missing"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_after_training_the_model_is_its_own_again(tmp_path):
    """Two trainers on one model do not get into each other's way, and its state loads into a plain model."""
    model = tiny_model()
    args = arguments(tmp_path, max_steps=2)
    first = InterpTrainer(model, args, objectives=[OnlineProbe().weighted(1.0)], train_dataset=rows())
    second = InterpTrainer(model, args, objectives=[OnlineProbe().weighted(1.0)], train_dataset=rows())
    for trainer in (first, second, first):
        before = {name: value.clone() for name, value in trainer.own.state_dict().items()}
        trainer.train()
        assert all(not torch.equal(value, before[name]) for name, value in trainer.own.state_dict().items())
        tiny_model().load_state_dict(model.state_dict())


@pytest.mark.parametrize("term", ["objective", "model"])
def test_a_value_that_is_not_finite_stops_training_and_is_named(tmp_path, term):
    @dataclass(frozen=True, kw_only=True)
    class Broken(Objective):
        def terms(self, forward, scope):
            value = next(iter(forward.sites.values())).activations.sum()
            return {"broken": Term(value * float("nan") if scope.step == 2 else value * 0, kind="statistic")}

    model = tiny_model()
    if term == "model":
        nn.init.constant_(model.transformer.ln_f.weight, float("inf"))
    objectives = [Broken().weighted(1.0)] if term == "objective" else []
    trainer = InterpTrainer(model, arguments(tmp_path), objectives=objectives, train_dataset=rows())
    named = {"objective": "objective/Broken is not finite in step 3; ", "model": "ce_loss is not finite in step 1; "}
    with pytest.raises(UserError, match=named[term]):
        trainer.train()
    assert trainer.state.global_step == (2 if term == "objective" else 0)


def test_an_update_that_is_not_finite_does_not_happen(tmp_path):
    """Whatever is broken, and with a weight of 0 as well: the weights are those of the step before."""

    @dataclass(frozen=True, kw_only=True)
    class Broken(Objective):
        what: str

        def terms(self, forward, scope):
            value = next(iter(forward.sites.values())).activations.float()
            if scope.step < 2:
                return {"broken": Term(value.square().mean(), kind="statistic")}
            if self.what == "gradient":  # sqrt has an infinite slope at the finite value 0
                return {"broken": Term((value * 0).abs().sqrt().mean(), kind="statistic")}
            return {"broken": Term(value.mean() + float("inf"), kind="statistic")}

    def train(what, weight, steps):
        torch.manual_seed(0)
        objectives = [Broken(what=what).weighted(weight)]
        settings = {"max_steps": steps, "logging_steps": 10, "lr_scheduler_type": "constant"}
        trainer = InterpTrainer(
            without_dropout(), arguments(tmp_path, **settings), objectives=objectives, train_dataset=rows()
        )
        if steps > 2:
            with pytest.raises(UserError, match="is not finite in step 3; its update was left out"):
                trainer.train()
        else:
            trainer.train()
        return trainer.model.state_dict()

    for what, weight in (("gradient", 1.0), ("value", 1.0), ("value", 0.0)):
        before, after = train(what, weight, steps=2), train(what, weight, steps=4)
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert all(torch.isfinite(value).all() for value in after.values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = InterpTrainer(tiny_model(), arguments(tmp_path), train_dataset=rows())
    trainer.train()
    nn.init.constant_(trainer.model.transformer.h[0].mlp.c_fc.bias, float("nan"))
    with pytest.raises(UserError, match="transformer.h.0.mlp.c_fc.bias is not finite after step 4; it is not saved"):
        trainer._save_checkpoint(trainer.model, None)
    assert not list(tmp_path.glob("checkpoint-*"))


# ---- Forces ----


def test_force_ratio_is_the_ratio_of_gradient_norms_and_watches_only(tmp_path):
    def train(weight, steps):
        trainer = InterpTrainer(
            without_dropout(),
            arguments(tmp_path, max_steps=2, force_ratio_steps=steps),
            objectives=[Decorrelation().weighted(weight)],
            train_dataset=rows(4),
        )
        trainer.train()
        return trainer

    watched, unwatched = train(0.5, 1), train(0.5, 0)
    assert_same(weights(watched), weights(unwatched))
    first = training_logs(watched)[0]["force_ratio/decorrelation"]
    assert training_logs(train(1.0, 1))[0]["force_ratio/decorrelation"] == pytest.approx(2 * first, rel=1e-5)

    fresh = InterpTrainer(
        without_dropout(),
        arguments(tmp_path),
        objectives=[Decorrelation().weighted(0.5)],
        train_dataset=rows(4),
    )
    model = fresh.model.train()
    batch = fresh.data_collator(rows(4))
    ce = model(**batch).loss
    both = fresh.compute_loss(model, batch)
    matrices = [p for n, p in model.named_parameters() if ".mlp." in n and p.ndim == 2]
    norm = lambda loss: torch.cat([g.flatten() for g in torch.autograd.grad(loss, matrices, retain_graph=True)]).norm()  # noqa: E731
    assert first == pytest.approx((norm(both - ce) / norm(ce)).item(), rel=1e-3)


# ---- Engines ----


def test_gradient_checkpointing_changes_nothing(tmp_path):
    def train(**changes):
        trainer = InterpTrainer(
            without_dropout(),
            arguments(tmp_path, **changes),
            objectives=[Decorrelation().weighted(1.0)],
            train_dataset=rows(),
        )
        trainer.train()
        return weights(trainer)

    plain, checkpointed = train(), train(gradient_checkpointing=True)
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-5, atol=1e-6)


def test_capture_survives_compilation(tmp_path):
    """Hooks are there before the first compiled call; the graph that the compiler sees must keep their gradients."""

    def train(**changes):
        trainer = InterpTrainer(
            without_dropout(),
            arguments(tmp_path, max_steps=2, **changes),
            objectives=[Decorrelation().weighted(1.0)],
            train_dataset=rows(),
        )
        trainer.train()
        return trainer

    plain, compiled = train(), train(torch_compile=True, torch_compile_backend="aot_eager")
    for a, b in zip(training_logs(plain), training_logs(compiled), strict=True):
        assert b["objective/decorrelation"] == pytest.approx(a["objective/decorrelation"], rel=1e-4)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-5)


# ---- Mistakes ----


def test_mistakes_are_named_in_one_line(tmp_path):
    def build(**changes):
        settings = {"args": arguments(tmp_path), "train_dataset": rows(), **changes}
        return InterpTrainer(settings.pop("model", None) or tiny_model(), **settings)

    cases = [
        ({"objectives": [MeanSquare()]}, r"has no weight; write MeanSquare\(\.\.\.\)\.weighted"),
        (
            {"objectives": [MeanSquare().weighted(1), MeanSquare().weighted(2)]},
            "'MeanSquare' occurs twice",
        ),
        ({"objectives": [MeanSquare().weighted(1, label="a/b")]}, "label 'a/b'"),
        (
            {"objectives": [MeanSquare(sites=("mlp.nuerons",)).weighted(1)]},
            "did you mean 'mlp.neurons'",
        ),
        (
            {"args": TrainingArguments(output_dir=str(tmp_path), use_cpu=True)},
            "takes InterpTrainingArguments",
        ),
        ({"model_init": tiny_model}, "model_init is not supported"),
        ({"args": arguments(tmp_path, excluded_token_ids=[VOCAB])}, "excluded_token_ids: 61 is no token"),
        ({"token_counts": torch.ones(VOCAB + 1)}, "token_counts has 62 entries"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            build(**changes)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "0.1", True])
def test_a_weight_is_a_finite_number_of_at_least_zero(weight):
    with pytest.raises(UserError, match="objective 'MeanSquare': weight is"):
        MeanSquare().weighted(weight)


def test_one_site_may_be_a_string():
    assert MeanSquare(sites="mlp.out").sites == ("mlp.out",)


def test_rows_may_bring_their_own_labels(tmp_path):
    """Fine-tuning on answers: what the row masks is neither trained on nor evaluated."""
    masked = [{**row, "labels": [-100] * 8 + row["input_ids"][8:]} for row in rows(8, 16)]
    trainer = InterpTrainer(tiny_model(), arguments(tmp_path), train_dataset=masked, eval_dataset=masked)
    assert trainer.evaluate()["eval_num_tokens"] == 8 * 8


def test_token_counts_come_from_the_training_data():
    from hf_tti.trainer import count_tokens

    data = [{"input_ids": [1, 1, 2]}, {"input_ids": [2, 3, 3], "attention_mask": [1, 1, 0]}]
    counts = count_tokens(data, VOCAB)
    assert counts[:5].tolist() == [0, 2, 2, 1, 0]


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed", "parallelism_config"])
def test_weights_that_the_accelerate_configuration_shards_are_refused(tmp_path, monkeypatch, name):
    create = Trainer.create_accelerator_and_postprocess

    def shards(trainer):
        create(trainer)
        if name == "parallelism_config":
            monkeypatch.setattr(trainer.accelerator.state, "parallelism_config", ParallelismConfig(tp_size=2))
        else:
            setattr(trainer, f"is_{name.lower()}_enabled", True)

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", shards)
    with pytest.raises(UserError, match=f"^{name} .* shards what .* use DDP"):
        InterpTrainer(tiny_model(), arguments(tmp_path), metrics={})


def test_own_parameters_join_the_optimizer_that_is_given(tmp_path):
    def build(model, *optimizers):
        objectives = [OnlineProbe().weighted(1.0)]
        args = arguments(tmp_path)
        return InterpTrainer(
            model, args, objectives=objectives, metrics={}, train_dataset=rows(), optimizers=optimizers
        )

    model = tiny_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = build(model, optimizer, None)
    before = {name: value.clone() for name, value in trainer.own.state_dict().items()}
    trainer.train()
    assert not any(torch.equal(before[name], value) for name, value in trainer.own.state_dict().items())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with pytest.raises(UserError, match=r"lacks the parameters of OnlineProbe.*; pass optimizers=\(optimizer, None\)"):
        build(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)).train()


def test_reentrant_checkpointing_is_refused_wherever_it_was_turned_on(tmp_path):
    model = tiny_model()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    objectives = [Orthogonality().weighted(1.0)]
    with pytest.raises(UserError, match="use_reentrant: true gives activations without a gradient"):
        InterpTrainer(model, arguments(tmp_path), objectives=objectives, train_dataset=rows())
    model.gradient_checkpointing_disable()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    InterpTrainer(model, arguments(tmp_path), objectives=objectives, train_dataset=rows())


@pytest.mark.parametrize("count", [3, 5])  # fewer than a batch of four, and one more
def test_an_evaluation_sees_every_row_where_training_drops_its_last_batch(tmp_path, count):
    def evaluation(**changes):
        trainer = InterpTrainer(
            tiny_model(), arguments(tmp_path, **changes), train_dataset=rows(10), eval_dataset=rows(count)
        )
        assert len(trainer.get_train_dataloader()) == 10 // 4 + (not changes)
        return {
            name: value for name, value in trainer.evaluate().items() if "per_second" not in name and "time" not in name
        }

    assert evaluation(dataloader_drop_last=True) == evaluation()
