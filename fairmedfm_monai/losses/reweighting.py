"""Reweighting: every case counts by the inverse frequency of its group, or of its group and class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.groups import LossFunction, batch_mean, per_case


def inverse_frequency(counts: Tensor) -> Tensor:
    """Weights ``n / (K n_k)`` of cells, in the shape of ``counts``; their mean over the n training cases is 1.

    K is the number of cells that have cases. A cell without any has weight 1 and is never met in training.

    Args:
        counts: (G,) or (G, C) numbers n_k of training cases.

    Raises:
        ValueError: negative counts, or no case at all.
    """
    found = torch.as_tensor(counts).double()
    filled = found > 0
    if not bool(filled.any()) or bool((found < 0).any()):
        msg = f"`counts` must be numbers of training cases, at least one of them above 0, but got {found.tolist()}"
        raise ValueError(msg)
    weights = found.sum() / (filled.sum() * torch.where(filled, found, 1))
    return torch.where(filled, weights, 1.0).float()


class ReweightedLoss(GroupLoss):
    """Mean over the batch of weight x loss of each case; cases of unknown group have weight 1.

    Args:
        loss_function: the plain loss.
        counts: training cases per group (G,), or per group and class (G, C), which needs targets that are class
            indices.

    Raises:
        ValueError: counts of another shape, or as for :func:`inverse_frequency`.
    """

    weights: Tensor

    def __init__(self, loss_function: LossFunction, counts: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> None:
        table = torch.as_tensor(counts)
        if table.ndim not in {1, 2}:
            msg = f"`counts` must be (G,) or (G, C), but got shape {tuple(table.shape)}"
            raise ValueError(msg)
        super().__init__(loss_function, len(table))
        self.register_buffer("weights", inverse_frequency(table), persistent=False)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Weighted mean.

        Raises:
            ValueError: weights per group and class, but targets that are no class indices (B,).
        """
        losses = per_case(self.loss_function, pred, target)
        return batch_mean(losses * self.case_weights(target, codes).to(losses))

    def case_weights(self, target: Tensor, codes: Tensor) -> Tensor:
        """Weights (B,)."""
        known = codes.clamp(min=0)
        if self.weights.ndim == 1:
            found = self.weights[known]
        else:
            if target.ndim != 1 or target.is_floating_point():
                msg = (
                    "weights per group and class need class indices (B,) as target, but got "
                    f"{tuple(target.shape)} {target.dtype}: reweight by group alone"
                )
                raise ValueError(msg)
            found = self.weights[known, target]
        return torch.where(codes >= 0, found, 1.0)
