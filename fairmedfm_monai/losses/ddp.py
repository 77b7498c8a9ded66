"""One batch over several processes: all that the losses know of ``torch.distributed`` stands here."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def union(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Join the rows of all processes, in the order of the ranks; without several processes, the tensors as they are.

    Every process then computes the same loss of the whole batch. The gradient of a row goes back to the process that
    has it, times the number of processes: ``DistributedDataParallel`` takes the mean over processes, so that the
    parameters get the gradient that one process with the whole batch would give them. Parameters that are used only
    behind this join need no ``DistributedDataParallel``: their gradient is the same everywhere.

    All processes must call it equally often.

    Args:
        *tensors: (B, ...) of one length B, which may differ between processes and may be 0.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensors
    counts = _counts(tensors[0])
    return tuple(_Union.apply(tensor, counts) for tensor in tensors)


def _counts(tensor: Tensor) -> list[int]:
    """Rows in each process."""
    own = torch.tensor([len(tensor)], device=tensor.device)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return [int(count) for count in torch.cat(found)]


class _Union(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = tensor.new_zeros(max(counts), *tensor.shape[1:])  # all_gather takes one shape only
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        own: Tensor = gradients[0].split(ctx.counts)[dist.get_rank()]
        return own * len(ctx.counts), None
