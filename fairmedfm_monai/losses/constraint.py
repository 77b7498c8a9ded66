"""Fairness constraint as a penalty: the plain loss plus a differentiable gap between the groups of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.cells import (
    cell_means,
    check_criterion,
    is_exclusive,
    positive_column,
    probabilities,
    truth,
)
from fairmedfm_monai.losses.ddp import union
from fairmedfm_monai.losses.groups import LossFunction, batch_mean, per_case

STATISTICS = {
    "loss": "the groups' mean losses",
    "demographic_parity": "their mean probability of a class (soft selection rate)",
    "equal_opportunity": "the same among cases that have the class (soft true positive rate)",
    "equalised_odds": "the same among cases that have the class, and among those that have not (soft TPR and FPR)",
}


def soft_gap(means: Tensor, present: Tensor) -> Tensor:
    """Largest minus smallest group mean, averaged over the K columns; () and 0 where no column has two groups.

    Args:
        means: (G, K).
        present: (G, K) whether the group has a value; others take no part.
    """
    high = means.masked_fill(~present, -torch.inf).amax(0)
    low = means.masked_fill(~present, torch.inf).amin(0)
    compared = present.sum(0) > 1
    return torch.where(compared, high - low, 0.0).sum() / compared.sum().clamp(min=1)


def soft_rates(
    pred: Tensor, target: Tensor, codes: Tensor, num_groups: int, *, criterion: str, positive: int | None = None
) -> tuple[Tensor, Tensor]:
    """Soft rates (G, K) of a batch, and (G, K) whether a group has any case for them.

    Each class or label stands against the rest; with two classes both columns give the same gaps, except for
    ``equal_opportunity``, where the second column is that of the other class.

    Args:
        pred: (B, C) logits.
        target: (B,) class indices or (B, C) 0/1.
        codes: (B,) int64, -1 = unknown.
        num_groups: G.
        criterion: a key of ``STATISTICS`` other than ``loss``.
        positive: index of the class or label whose rates count; None = all.

    Raises:
        ValueError: other shapes (masks have no such rates), no such class, or exclusive classes and
            ``equal_opportunity`` without ``positive``.
    """
    if criterion == "equal_opportunity" and positive is None and is_exclusive(pred, target):
        msg = "`equal_opportunity` needs `positive`, the index of the class whose true positive rate is to be equal"
        raise ValueError(msg)
    score = positive_column(probabilities(pred, target), positive)
    score, actual, codes = union(score, positive_column(truth(pred, target), positive), codes)
    conditions = {
        "demographic_parity": [torch.ones_like(actual)],
        "equal_opportunity": [actual],
        "equalised_odds": [actual, 1 - actual],
    }[criterion]
    return cell_means(score.repeat(1, len(conditions)), torch.cat(conditions, 1), codes, num_groups)


class ConstrainedLoss(GroupLoss):
    """``mean loss + strength x gap`` between the groups that the batch holds; unknown groups are in the mean only.

    A group that the batch lacks, or that has no case for a rate (one class only), is left out of the gap. Gaps of
    small groups are large by chance alone: take batches with a good number of cases per group.

    Args:
        loss_function: the plain loss.
        num_groups: number G of groups.
        statistic: what is to be equal, a key of ``STATISTICS``; masks know ``loss`` only.
        strength: factor of the gap.
        positive: index of the class or label whose rates count; None = each against the rest.

    Raises:
        ValueError: an unknown statistic or a negative strength.
    """

    def __init__(
        self,
        loss_function: LossFunction,
        num_groups: int,
        *,
        statistic: str = "equalised_odds",
        strength: float = 1.0,
        positive: int | None = None,
    ) -> None:
        super().__init__(loss_function, num_groups)
        check_criterion("statistic", statistic, STATISTICS)
        if strength < 0:
            msg = f"`strength` must not be negative, but got {strength}"
            raise ValueError(msg)
        self.statistic = statistic
        self.strength = strength
        self.positive = positive

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Plain loss and penalty."""
        losses = per_case(self.loss_function, pred, target)
        return batch_mean(losses) + self.strength * self._gap(losses, pred, target, codes)

    def _gap(self, losses: Tensor, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        if self.statistic == "loss":
            values, codes = union(losses[:, None], codes)
            return soft_gap(*cell_means(values, torch.ones_like(values), codes, self.num_groups))
        rates = soft_rates(pred, target, codes, self.num_groups, criterion=self.statistic, positive=self.positive)
        return soft_gap(*rates)
