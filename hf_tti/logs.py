"""Running means of a logging window, kept on the device so that no step waits for them."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

logger = logging.getLogger("hf_tti")


class RunningMeans:
    """Sums of what each micro-batch contributes; `drain` turns them into means per optimizer step over all ranks."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a window."""
        self._sums: dict[str, Tensor | float] = {}
        self._occasional: dict[str, tuple[Tensor, int]] = {}
        self._num_steps = 0.0

    def count_steps(self, share: float) -> None:
        """Count one micro-batch, which is this share of an optimizer step."""
        self._num_steps += share

    def add(self, name: str, contribution: Tensor | float) -> None:
        """Add a detached scalar or a number; the contributions of one optimizer step's micro-batches are summed."""
        self._sums[name] = self._sums.get(name, 0.0) + contribution

    def add_occasional(self, name: str, value: Tensor) -> None:
        """Add a detached scalar that not every step has; the mean is over the times that it was added."""
        total, count = self._occasional.get(name, (torch.zeros_like(value), 0))
        self._occasional[name] = (total + value, count + 1)

    def state(self) -> dict[str, Any]:
        """The sums so far, of this rank, on the CPU."""
        sums = {name: total.cpu() if isinstance(total, Tensor) else total for name, total in self._sums.items()}
        occasional = {name: (total.cpu(), count) for name, (total, count) in self._occasional.items()}
        return {"sums": sums, "occasional": occasional, "num_steps": self._num_steps}

    @staticmethod
    def checked(state: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
        """A state that was read, on a device.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is none.
        """
        occasional = {name: (total.to(device), int(count)) for name, (total, count) in state["occasional"].items()}
        sums = {
            name: total.to(device) if isinstance(total, Tensor) else float(total)
            for name, total in state["sums"].items()
        }
        return {"sums": sums, "occasional": occasional, "num_steps": float(state["num_steps"])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `checked` gave."""
        self._sums, self._occasional = dict(state["sums"]), dict(state["occasional"])
        self._num_steps = state["num_steps"]

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Means since the last call, by name, with `reg_to_ce_ratio`; one device sync. All ranks call it together."""
        if not self._sums:
            return {}
        names = [*self._sums, *self._occasional]
        values = [total / self._num_steps for total in self._sums.values()]
        values += [total / count for total, count in self._occasional.values()]
        scalars = [torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in values]
        stacked = accelerator.reduce(torch.stack(scalars), "mean")
        self.clear()
        means = dict(zip(names, stacked.tolist(), strict=True))
        weighted = [abs(value) for name, value in means.items() if name.startswith("weighted/")]
        if weighted and means["ce_loss"]:
            means["reg_to_ce_ratio"] = sum(weighted) / abs(means["ce_loss"])
        return means


def mean_of(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of all ranks' states: what each of another number of ranks has to hold for the same means."""
    first, share = states[0], 1 / len(states)
    return {
        "sums": {name: sum(state["sums"][name] for state in states) * share for name in first["sums"]},
        "occasional": {
            name: (sum(state["occasional"][name][0] for state in states) * share, count)
            for name, (_, count) in first["occasional"].items()
        },
        "num_steps": first["num_steps"],
    }
