"""No update from what is not finite: loss, terms and gradients are looked at before the optimizer steps.

Where looking costs nothing (CPU) a bad step stops the run before its update, on every rank, with its name. On a device
with a fused optimizer the flag stays there, in `optimizer.found_inf`, which makes the optimizer leave out its update
without a sync; the run stops at the next logging step, or before it saves. Otherwise each step waits for the device
once. Weights are looked at whenever the run logs or saves, and at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hf_tti.errors import UserError

_KEPT = "earlier checkpoints are as they were"


class FiniteGuard:
    """Flags of the micro-batches since the last update, and of the steps since the last look.

    Args:
        rank, world_size: of this process.
        device: of the flags.
        weights: name -> weight, to say which of them is not finite when something else is not.
        waits: leave bad updates out on the device until somebody looks; default: where looking waits for it.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        device: torch.device,
        weights: Callable[[], Mapping[str, Tensor]] = dict,
        *,
        waits: bool | None = None,
    ):
        self._rank, self._world_size, self._device, self._weights = rank, world_size, device, weights
        self._waits = device.type != "cpu" if waits is None else waits
        self._bad: dict[str, Tensor] = {}
        self._since: Tensor | None = None  # whether a step of this logging window was bad, on the device
        self._window: list[tuple[int, list[str], Tensor]] = []  # steps, names and flags [W, n] of the window

    def see(self, name: str, value: Tensor) -> None:
        """Note whether a detached tensor is finite everywhere."""
        bad = ~torch.isfinite(value.detach()).all()
        self._bad[name] = self._bad[name] | bad if name in self._bad else bad

    def before_update(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Look at what was seen since the last update; all ranks call it together.

        Raises:
            UserError: something was not finite, and this is known without waiting.
        """
        names, flags = self._gathered()
        if self._waits and optimizer.defaults.get("fused"):
            # An update is left out from the first bad step on: weights stay those before it until somebody looks.
            seen = flags.any() if self._since is None else flags.any() | self._since
            optimizer.found_inf, self._since = seen.float(), seen
            self._window.append((step, names, flags))
        elif bool(flags.any()):
            raise self._error(step, names, flags)

    def look(self) -> None:
        """Raises a UserError where an update was left out since the last call; waits for the device. All ranks call it
        together: when they log, before they save, and at the end.
        """
        window, self._window, since, self._since = self._window, [], self._since, None
        if since is not None and bool(since):
            raise self._error(*next(seen for seen in window if bool(seen[2].any())))

    def _gathered(self) -> tuple[list[str], Tensor]:
        """Names, and flags [W, n]."""
        names = list(self._bad)
        own = torch.stack([self._bad[name].to(self._device) for name in names])
        self._bad = {}
        return names, _of_all_ranks(own, self._rank, self._world_size)

    def _error(self, step: int, names: list[str], flags: Tensor) -> UserError:
        weights = self._weights()
        bad = _bad_weight(weights, self._rank, self._world_size) if weights else None
        before = "" if bad is None else f"; {bad} was not finite before it"
        return UserError(
            f"{_first(names, flags, f'in step {step}')}; its update was left out and training stops, {_KEPT}{before}"
        )


def check_weights(tensors: Mapping[str, Tensor], step: int, rank: int = 0, world_size: int = 1) -> None:
    """Raises a UserError on every rank for the first tensor that is not finite on any; one sync. All ranks call it."""
    norm = nn.utils.get_total_norm([tensor.detach() for tensor in tensors.values()], torch.inf)
    if bool(_of_all_ranks(~torch.isfinite(norm).reshape(1), rank, world_size).any()):
        bad = _bad_weight(tensors, rank, world_size, f"after step {step}")
        raise UserError(f"{bad}; it is not saved, {_KEPT}")


def _bad_weight(tensors: Mapping[str, Tensor], rank: int, world_size: int, when: str = "") -> str | None:
    """The first tensor that is not finite on any rank, in words; without `when` its name alone."""
    own = torch.stack([~torch.isfinite(tensor.detach()).all() for tensor in tensors.values()])
    flags = _of_all_ranks(own, rank, world_size)
    if not bool(flags.any()):
        return None
    return _first(list(tensors), flags, when)


def _of_all_ranks(own: Tensor, rank: int, world_size: int) -> Tensor:
    """Every rank's booleans [n] as [W, n], on every rank."""
    flags = torch.zeros(world_size, len(own), dtype=torch.uint8, device=own.device)
    flags[rank] = own
    if world_size > 1:
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return flags.bool()


def _first(names: list[str], flags: Tensor, when: str) -> str:
    """What was seen first is the cause: of a loss that is not finite on one rank, every rank's gradient is not."""
    index = int(flags.any(dim=0).nonzero()[0])
    ranks = flags[:, index].nonzero().flatten().tolist()
    where = ""
    if len(flags) > 1:
        where = " on every rank" if len(ranks) == len(flags) else f" on rank {', '.join(map(str, ranks))}"
    return f"{names[index]} is not finite {when}{where}" if when else f"{names[index]}{where}"
