"""No update from what is not finite: loss, terms and gradients are looked at before the optimizer steps.

Where looking costs nothing (CPU) a bad step stops the run before its update, on every rank, with its name. On a device
with a fused optimizer the flag stays there, in `optimizer.found_inf`, which makes the optimizer leave out its update
without a sync; the run stops at the next logging step. Otherwise each step waits for the device once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from hf_tti.errors import UserError


class FiniteGuard:
    """Flags of the micro-batches since the last update, and of the steps since the last look.

    Args:
        rank, world_size: of this process.
        device: of the flags.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device):
        self._rank, self._world_size, self._device = rank, world_size, device
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
        waits = self._device.type != "cpu" and optimizer.defaults.get("fused")
        if waits:
            # An update is left out from the first bad step on: weights stay those before it until somebody looks.
            seen = flags.any() if self._since is None else flags.any() | self._since
            optimizer.found_inf, self._since = seen.float(), seen
            self._window.append((step, names, flags))
        elif bool(flags.any()):
            raise UserError(_what(names, flags, step))

    def at_logging(self) -> None:
        """Raises a UserError where an update was left out since the last call; waits for the device."""
        window, self._window, since, self._since = self._window, [], self._since, None
        if since is not None and bool(since):
            step, names, flags = next(seen for seen in window if bool(seen[2].any()))
            raise UserError(_what(names, flags, step))

    def _gathered(self) -> tuple[list[str], Tensor]:
        """Names, and flags [W, n]."""
        names = list(self._bad)
        own = torch.stack([self._bad[name].to(self._device) for name in names])
        self._bad = {}
        flags = torch.zeros(self._world_size, len(names), dtype=torch.uint8, device=self._device)
        flags[self._rank] = own
        if self._world_size > 1:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return names, flags.bool()


def check_weights(tensors: Mapping[str, Tensor], step: int) -> None:
    """Raises a UserError for the first tensor that is not finite; one sync."""
    finite = torch.stack([torch.isfinite(tensor.detach()).all() for tensor in tensors.values()])
    if not bool(finite.all()):
        name = next(name for name, fine in zip(tensors, finite.tolist(), strict=True) if not fine)
        raise UserError(
            f"{name} is not finite after step {step}; it is not saved, earlier checkpoints are as they were"
        )


def _what(names: list[str], flags: Tensor, step: int) -> str:
    rank, index = (int(i) for i in flags.nonzero()[0])
    where = f" on rank {rank}" if len(flags) > 1 else ""
    return (
        f"{names[index]} is not finite in step {step}{where}; its update was left out and training stops, "
        "earlier checkpoints are as they were"
    )
