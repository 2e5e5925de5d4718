"""Stops when the metric of `training.metric_for_best_model` (default eval_loss) has not improved
for a while.

transformers' EarlyStoppingCallback does the counting. The count is no state of its own: a resumed
run gets it back by replaying the evaluations in its log.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl

from hf_tti.errors import UserError


@dataclass(kw_only=True, eq=False)
class EarlyStopping(TrainerCallback):
    """Ends training after `patience` evaluations in a row that did not improve the metric by more
    than `threshold`.

    Raises:
        UserError: the run never evaluates.
    """

    patience: int = field(
        default=1,
        metadata={
            "min": 1,
            "help": "Evaluations in a row without improvement before training stops.",
        },
    )
    threshold: float = field(
        default=0.0,
        metadata={"min": 0.0, "help": "What the metric must improve by to count as improved."},
    )

    def __post_init__(self) -> None:
        self._counter = EarlyStoppingCallback(self.patience, self.threshold)

    def on_init_end(self, args, state, control, **kwargs):
        if args.eval_strategy == "no":
            raise UserError("callbacks.early_stopping needs evaluations: set training.eval_strategy to steps or epoch")
        if args.metric_for_best_model is None:
            args.metric_for_best_model, args.greater_is_better = "eval_loss", False

    def on_train_begin(self, args, state, control, **kwargs):
        self.has_stopped(args, state)

    def has_stopped(self, args, state) -> bool:
        """Counts again what the state's log says, and whether its last evaluation was the one that ends training."""
        self._counter, control = EarlyStoppingCallback(self.patience, self.threshold), TrainerControl()
        key = _metric_key(args)
        is_better = np.greater if args.greater_is_better else np.less
        seen = replace(state, best_metric=None)
        for line in state.log_history:
            if key in line and line["step"] > 0:  # eval_on_start never sets the best
                control = TrainerControl()
                self._counter.on_evaluate(args, seen, control, metrics=line)
                if seen.best_metric is None:  # as the Trainer: a NaN never is the best
                    seen.best_metric = float("-inf") if args.greater_is_better else float("inf")
                if is_better(line[key], seen.best_metric):
                    seen.best_metric = line[key]
        return control.should_training_stop

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        key = _metric_key(args)
        if key not in metrics:
            raise UserError(
                f"training.metric_for_best_model: {key!r} is no evaluation metric of this run: "
                f"{', '.join(sorted(metrics))}"
            )
        self._counter.on_evaluate(args, state, control, metrics=metrics)


def _metric_key(args) -> str:
    return f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
