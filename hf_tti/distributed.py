"""The one collective that gradients flow through."""

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x. Every rank computes the same function of y, so the gradient of the sum of all ranks'
    losses with respect to a rank's x is the sum of all ranks' gradients with respect to y; averaging gradients over
    ranks, as DistributedDataParallel does, then leaves exactly the gradient of that one function.
    """

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, with gradients; the tensor itself on one process. Shapes agree on all ranks."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    return _SumOverRanks.apply(tensor)
