"""`InterpTrainer`: transformers' Trainer with objectives added to the loss and metrics to the evaluation.

Each override is `super()` plus one thing. Without objectives the weights, loss, gradient norm and learning rate are
bitwise those of `transformers.Trainer` with the same arguments and the same `loss_type`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tti.activations import (
    UNPRIVILEGED_SITES,
    ForwardPass,
    Hookpoint,
    Recorder,
    make_forward_pass,
    resolve_sites,
)
from hf_tti.arguments import InterpTrainingArguments
from hf_tti.data import CausalLMCollator
from hf_tti.distributed import all_reduce_sum
from hf_tti.errors import UserError
from hf_tti.force import force_ratios
from hf_tti.guarding import GuardedTrainer
from hf_tti.logs import RunningMeans, logger
from hf_tti.metrics.activation_sparsity import ActivationSparsity
from hf_tti.metrics.base import Metric
from hf_tti.metrics.token_entropy import TokenEntropy
from hf_tti.objectives.base import Scope, Setup, WeightedObjective
from hf_tti.scaling import Scaling

_LABEL = re.compile(r"[A-Za-z0-9_-]+")


class InterpTrainer(GuardedTrainer):
    """A Trainer for HuggingFace causal LMs whose loss is cross-entropy plus weighted objectives.

    Args:
        model: any causal LM of transformers, from scratch or pretrained.
        args: `InterpTrainingArguments`.
        objectives: from `Objective(...).weighted(weight)`; labels must differ.
        metrics: label -> Metric, measured at every evaluation as `eval_<label>/layer_<i>`; None means `sparsity` and
            `polysemanticity`, an empty mapping means none.
        token_counts: [V] how often each token occurs in the training data, for objectives that ask; counted from
            `train_dataset` where it is not given.
        trainer_kwargs: everything else that `transformers.Trainer` takes. `data_collator` defaults to one that pads
            on the right, masks the padding and sets the labels.

    Raises:
        UserError: a site that the model does not have, labels that collide, or a parallelism that would make a term
            silently wrong (DataParallel, FSDP, DeepSpeed, `model_init`).
    """

    args: InterpTrainingArguments
    loss_is_scaled_for_ga: bool | None = None  # stock from transformers 5.2x on; the same rule by hand before

    def __init__(
        self,
        model: PreTrainedModel,
        args: InterpTrainingArguments,
        *,
        objectives: Sequence[WeightedObjective] = (),
        metrics: Mapping[str, Metric] | None = None,
        token_counts: Tensor | None = None,
        **trainer_kwargs,
    ):
        if not isinstance(args, InterpTrainingArguments):
            raise UserError(f"args is a {type(args).__name__}; InterpTrainer takes InterpTrainingArguments")
        if "model_init" in trainer_kwargs:
            raise UserError("model_init is not supported: hookpoints belong to one model; pass the model itself")
        if model.loss_type is None:
            # GPT2LMHeadModel and others whose class name does not say it: else position 0 counts as a prediction.
            model.loss_type = "ForCausalLM"
        tokenizer = trainer_kwargs.get("processing_class")
        if trainer_kwargs.get("data_collator") is None:
            trainer_kwargs["data_collator"] = CausalLMCollator(pad_token_id=_pad_token_id(model, tokenizer))
        super().__init__(model, args, **trainer_kwargs)
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps

        self.objectives = _checked(objectives)
        self.interp_metrics = default_metrics() if metrics is None else dict(metrics)
        self._refuse_wrong_parallelism()
        self._eos_token_id = model.config.eos_token_id if tokenizer is None else tokenizer.eos_token_id
        if not isinstance(self._eos_token_id, int):
            self._eos_token_id = None
        outside = [i for i in args.excluded_token_ids or () if not 0 <= i < model.config.vocab_size]
        if outside:
            raise UserError(f"excluded_token_ids: {outside[0]} is no token; the model has {model.config.vocab_size}")
        self._hookpoints = {o.label: resolve_sites(self.model, o.objective.sites) for o in self.objectives}
        self._warn_about_bases()
        self.own = nn.ModuleDict(self._own_modules(token_counts)).to(args.device)
        metric_hookpoints = self._new_accumulator().hookpoints
        self._train_recorder = Recorder(self.model, _union(self._hookpoints.values()))
        self._eval_recorder = Recorder(self.model, metric_hookpoints)
        self._means = RunningMeans()
        self._num_active: Tensor | None = None

    def run_facts(self):
        """What a checkpoint and the run that resumes it must agree on; the objectives with all their settings."""
        described = [re.sub(r" at 0x[0-9a-f]+", "", repr(weighted)) for weighted in self.objectives]
        return {**super().run_facts(), "objectives": described}

    # ---- Setting up ----

    def _refuse_wrong_parallelism(self) -> None:
        if self.args.n_gpu > 1:
            raise UserError(
                f"{self.args.n_gpu} GPUs in one process means DataParallel, whose replicas cannot share activations; "
                "start with accelerate launch, or set CUDA_VISIBLE_DEVICES to one GPU"
            )
        parallel = self.accelerator.parallelism_config
        sharded = {"FSDP": self.is_fsdp_enabled, "DeepSpeed": self.is_deepspeed_enabled}
        sharded["parallelism_config"] = parallel is not None and parallel.non_data_parallel_size > 1
        for name in (name for name, enabled in sharded.items() if enabled):
            raise UserError(
                f"{name} (from the arguments or the accelerate configuration) shards what objectives, metrics and "
                "checkpoints read whole; use DDP, as in recipes/accelerate"
            )
        kwargs = self.args.gradient_checkpointing_kwargs or {}
        reentrant = self.args.gradient_checkpointing and kwargs.get("use_reentrant") or _is_reentrant(self.model)
        if self.objectives and reentrant:
            raise UserError("gradient_checkpointing_kwargs.use_reentrant: true gives activations without a gradient")

    def _warn_about_bases(self) -> None:
        for weighted in self.objectives:
            sites = {p.site for p in self._hookpoints[weighted.label] if p.known_as in UNPRIVILEGED_SITES}
            if weighted.objective.needs_privileged_basis and sites:
                logger.warning(
                    "objective %r at %s: this site has no privileged basis, a rotation can lower the term without "
                    "changing a neuron",
                    weighted.label,
                    ", ".join(sorted(sites)),
                )

    def _own_modules(self, token_counts: Tensor | None) -> dict[str, nn.Module]:
        """Label -> module for the objectives that have one, each made from its own seed: global draws stay paired."""
        if token_counts is not None and len(token_counts) > self.model.config.vocab_size:
            raise UserError(f"token_counts has {len(token_counts)} entries, the model {self.model.config.vocab_size}")
        if token_counts is None and any(o.objective.uses_token_counts for o in self.objectives):
            token_counts = count_tokens(self.train_dataset, self.model.config.vocab_size)
        modules = {}
        for weighted in self.objectives:
            setup = Setup(
                hookpoints=self._hookpoints[weighted.label],
                vocab_size=self.model.config.vocab_size,
                token_counts=token_counts,
                seed=self.args.seed,
            )
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                torch.manual_seed(self._seed_of(weighted.label, 0))
                module = weighted.objective.own_module(setup)
            if module is not None:
                modules[weighted.label] = module
        return modules

    def _seed_of(self, label: str, step: int) -> int:
        return zlib.crc32(f"{self.args.seed}/{label}/{step}".encode())

    # ---- Loss ----

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Stock, plus the count of real tokens over the accumulated global batch."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if self.objectives and batches:
            count = sum(make_forward_pass(b, None, {}, **self._masking).num_active for b in batches).to(device)
            self._num_active = self.accelerator.reduce(count, "sum").float()
        return batches, num_items

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Stock cross-entropy; plus the weighted objectives while the model trains and only then."""
        labels = inputs.get("labels")  # label smoothing pops them
        recorder = self._recorder_for(model)
        with recorder.recording() if recorder is not None else nullcontext():
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        sites = recorder.sites if recorder is not None else {}
        seen = {**inputs, "labels": labels}
        if model.training:
            loss = self._add_objectives(
                loss, make_forward_pass(seen, outputs, sites, **self._masking), num_items_in_batch
            )
        elif self._accumulator is not None:
            self._accumulator.update(seen, outputs, sites, keep_rows=self._rows_to_keep(len(inputs["input_ids"])))
        if recorder is not None:
            recorder.clear()
        return (loss, outputs) if return_outputs else loss

    def _recorder_for(self, model: nn.Module) -> Recorder | None:
        if model.training:
            return self._train_recorder if self.objectives else None
        wanted = self._accumulator is not None and self._accumulator.wants_activations
        return self._eval_recorder if wanted else None

    def _add_objectives(self, ce_loss: Tensor, forward: ForwardPass, num_items_in_batch) -> Tensor:
        scaling = self._scaling(forward, num_items_in_batch)
        self._means.count_steps(1 / scaling.accumulation_steps)
        self._means.add("ce_loss", scaling.ce_contribution(ce_loss.detach()))
        self._guard.see("ce_loss", ce_loss)
        loss, forces = ce_loss, {}
        with torch.autocast(device_type=ce_loss.device.type, enabled=False):
            for weighted in self.objectives:
                to_model, to_own = self._objective_loss(weighted, forward, scaling)
                loss = loss + scaling.for_backward(to_model + to_own)
                forces[weighted.label] = to_model
        if self.objectives and self._is_force_step():
            self._log_force_ratios(scaling.ce_contribution(ce_loss), forces)
        return loss

    def _objective_loss(
        self, weighted: WeightedObjective, forward: ForwardPass, scaling: Scaling
    ) -> tuple[Tensor, Tensor]:
        """(weighted contribution of the terms that may change the model, contribution of the objective's own)."""
        label, step = weighted.label, self.state.global_step
        scope = Scope(
            step=step,
            num_active_global=scaling.num_active_global,
            world_size=scaling.world_size,
            accumulation_steps=scaling.accumulation_steps,
            all_reduce=all_reduce_sum,
            generator=torch.Generator().manual_seed(self._seed_of(label, step)),
            own=self.own[label] if label in self.own else None,
        )
        terms = weighted.objective.terms(forward.narrow(self._hookpoints[label]), scope)
        parts = {name: scaling.contribution(term) for name, term in terms.items()}
        zero = torch.zeros((), device=forward.input_ids.device)
        raw = sum((parts[name] for name, term in terms.items() if term.to != "own"), zero)
        own = sum((parts[name] for name, term in terms.items() if term.to == "own"), zero)
        weight = weighted.weight_at(step)
        self._guard.see(f"objective/{label}", raw + own)

        steps = scaling.accumulation_steps
        self._means.add(f"objective/{label}", raw.detach())
        self._means.add(f"weighted/{label}", weight * raw.detach())
        self._means.add(f"weight/{label}", weight / steps)
        if len(parts) > 1:
            for name, part in parts.items():
                self._means.add(f"objective/{label}/{name}", part.detach())
        for name, value in scope.logs.items():
            self._means.add(f"objective/{label}/{name}", value.detach().float() / steps)
        return weight * raw, own

    def _scaling(self, forward: ForwardPass, num_items_in_batch) -> Scaling:
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            scaled = (
                self.model_accepts_loss_kwargs and num_items_in_batch is not None
            ) or self.compute_loss_func is not None
        num_active = self._num_active if self._num_active is not None else forward.num_active.float()
        return Scaling(
            num_active_global=num_active,
            world_size=self.args.world_size,
            accumulation_steps=self.current_gradient_accumulation_steps,
            trainer_divides=not scaled,
        )

    def _is_force_step(self) -> bool:
        every = self.args.force_ratio_steps
        return every > 0 and self.state.global_step % every == 0

    def _log_force_ratios(self, ce_loss: Tensor, forces: Mapping[str, Tensor]) -> None:
        ratios = force_ratios(self.accelerator.unwrap_model(self.model), ce_loss, forces)
        for label, ratio in ratios.items():
            self._means.add_occasional(f"force_ratio/{label}", ratio)

    @property
    def _masking(self) -> dict:
        return {
            "eos_token_id": self._eos_token_id,
            "excluded_token_ids": self.args.excluded_token_ids or (),
        }

    def log(self, logs, start_time=None):
        """Stock, plus the running means of this logging window on training lines."""
        if "loss" in logs and "learning_rate" in logs:
            logs.update(self._means.drain(self.accelerator))
        super().log(logs, start_time)


