"""What an objective is: named terms computed from one forward pass, each of a stated kind and owner.

token_sum   value is the sum over this rank's real tokens; the trainer makes it the mean over the accumulated
            global batch. Exact for every split over accumulation steps and ranks.
statistic   value is a function of sums over tokens that went through `scope.all_reduce`: the same scalar on
            every rank. Under accumulation it is the mean of the micro-batches' statistics.
parameter   value depends on parameters alone: the same scalar on every rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hf_tti.activations import ForwardPass, Hookpoint
from hf_tti.components import check_limits, component_name
from hf_tti.errors import UserError
from hf_tti.sites import as_sites

Kind = Literal["token_sum", "statistic", "parameter"]
Owner = Literal["model", "own", "both"]


@dataclass(frozen=True)
class Term:
    """One scalar of an objective.

    Attributes:
        value: float32 scalar with its graph.
        kind: how it scales over tokens, ranks and accumulation steps (see the module's docstring).
        to: whose parameters it may change: the model's, the objective's own, or both. A term that is the objective's
            own affair (`own`) is not multiplied by the objective's weight.
    """

    value: Tensor
    kind: Kind = "token_sum"
    to: Owner = "model"


def _identity(tensor: Tensor) -> Tensor:
    return tensor


@dataclass
class Scope:
    """What an objective may know of the run.

    Attributes:
        step: optimizer steps done.
        num_active_global: real tokens in the accumulated global batch.
        world_size, accumulation_steps: processes, and micro-batches in this optimizer step.
        all_reduce: sum over ranks that gradients flow through; the identity on one process.
        generator: CPU generator of this objective, the same on every rank and for every micro-batch of a step.
        own: the module that `Objective.own_module` made (parameters, running statistics), or None.
        logs: detached scalars by name, to appear as `objective/<label>/<name>`.
    """

    step: int = 0
    num_active_global: Tensor | float = 1.0
    world_size: int = 1
    accumulation_steps: int = 1
    all_reduce: Callable[[Tensor], Tensor] = _identity
    generator: torch.Generator | None = None
    own: nn.Module | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """What an objective may know when a run starts: the hookpoints with their widths, and the corpus's token counts.

    `token_counts` ([V], int64) is there for objectives with `uses_token_counts`.
    """

    hookpoints: Sequence[Hookpoint]
    vocab_size: int
    token_counts: Tensor | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """A frozen dataclass of hyper-parameters with one verb, `terms`. It holds no model, no state and no weight.

    Args:
        sites: names such as `mlp.neurons`, or module paths with `*` for one segment, `:in` for a module's input.
    """

    needs_privileged_basis: ClassVar[bool] = False
    uses_token_counts: ClassVar[bool] = False

    sites: tuple[str, ...] = ("mlp.neurons",)

    def __post_init__(self):
        object.__setattr__(self, "sites", as_sites(self.sites))
        check_limits(self)

    def own_module(self, setup: Setup) -> nn.Module | None:
        """Parameters and running statistics of this objective, or None. Trained, saved and resumed by the trainer."""
        return None

    @abstractmethod
    def terms(self, forward: ForwardPass, scope: Scope) -> dict[str, Term]:
        """Named terms, lower = wanted. `forward` holds this objective's sites only."""

    def weighted(self, weight: float, *, warmup_steps: int = 0, label: str | None = None) -> WeightedObjective:
        """This objective with a weight, as `InterpTrainer` takes it."""
        name = component_name(type(self))
        return WeightedObjective(label or name.replace(":", ".").rpartition(".")[2], self, weight, warmup_steps)


@dataclass(frozen=True)
class WeightedObjective:
    """An objective in a run: its label in logs, its weight and the weight's linear warm-up in optimizer steps."""

    label: str
    objective: Objective
    weight: float
    warmup_steps: int = 0

    def __post_init__(self):
        for name, value, kinds in (("weight", self.weight, int | float), ("warmup_steps", self.warmup_steps, int)):
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
                raise UserError(f"objective {self.label!r}: {name} is {value!r}; it must be a number of at least 0")

    def weight_at(self, step: int) -> float:
        """The weight of the update that follows `step` finished ones; pure, so that a resumed run needs no state."""
        if not self.warmup_steps:
            return self.weight
        return self.weight * min(1.0, (step + 1) / self.warmup_steps)


def per_layer_mean(values: Sequence[Tensor]) -> Tensor:
    """Mean over hookpoints: an objective over several layers is never their sum."""
    return torch.stack(list(values)).mean()
