"""Arguments of a run: transformers' own, and the few that objectives and metrics need."""

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_tti.checkpoints import KEPT_AT_LEAST
from hf_tti.errors import UserError


@dataclass
class InterpTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` and what an `InterpTrainer` adds. Some inherited defaults are safer here:
    `logging_nan_inf_filter` is off (a NaN is never logged as 0), `ddp_find_unused_parameters` is False and `data_seed`
    follows `seed`, so that the order of the data does not depend on what drew random numbers before training.
    """

    metric_batches: int = field(
        default=16,
        metadata={
            "min": 0,
            "help": "Evaluation batches per process that interpretability metrics see; eval_loss always sees all.",
        },
    )
    force_ratio_steps: int = field(
        default=0,
        metadata={
            "min": 0,
            "help": "Every so many steps log force_ratio/<label>: the norm of a weighted objective's gradient on the "
            "MLP weights over that of cross-entropy's. Costs extra backward passes on those steps; 0 is never.",
        },
    )
    excluded_token_ids: list[int] | None = field(
        default=None,
        metadata={"help": "Token ids that objectives and metrics skip; cross-entropy is not concerned."},
    )
    objective_learning_rate: float | None = field(
        default=None,
        metadata={
            "min": 0.0,
            "help": "Learning rate of parameters that belong to objectives; None means the model's.",
        },
    )
    objective_max_grad_norm: float = field(
        default=1.0,
        metadata={
            "min": 0.0,
            "help": "Gradient clipping of objectives' own parameters, apart from the model's; 0 is off.",
        },
    )
    elastic_resume: bool = field(
        default=False,
        metadata={"help": "Resume with other processes, batch or accumulation whose product is the same."},
    )
    full_determinism: bool = field(
        default=False,
        metadata={"help": "Deterministic kernels on a GPU, at some cost in speed: runs repeat and resume bitwise."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace NaN and infinite losses in logs, as the stock Trainer does."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DistributedDataParallel."}
    )

    def __post_init__(self):
        if self.full_determinism:
            # The Trainer sets this as well, and torch's switches; cuBLAS reads it once, when a GPU is first used.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        super().__post_init__()
        if self.push_to_hub and self.hub_strategy != HubStrategy.END:
            raise UserError(
                f"hub_strategy: {self.hub_strategy.value} has the stock Trainer push checkpoints with pickled "
                "arguments; use end, or `hf-tti push`"
            )
        for name in ("bf16_full_eval", "fp16_full_eval"):
            if getattr(self, name):
                raise UserError(
                    f"{name}: leaves the model in half precision, and so it would be trained on and saved; "
                    "bf16 and fp16 evaluate with autocast"
                )
        if self.dataloader_persistent_workers:
            # Those of one epoch do not draw a seed at the next. After a resume that loader is new, and does.
            raise UserError(
                "dataloader_persistent_workers: a resumed run would draw other random numbers than one that nothing "
                "stopped; workers start anew at each epoch"
            )
        if self.save_total_limit == 1:  # stock would delete all but the best before the run has ended
            self.save_total_limit = KEPT_AT_LEAST
        if self.data_seed is None:
            self.data_seed = self.seed
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is no device to pin for, and torch warns at every epoch
