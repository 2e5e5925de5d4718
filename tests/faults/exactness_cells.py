"""Cells of exactness.py: the objectives, one training of one of them, and the same training by hand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import torch.distributed as dist
from objective_facts import FACTS
from safetensors.torch import save_file
from torch import Tensor
from training import NextActivation
from transformers import TrainerCallback

from hf_tti import InterpTrainer, Objective, Term
from hf_tti.activations import capture, make_forward_pass
from hf_tti.components import component_names, load_component
from hf_tti.data import CausalLMCollator
from hf_tti.objectives.base import Scope
from tiny import arguments, rows, without_dropout

DTYPES = {"float32": torch.float32, "float64": torch.float64}
GLOBAL_BATCH, STEPS, RATE, WEIGHT = 16, 3, 0.1, 5.0


# ---- Cases -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MeanSquare(Objective):
    """A token_sum: mean square of the activations."""

    def terms(self, forward, scope):
        mask = forward.token_mask.unsqueeze(-1)
        squares = [(at_least_float32(site) ** 2 * mask).mean(dim=-1).sum() for site in forward.sites.values()]
        return {"mean_square": Term(torch.stack(squares).mean())}


@dataclass(frozen=True, kw_only=True)
class WeightL1(Objective):
    """A parameter term: mean absolute value of the weights that read a site."""

    def terms(self, forward, scope):
        sizes = [site.out_weight.abs().mean() for site in forward.sites.values()]
        return {"weight_l1": Term(torch.stack(sizes).mean(), kind="parameter")}


@dataclass(frozen=True, kw_only=True)
class ThreeKinds(Objective):
    """A term of each kind in one objective, one of them with an owner of its own."""

    def own_module(self, setup):
        return torch.nn.ModuleList(torch.nn.Linear(point.width, 1) for point in setup.hookpoints)

    def terms(self, forward, scope):
        sites = [(at_least_float32(site), site) for site in forward.sites.values()]
        mask = forward.token_mask.unsqueeze(-1)
        count = scope.all_reduce(mask.sum().to(sites[0][0].dtype))
        means = [scope.all_reduce((x * mask).sum(dim=(0, 1))) / count for x, _ in sites]
        probes = [((linear(x) - 1) ** 2 * mask).sum() for linear, (x, _) in zip(scope.own, sites, strict=True)]
        return {
            "per_token": Term(torch.stack([(x * mask).abs().mean(dim=-1).sum() for x, _ in sites]).mean()),
            "squared_mean": Term(torch.stack([mean.square().sum() for mean in means]).mean(), kind="statistic"),
            "weights": Term(torch.stack([site.out_weight.abs().mean() for _, site in sites]).mean(), kind="parameter"),
            "probe": Term(torch.stack(probes).sum(), to="both"),
        }


def at_least_float32(site) -> Tensor:
    return site.activations.to(torch.promote_types(site.activations.dtype, torch.float32))


@dataclass(frozen=True, kw_only=True)
class NextActivationExactly(NextActivation):
    """Of training.py, in the precision of the model."""

    anneals: bool = False

    def terms(self, forward, scope):
        errors = []
        for site, linear in zip(forward.sites.values(), scope.own.maps, strict=True):
            x, both = at_least_float32(site), forward.token_mask[:, 1:]
            errors.append((((linear(x[:, :-1]) - x[:, 1:]) ** 2).mean(dim=-1) * both).sum())
        return {"error": Term(torch.stack(errors).sum(), to="both")}


def cases() -> dict[str, Objective]:
    """Every objective of the package with its defaults and the variants of its contract, and terms of every kind."""
    found: dict[str, Objective] = {}
    for name in component_names("objectives"):
        found[name] = load_component("objectives", name)()
        for index, variant in enumerate(FACTS[name].variants, start=1):
            found[f"{name}-{index}"] = variant
    decorrelation = load_component("objectives", "decorrelation")
    found["decorrelation-guard"] = decorrelation(starvation_guard=1.0, starvation_ratio=1.0, neuron_block=12)
    ours = (MeanSquare(), WeightL1(), NextActivationExactly(), ThreeKinds())
    return found | {type(objective).__name__: objective for objective in ours}


# ---- A cell ----------------------------------------------------------------------------------------------------------


class _Seen(TrainerCallback):
    """The gradients of the first step."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            named = model.named_parameters()
            self.gradients = {name: p.grad.detach().clone() for name, p in named if p.grad is not None}


def mask_of(batch: Mapping[str, Tensor]) -> Tensor:
    return make_forward_pass(batch, None, {}).token_mask


