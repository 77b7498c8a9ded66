"""Group distributionally robust optimisation (Sagawa et al., Distributionally robust neural networks, ICLR 2020,
arXiv:1911.08731).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.groups import LossFunction, group_means, per_case, unknown_last


def updated_weights(weights: Tensor, losses: Tensor, present: Tensor, *, eta: float) -> Tensor:
    """Weights (G,) after one step: ``q_g <- q_g exp(eta L_g)``, then normalised (algorithm 1 of the paper).

    A group that is absent keeps its weight; those that are present share the rest among themselves. Were everything
    normalised together, a rare group would lose weight in every batch without it. With all groups present this is the
    paper's step. Losses that are not finite change nothing: the weights outlive a batch that stops the training.

    Args:
        weights: (G,) q, sums to 1.
        losses: (G,) mean loss of each group in the batch, size adjustment included.
        present: (G,) bool.
        eta: step size.
    """
    grown = (weights.log() + eta * losses).masked_fill(~present, -torch.inf).softmax(0)
    absent = weights.masked_fill(present, 0).sum()
    moved = torch.where(present, grown * (1 - absent), weights)
    return moved if bool(moved.isfinite().all()) else weights


def weighted_groups(means: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Loss () of a batch: ``sum_g q_g L_g`` for the cases of known groups, the plain mean for the others.

    The two parts count by their numbers of cases: a case of group g has the weight ``q_g n_known / n_g``, a case of
    unknown group 1.

    Args:
        means: (G + 1,) mean loss of each group, unknown last.
        counts: (G + 1,) cases of each.
        weights: (G,) q.
    """
    known = counts[:-1].sum() * (weights * means[:-1]).sum()
    return (known + counts[-1] * means[-1]) / counts.sum()


class GroupDROLoss(GroupLoss):
    """Minimise the loss of the worst group: the weights q of the groups grow with their losses.

    q is a buffer: it is in checkpoints and goes on after a resume. It moves in training mode only.

    Args:
        loss_function: the plain loss.
        num_groups: number G of groups.
        eta: step size of q.
        adjustment: C of the size adjustment: q sees ``L_g + C / sqrt(n_g)``, since small groups fit more easily than
            they generalise (equation 5 of the paper).
        group_sizes: (G,) numbers n_g of training cases; needed with ``adjustment``.

    Raises:
        ValueError: a negative ``eta`` or ``adjustment``, missing or other than G sizes.
    """

    q: Tensor
    margin: Tensor

    def __init__(
        self,
        loss_function: LossFunction,
        num_groups: int,
        *,
        eta: float = 0.01,
        adjustment: float = 0.0,
        group_sizes: Sequence[int] | Tensor | None = None,
    ) -> None:
        super().__init__(loss_function, num_groups)
        if min(eta, adjustment) < 0:
            msg = f"`eta` and `adjustment` must not be negative, but got {eta} and {adjustment}"
            raise ValueError(msg)
        self.eta = eta
        self.register_buffer("q", torch.full((num_groups,), 1 / num_groups))
        self.register_buffer("margin", _margin(adjustment, group_sizes, num_groups), persistent=False)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Move q, then weigh the groups' mean losses with it; see :func:`weighted_groups`."""
        losses = per_case(self.loss_function, pred, target)
        means, counts = group_means(losses, unknown_last(codes, self.num_groups), self.num_groups + 1)
        if self.training:
            seen = means[:-1].detach().to(self.q) + self.margin
            self.q.copy_(updated_weights(self.q, seen, counts[:-1] > 0, eta=self.eta))
        return weighted_groups(means, counts, self.q.to(means).clone())


def _margin(adjustment: float, sizes: Sequence[int] | Tensor | None, num_groups: int) -> Tensor:
    if not adjustment:
        return torch.zeros(num_groups)
    if sizes is None or len(sizes) != num_groups:
        given = "none" if sizes is None else f"{len(sizes)}"
        msg = f"`adjustment` needs `group_sizes`, the training cases of each of {num_groups} groups, but got {given}"
        raise ValueError(msg)
    # A group without training cases is in no batch: its margin is never used.
    return adjustment / torch.as_tensor(sizes).float().clamp(min=1).sqrt()
