"""What trains of a network."""

from __future__ import annotations

from torch import nn


def trainable_parameters(network: nn.Module) -> tuple[int, int]:
    """Number of trainable parameters and of all."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