def count_tokens(dataset, vocab_size: int, max_rows: int = 20_000) -> Tensor:
    """[V] int64: how often each token occurs in the first `max_rows` rows of a dataset of `input_ids`.

    Raises:
        UserError: the dataset has no rows to count.
    """
    counts = torch.zeros(vocab_size, dtype=torch.int64)
    if dataset is None:
        raise UserError("an objective needs token counts: pass token_counts or a train_dataset")
    for index, row in enumerate(dataset):
        if index == max_rows:
            break
        ids = torch.as_tensor(row["input_ids"], dtype=torch.int64)
        mask = row.get("attention_mask")
        ids = ids if mask is None else ids[torch.as_tensor(mask).bool()]
        counts += torch.bincount(ids, minlength=vocab_size)
    return counts


def _is_reentrant(model: nn.Module) -> bool:
    """Whether `gradient_checkpointing_enable` was called with `use_reentrant`."""
    functions = (vars(module).get("_gradient_checkpointing_func") for module in model.modules())
    return any(function.keywords.get("use_reentrant") for function in functions if isinstance(function, partial))


def default_metrics() -> dict[str, Metric]:
    """What is measured where nothing is said."""
    return {"sparsity": ActivationSparsity(), "polysemanticity": TokenEntropy()}


def _checked(objectives: Sequence[WeightedObjective]) -> tuple[WeightedObjective, ...]:
    labels = [o.label if isinstance(o, WeightedObjective) else None for o in objectives]
    for objective, label in zip(objectives, labels, strict=True):
        if label is None:
            raise UserError(
                f"objectives: {objective!r} has no weight; write {type(objective).__name__}(...).weighted(0.01)"
            )
        if not _LABEL.fullmatch(label):
            raise UserError(f"objectives: label {label!r}; letters, digits, _ and - only")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise UserError(f"objectives: label {twice[0]!r} occurs twice; give one of them label=...")
    return tuple(objectives)


def _union(groups) -> list[Hookpoint]:
    return list({point.path: point for group in groups for point in group}.values())


def _pad_token_id(model: PreTrainedModel, tokenizer) -> int:
    candidates = [tokenizer.pad_token_id, tokenizer.eos_token_id] if tokenizer is not None else []
    candidates += [model.config.pad_token_id, model.config.eos_token_id]
    return next((c for c in candidates if isinstance(c, int) and 0 <= c < model.config.vocab_size), 0)
