"""Loss of each case, and means per group."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses.ddp import union

LossFunction = Callable[[Tensor, Tensor], Tensor]

# Losses whose ``reduction="none"`` gives one value per element. Others may ignore it (MONAI's DiceCELoss) or mix cases
# (its DiceLoss with ``batch=True``): they get one case at a time.
_ELEMENTWISE = (
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.CrossEntropyLoss,
    nn.HuberLoss,
    nn.L1Loss,
    nn.MSELoss,
    nn.NLLLoss,
    nn.SmoothL1Loss,
)


def per_case(loss_function: LossFunction, pred: Tensor, target: Tensor) -> Tensor:
    """Loss (B,) of each case of a batch, whatever the other cases are.

    Losses of torch give one value per element, of which the mean over all axes but the first is taken: over labels for
    independent labels, over pixels for masks. Class weights multiply the values, without torch's division by the sum of
    the weights in the batch; elements that are ignored count as 0. Any other loss is called with one case at a time.

    Args:
        loss_function: takes ``pred`` and ``target``.
        pred: (B, ...) logits.
        target: (B, ...) as the loss wants it.
    """
    if type(loss_function) in _ELEMENTWISE:
        elementwise: Any = copy.copy(loss_function)
        elementwise.reduction = "none"
        losses = elementwise(pred, target)
    else:
        rows = zip(pred.split(1), target.split(1), strict=True)
        losses = torch.stack([loss_function(*row).mean() for row in rows])
    return full_precision(losses).reshape(len(pred), -1).mean(1)


def group_means(values: Tensor, codes: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Means (G,) and counts (G,) of the groups of a batch; a group that is absent has mean 0 and count 0.

    A batch that is split over processes counts as one batch (:func:`fairmedfm_monai.losses.ddp.union`).

    Args:
        values: (B,) one per case.
        codes: (B,) int64, 0..G-1; -1 = unknown, in no group.
        num_groups: G.
    """
    values, codes = union(full_precision(values), codes)
    counts = group_sums(torch.ones_like(codes), codes, num_groups)
    return group_sums(values, codes, num_groups) / counts.clamp(min=1), counts


def group_sums(values: Tensor, codes: Tensor, num_groups: int) -> Tensor:
    """Sums (G, ...) over the cases of each group in this process, of values (B, ...); unknown (-1) is left out."""
    sums = values.new_zeros(num_groups + 1, *values.shape[1:])
    return sums.index_add(0, unknown_last(codes, num_groups), values)[:num_groups]


def unknown_last(codes: Tensor, num_groups: int) -> Tensor:
    """Codes in which unknown (-1) is one group more, G."""
    return codes.remainder(num_groups + 1)


def batch_mean(values: Tensor) -> Tensor:
    """Mean of values (B,) over the batch, all processes included."""
    return union(full_precision(values))[0].mean()


def full_precision(values: Tensor) -> Tensor:
    """Float32 in place of the half precisions, in which sums over a batch would lose digits."""
    return values.float() if values.dtype in {torch.float16, torch.bfloat16} else values
