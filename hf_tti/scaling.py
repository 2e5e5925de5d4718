"""The one place that scales terms over tokens, ranks and accumulation steps.

What happens to a loss after `compute_loss`: the gradients of the micro-batches of one optimizer step are added, and
DistributedDataParallel averages over W ranks. With N the real tokens of the accumulated global batch and A the
accumulation steps, the factor on a term is therefore

    token_sum   W / N    sum over ranks and micro-batches of sum_t r_t, averaged over W: the mean per token
    statistic   1 / A    the mean of A statistics, each already global and the same on every rank
    parameter   1 / A    the same number A times on every rank
"""

from dataclasses import dataclass

from torch import Tensor

from hf_tti.objectives.base import Term


@dataclass(frozen=True)
class Scaling:
    """Factors of one micro-batch.

    Attributes:
        num_active_global: N, real tokens of the accumulated global batch.
        world_size: W.
        accumulation_steps: A, micro-batches of this optimizer step.
        trainer_divides: the Trainer will divide the returned loss by A once more, as it does for models whose
            cross-entropy is a mean of each micro-batch.
    """

    num_active_global: Tensor
    world_size: int
    accumulation_steps: int
    trainer_divides: bool

    def contribution(self, term: Term) -> Tensor:
        """What this micro-batch adds to the term's value for the optimizer step (their sum, averaged over ranks)."""
        if term.kind == "token_sum":
            return term.value * (self.world_size / self.num_active_global.clamp(min=1))
        if term.kind in ("statistic", "parameter"):
            return term.value / self.accumulation_steps
        raise ValueError(f"term kind {term.kind!r}; choices: token_sum, statistic, parameter")

    def for_backward(self, contribution: Tensor) -> Tensor:
        """The contribution as `compute_loss` has to return it."""
        return contribution * self.accumulation_steps if self.trainer_divides else contribution

    def ce_contribution(self, loss: Tensor) -> Tensor:
        """The stock loss of this micro-batch as a part of the optimizer step's cross-entropy."""
        return loss / self.accumulation_steps if self.trainer_divides else loss
