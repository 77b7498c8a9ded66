"""Domain-independent training (Wang et al., Towards fairness in visual recognition, CVPR 2020, arXiv:1911.11834): one
head per group on a shared representation.

Classifiers answer with all heads at once (`DomainIndependentHead`). Networks that decode one case at a time answer with
the layers of that case's group alone (`GroupTurn`, `GroupLayers`): their answers, masks, are large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class GroupTurn:
    """Whose turn it is: the group of the case that a network is about to compute.

    Attributes:
        codes: (B,) groups of the batch, -1 = unknown; None = not known.
    """

    codes: Tensor | None = None
    _row = 0

    def of(self, row: int) -> None:
        """It is the turn of this row of the batch."""
        self._row = row

    @property
    def group(self) -> int:
        """Code of the case whose turn it is.

        Raises:
            ValueError: when nobody said which groups the batch has.
        """
        if self.codes is None or self._row >= len(self.codes):
            msg = (
                "the groups of this batch are not known: call set_codes(codes) of the loss before the network (in a "
                "bundle the handler `GroupCodes` does it; the batch needs `attributes`)"
            )
            raise ValueError(msg)
        return int(self.codes[self._row])


class GroupLayers(nn.Module):
    """G layers side by side in the middle of a network that computes one case at a time.

    In training mode a case gets the answer of its own group's layer, one of unknown group the mean of all; in
    evaluation mode all get the mean. The layers of other groups have a gradient of zeros, as in
    :class:`DomainIndependentHead`: no process waits for them.

    Args:
        layers: one per group.
        turn: says which group's turn it is.
    """

    def __init__(self, layers: list[nn.Module], turn: GroupTurn) -> None:
        super().__init__()
        self.heads = nn.ModuleList(layers)
        self.turn = turn

    def forward(self, features: Tensor) -> Tensor:
        """What the layer, or the mean of the layers, makes of the features of one case."""
        answers = torch.stack([layer(features) for layer in self.heads])
        group = self.turn.group if self.training else -1
        return answers.mean(0) if group < 0 else answers[group]


class GroupLayersLoss(GroupLoss):
    """The plain loss of each case, with a network whose :class:`GroupLayers` answer for its own group.

    Args:
        loss_function: the plain loss.
        num_groups: number G of groups.
        turn: what the layers look at; it gets the codes of each batch.
    """

    def __init__(self, loss_function: LossFunction, num_groups: int, turn: GroupTurn) -> None:
        super().__init__(loss_function, num_groups)
        self.turn = turn

    def set_codes(self, codes: Tensor | Sequence[int]) -> None:
        """Groups of the next batch, before the network computes it."""
        super().set_codes(codes)
        self.turn.codes = self.codes

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Mean loss of logits (B, ...); then nobody's turn is known any more."""
        self.turn.codes = None
        return batch_mean(per_case(self.loss_function, pred, target))
