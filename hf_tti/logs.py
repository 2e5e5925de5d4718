"""Running means of a logging window, kept on the device so that no step waits for them."""

import logging

import torch
from accelerate import Accelerator
from torch import Tensor

logger = logging.getLogger("hf_tti")


class RunningMeans:
    """Sums of what each micro-batch contributes; `drain` turns them into means per optimizer step over all ranks."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
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

    def drain(self, accelerator: Accelerator) -> dict[str, float]:
        """Means since the last call, by name, with `reg_to_ce_ratio`; one device sync. All ranks call it together."""
        if not self._sums:
            return {}
        names = [*self._sums, *self._occasional]
        values = [total / self._num_steps for total in self._sums.values()]
        values += [total / count for total, count in self._occasional.values()]
        scalars = [torch.as_tensor(value, dtype=torch.float32, device=accelerator.device) for value in values]
        stacked = accelerator.reduce(torch.stack(scalars), "mean")
        self._clear()
        means = dict(zip(names, stacked.tolist(), strict=True))
        weighted = [abs(value) for name, value in means.items() if name.startswith("weighted/")]
        if weighted and means["ce_loss"]:
            means["reg_to_ce_ratio"] = sum(weighted) / abs(means["ce_loss"])
        return means
