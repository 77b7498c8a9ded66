"""Adversarially fair representations (Madras et al., LAFTR, ICML 2018, arXiv:1802.06309): an auditor learns the group
from the representation, and the representation learns to give it nothing to learn from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.cells import (
    CRITERIA,
    cell_means,
    check_criterion,
    is_exclusive,
    positive_column,
    truth,
)
from fairmedfm_monai.losses.ddp import union
from fairmedfm_monai.losses.groups import LossFunction, batch_mean, full_precision, per_case
from fairmedfm_monai.networks.weights import seeded


class Auditor(nn.Module):
    """Guesses the group from a representation, and from the label where the criterion allows for it.

    Args:
        dim: length D of the representation.
        num_groups: G.
        num_labels: number K of classes or labels it sees; 0 = none.
        hidden: width of the hidden layer.
    """

    def __init__(self, dim: int, num_groups: int, *, num_labels: int = 0, hidden: int = 128) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.layers = nn.Sequential(nn.Linear(dim + num_labels, hidden), nn.ReLU(), nn.Linear(hidden, num_groups))

    def forward(self, representation: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, G) of representations (B, D) and 0/1 labels (B, K), which it looks at if it has room for them."""
        seen = [labels.to(representation)] if self.num_labels else []
        return self.layers(torch.cat([representation, *seen], 1))


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(tensor: Tensor, strength: float) -> Tensor:
    """The tensor itself; its gradient times ``-strength`` (Ganin & Lempitsky 2015)."""
    reversed_: Tensor = _Reversal.apply(tensor, strength)
    return reversed_


def audit_loss(logits: Tensor, codes: Tensor, conditions: Tensor) -> Tensor:
    """Mean over the cells (group x condition) of the auditor's mean L1 error ``1 - p(own group)``; 0 without cells.

    Every cell counts alike, however few cases it has. With two groups the error is the paper's ``|h - a|``, and its
    L_adv is ``1 - 2 x`` this for demographic parity, ``2 - 4 x`` this for equalised odds. A constant guess has the loss
    ``1 - 1 / G`` when all cells are there.

    Args:
        logits: (B, G) of the auditor.
        codes: (B,) int64; unknown (-1) is in no cell.
        conditions: (B, K) 0/1.
    """
    own = full_precision(logits).softmax(1).gather(1, codes.clamp(min=0)[:, None])
    means, present = cell_means(1 - own, conditions, codes, logits.shape[1])
    return means.sum() / present.sum().clamp(min=1)


class LAFTRLoss(GroupLoss):
    """Plain loss plus audit loss, whose gradient turns round before the representation.

    One backward pass trains both: the auditor towards knowing the group, everything before it away from that. The
    optimizer must have the parameters of this loss, too. The representation is what the module given to :meth:`watch`
    takes in, usually the head; where nothing before the head trains (a linear probe), watch nothing: then the auditor
    reads the logits (Zhang et al. 2018), and ``dim`` is their number. Where no module is given all cases at once,
    :meth:`read` takes the representation from elsewhere.

    An auditor at chance is no proof that the group is gone: one that starts afresh may well find it (Elazar & Goldberg
    2018). The subgroup report tells what was gained.

    Args:
        loss_function: the plain loss.
        num_groups: number G of groups.
        dim: length D of the representation.
        num_labels: number of classes or labels; unused for ``demographic_parity``.
        criterion: a key of :data:`~fairmedfm_monai.losses.cells.CRITERIA`; the auditor sees the label for all but
            ``demographic_parity``, which is the only one for masks.
        positive: index of the class of ``equal_opportunity``. For independent labels it may be None: all of them.
        strength: factor of the reversed gradient.
        hidden: width of the auditor.
        seed: of its initial weights, which must be the same in all processes.

    Raises:
        ValueError: an unknown criterion, or a negative strength.
    """

    def __init__(
        self,
        loss_function: LossFunction,
        num_groups: int,
        *,
        dim: int,
        num_labels: int,
        criterion: str = "equalised_odds",
        positive: int | None = None,
        strength: float = 1.0,
        hidden: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__(loss_function, num_groups)
        check_criterion("criterion", criterion, CRITERIA)
        if strength < 0:
            msg = f"`strength` must not be negative, but got {strength}"
            raise ValueError(msg)
        self.criterion = criterion
        self.positive = positive
        self.strength = strength
        seen = 0 if criterion == "demographic_parity" else num_labels
        with seeded(seed):
            self.auditor = Auditor(dim, num_groups, num_labels=seen, hidden=hidden)
        self._take: Callable[[], Tensor | None] | None = None
        self._representation: Tensor | None = None

    def read(self, take: Callable[[], Tensor | None]) -> None:
        """Take what ``take`` gives after each batch, (B, D), as the representation; None = there is none."""
        self._take = take

    def watch(self, module: nn.Module) -> RemovableHandle:
        """Take what ``module`` is given, (B, D), from now on as the representation.

        Slices or tokens (B, N, D) and maps (B, D, ...) are averaged.
        """
        self.read(self._take_kept)

        def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if torch.is_grad_enabled():  # validation is none of the loss's business
                self._representation = inputs[0]

        return module.register_forward_pre_hook(keep)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Plain loss and audit loss."""
        plain = batch_mean(per_case(self.loss_function, pred, target))
        labels, conditions = self._cells(pred, target)
        parts = union(self._take_representation(pred), labels, conditions, codes)
        representation, labels, conditions, codes = parts
        guess = self.auditor(reverse_gradient(representation, self.strength), labels)
        return plain + audit_loss(guess, codes, conditions)

    def _cells(self, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (B, K) for the auditor, and conditions (B, K') of the criterion."""
        if self.criterion == "demographic_parity":
            everyone = full_precision(pred).new_ones(len(pred), 1)
            return everyone, everyone
        labels, exclusive = truth(pred, target), is_exclusive(pred, target)
        if self.criterion == "equalised_odds":
            return labels, labels if exclusive else torch.cat([labels, 1 - labels], 1)
        if self.positive is None and exclusive:
            msg = "`equal_opportunity` needs `positive`, the index of the class in which groups are to look alike"
            raise ValueError(msg)
        return labels, positive_column(labels, self.positive)

    def _take_kept(self) -> Tensor | None:
        found, self._representation = self._representation, None
        return found

    def _take_representation(self, pred: Tensor) -> Tensor:
        if self._take is None:
            return pred.flatten(2).mean(2) if pred.ndim > 2 else pred
        found = self._take()
        if found is None or len(found) != len(pred):
            msg = "the module that LAFTR watches was not called with this batch: watch one that the network uses once"
            raise ValueError(msg)
        if torch.is_grad_enabled() and not found.requires_grad:
            msg = (
                "LAFTR cannot change the representation it watches, because nothing before it trains: watch nothing, "
                "then the auditor reads the logits"
            )
            raise ValueError(msg)
        found = found.as_subclass(Tensor)
        if found.ndim == 3:
            return found.mean(1)
        return found.flatten(2).mean(2) if found.ndim > 3 else found
