"""A Trainer that makes no update from what is not finite, and logs, saves and returns no weights that are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_tti.arguments import InterpTrainingArguments
from hf_tti.guard import FiniteGuard, check_weights
from hf_tti.owning import SUBMODULE, OwningTrainer


class GuardedTrainer(OwningTrainer):
    """A Trainer that owns modules plus a guard, which subclasses let `see` their losses and terms."""

    def __init__(self, model: PreTrainedModel, args: InterpTrainingArguments, **kwargs):
        super().__init__(model, args, **kwargs)
        self._guard = FiniteGuard(args.process_index, args.world_size, args.device, self._weights)

    def train(self, *args, **kwargs):
        """Stock, and a last look at what the last steps left."""
        output = super().train(*args, **kwargs)
        self._check_finite()
        return output

    def log(self, logs, start_time=None):
        """Stock, after a look where it is a line of training."""
        if "loss" in logs and "learning_rate" in logs:
            self._check_finite()
        super().log(logs, start_time)

    def _save_checkpoint(self, model, trial):
        """Stock, of weights that are finite and of updates that are known to have happened."""
        self._check_finite()
        super()._save_checkpoint(model, trial)

    def _get_grad_norm(self, model, grad_norm=None):
        """Stock, and the last look before the update."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if getattr(self.accelerator, "scaler", None) is None:  # fp16 scaling skips its overflows itself
            self._guard.see("the gradient", torch.as_tensor(grad_norm))
            own = [parameter.grad for parameter in self.own.parameters() if parameter.grad is not None]
            if own:
                self._guard.see("the gradient of an objective's own", nn.utils.get_total_norm(own))
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        self._guard.before_update(self.state.global_step + 1, optimizer)
        return grad_norm

    def _check_finite(self) -> None:
        self._guard.look()
        check_weights(self._weights(), self.state.global_step, self.args.process_index, self.args.world_size)

    def _weights(self) -> dict[str, Tensor]:
        """Of the model and of what objectives own."""
        return dict(self.model.named_parameters()) | {f"{SUBMODULE}.{k}": p for k, p in self.own.named_parameters()}
