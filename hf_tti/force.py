"""Force ratio: how hard an objective pulls on the MLP weights, against cross-entropy.

force_ratio = ||grad_w (weight * objective)||_2 / ||grad_w CE||_2, w the MLP's weight matrices, one micro-batch
of every rank. Losses of different objectives cannot be compared; the forces that they exert on the same weights can.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


def mlp_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of the blocks' MLPs; every matrix of the model where no module is called `mlp`."""
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and p.requires_grad}
    inside = [p for name, p in matrices.items() if "mlp" in name.split(".")]
    return inside or list(matrices.values())


def force_ratios(model: nn.Module, ce_loss: Tensor, forces: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Label -> force ratio, detached. The graphs of all losses are kept for the backward pass that follows."""
    weights = mlp_weights(model)
    ce_norm = _gradient_norm(ce_loss, weights)
    return {label: _gradient_norm(loss, weights) / ce_norm for label, loss in forces.items()}


def _gradient_norm(loss: Tensor, weights: list[nn.Parameter]) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros((), device=loss.device)
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    flat = [torch.zeros_like(w) if g is None else g.detach() for w, g in zip(weights, gradients, strict=True)]
    if dist.is_initialized() and dist.get_world_size() > 1:
        for gradient in flat:
            dist.all_reduce(gradient)
        flat = [gradient / dist.get_world_size() for gradient in flat]
    return torch.stack([gradient.float().norm() for gradient in flat]).norm()
