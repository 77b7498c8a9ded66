"""Domain-independent training (Wang et al., Towards fairness in visual recognition, CVPR 2020, arXiv:1911.11834): one
head per group on a shared representation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.groups import LossFunction, batch_mean, per_case


class DomainIndependentHead(nn.Module):
    """G heads side by side.

    In training mode it gives the logits of every head, for :class:`DomainIndependentLoss`; in evaluation mode their
    mean, without knowing the group: as the heads' log-probabilities differ from their logits by a number that is the
    same for all classes, that is the normalised mean of the log-probabilities (the paper's sum, which has the same
    largest class). Of independent labels it is the mean log-odds.

    Args:
        heads: one classifier of features per group, (B, ...) -> (B, C).

    Raises:
        ValueError: without heads.
    """

    def __init__(self, heads: list[nn.Module]) -> None:
        super().__init__()
        if not heads:
            msg = "`heads` must hold one module per group, but is empty"
            raise ValueError(msg)
        self.heads = nn.ModuleList(heads)

    @classmethod
    def of(cls, make_head: Callable[[], nn.Module], num_groups: int) -> DomainIndependentHead:
        """Heads from a function that makes one."""
        return cls([make_head() for _ in range(num_groups)])

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, G, C) in training mode, (B, C) in evaluation mode."""
        logits = torch.stack([head(features) for head in self.heads], 1)
        return logits if self.training else logits.mean(1)


def own_head(pred: Tensor, codes: Tensor) -> Tensor:
    """Logits (B, C) of each case's own group's head, of (B, G, C); of unknown group (-1): the mean of all heads."""
    own = pred[torch.arange(len(pred), device=pred.device), codes.clamp(min=0)]
    return torch.where(codes[:, None] >= 0, own, pred.mean(1))


class DomainIndependentLoss(GroupLoss):
    """The plain loss of each case, with its own group's head."""

    def __init__(self, loss_function: LossFunction, num_groups: int) -> None:
        super().__init__(loss_function, num_groups)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Mean loss of logits (B, G, C).

        Raises:
            ValueError: logits of another shape.
        """
        if pred.ndim != 3 or pred.shape[1] != self.num_groups:
            msg = (
                f"domain-independent training needs logits (B, {self.num_groups}, C), one row per group's head (a "
                f"`DomainIndependentHead` in training mode), but got {tuple(pred.shape)}"
            )
            raise ValueError(msg)
        return batch_mean(per_case(self.loss_function, own_head(pred, codes), target))