class Listening(InterpTrainer):
    """Keeps the rows of every step and the kinds of the terms."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows: list[list[list[int]]] = []
        self.kinds: set[str] = set()

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        masked = [pair for b in batches for pair in zip(b["input_ids"], mask_of(b), strict=True)]
        self.rows.append([ids[mask].tolist() for ids, mask in masked])
        return batches, num_items

    def _scaling(self, forward, num_items_in_batch):
        scaling = super()._scaling(forward, num_items_in_batch)
        seen, kinds = scaling.contribution, self.kinds
        object.__setattr__(scaling, "contribution", lambda term: (kinds.add(term.kind), seen(term))[1])
        return scaling


def trainer_of(
    folder: Path, objectives: Sequence[Any], accumulation: int, dtype: torch.dtype, **changes: Any
) -> Listening:
    """A trainer whose global batch is `GLOBAL_BATCH` rows, whatever the ranks and the accumulation."""
    settings = {
        "max_steps": STEPS,
        "optim": "sgd",
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": GLOBAL_BATCH // accumulation // int(os.environ.get("WORLD_SIZE", "1")),
        "metric_batches": 100,
        **changes,
    }
    if dist.is_initialized():
        settings["ddp_backend"] = "gloo"
    metrics = {name: load_component("metrics", name)() for name in component_names("metrics")}
    return Listening(
        without_dropout().to(dtype),
        arguments(folder, **settings),
        objectives=objectives,
        metrics=metrics,
        train_dataset=rows(80, 12, ragged=True, seed=3),
        eval_dataset=rows(10, 12, ragged=True, seed=7),
    )


def run_cell(folder: Path, name: str, objective: Objective, accumulation: int, dtype: str) -> None:
    """Train one cell and evaluate; rank 0 leaves gradients, weights and numbers."""
    seen = _Seen()
    weighted = objective.weighted(WEIGHT, label="term")
    trainer = trainer_of(folder, [weighted], accumulation, DTYPES[dtype])
    trainer.own.to(DTYPES[dtype])
    trainer.add_callback(seen)
    before = trainer.evaluate()
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.args.process_index:
        return
    cell = folder / f"{name}.{accumulation}.{dtype}"
    tensors = {f"gradient/{key}": value for key, value in seen.gradients.items()}
    tensors |= {f"weight/{key}": value.detach() for key, value in trainer.model.named_parameters()}
    tensors |= {f"weight/interp_objectives.{key}": value.detach() for key, value in trainer.own.named_parameters()}
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, f"{cell}.safetensors")
    logs = [line for line in trainer.state.log_history if "ce_loss" in line]
    numbers = {
        "losses": [[line[key] for key in ("loss", "ce_loss", "objective/term")] for line in logs],
        "before": figures(before),
        "after": figures(metrics),
        "kinds": sorted(trainer.kinds),
        "rows": trainer.rows,
    }
    Path(f"{cell}.json").write_text(json.dumps(numbers))


def figures(metrics: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if not k.endswith(("runtime", "_per_second", "preparation_time"))}


def run_by_hand(folder: Path, name: str, objective: Objective, accumulation: int, steps: list) -> None:
    """The same training in float64 without Trainer, ranks or scaling: losses are added up as their definitions say."""
    trainer = trainer_of(folder, [objective.weighted(WEIGHT, label="term")], 1, torch.float64)
    model, own = trainer.model.train(), trainer.own.to(torch.float64)
    parameters = {**dict(model.named_parameters())}
    parameters |= {f"interp_objectives.{key}": p for key, p in own.named_parameters()}
    collate, tensors, losses = CausalLMCollator(pad_token_id=0), {}, []
    for step, ids in enumerate(steps):
        size = len(ids) // accumulation
        batches = [collate([{"input_ids": row} for row in ids[k : k + size]]) for k in range(0, len(ids), size)]
        predicted = sum(len(row) - 1 for row in ids)
        active = sum(map(len, ids))
        ce, term = 0.0, 0.0
        for batch in batches:
            with capture(model, objective.sites) as recorder:
                logits = model(input_ids=batch["input_ids"], attention_mask=mask_of(batch).long()).logits
            labels = batch["labels"][:, 1:]
            logprobs = logits[:, :-1].float().log_softmax(-1)  # transformers' loss is float32 whatever the model
            logprobs = logprobs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            ce = ce - (logprobs * (labels >= 0)).sum() / predicted
            forward = make_forward_pass(batch, None, recorder.sites, eos_token_id=0)
            scope = Scope(
                step=step,
                num_active_global=torch.tensor(float(active)),
                accumulation_steps=accumulation,
                generator=torch.Generator().manual_seed(trainer._seed_of("term", step)),
                own=own["term"] if "term" in own else None,
            )
            for part in objective.terms(forward, scope).values():
                term = term + (part.value / active if part.kind == "token_sum" else part.value / accumulation)
        loss = ce + WEIGHT * term
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for (key, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            if gradient is not None:
                parameter.data -= RATE * gradient
                if step == 0:
                    tensors[f"gradient/{key}"] = gradient
        losses.append([float(loss), float(ce), float(term)])
    tensors |= {f"weight/{key}": p.detach() for key, p in parameters.items()}
    cell = folder / f"{name}.{accumulation}"
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, f"{cell}.safetensors")
    Path(f"{cell}.json").write_text(json.dumps(losses))
