"""Each loss with a small network and a batch, for the properties that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairmedfm_monai.losses import (
    ConstrainedLoss,
    DomainIndependentHead,
    DomainIndependentLoss,
    FEBSLoss,
    GroupDROLoss,
    GroupLayers,
    GroupLayersLoss,
    GroupLoss,
    GroupTurn,
    LAFTRLoss,
    ReweightedLoss,
)
from fairmedfm_monai.losses.groups import LossFunction

GROUPS, CLASSES, FEATURES, WIDTH = 3, 2, 4, 5
SIZES = torch.tensor([40, 9, 23])
TABLE = torch.tensor([[30, 10], [4, 5], [20, 3]])
CODES = (0, 2, 1, 0, -1, 2, 2, 0)
"""Split in the middle, the second half has no case of group 1."""


@dataclass
class Setup:
    network: nn.Module
    loss: GroupLoss
    inputs: Tensor
    target: Tensor
    codes: Tensor

    def rows(self, rows: Sequence[int] | Tensor | slice) -> Setup:
        return Setup(self.network, self.loss, self.inputs[rows], self.target[rows], self.codes[rows])

    def step(self) -> Tensor:
        self.loss.set_codes(self.codes)
        return self.loss(self.network(self.inputs), self.target)

    def outcome(self, steps: int = 3) -> dict[str, Tensor]:
        """Losses of several steps on the same batch, and the gradients of the last."""
        values = [self.step() for _ in range(steps)]
        self.network.zero_grad(), self.loss.zero_grad()
        values[-1].backward()
        gradients = [parameter.grad for parameter in self.network.parameters()]
        audits = [parameter.grad.sum() for parameter in self.loss.parameters()]
        flat = [gradient.flatten() for gradient in gradients]
        return {"values": torch.stack(values).detach(), "gradient": torch.cat(flat), "audit": torch.tensor(audits)}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _network(seed: int, outputs: int = CLASSES) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, outputs))


def _laftr(order: Tensor, base: LossFunction, **options: object) -> LAFTRLoss:
    loss = LAFTRLoss(base, GROUPS, dim=WIDTH, num_labels=CLASSES, hidden=6, strength=0.7, **options)
    last = loss.auditor.layers[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[order]), last.bias.copy_(last.bias[order])
    return loss


def _classes(make: Callable[[Tensor, nn.Module], GroupLoss], *, labels: bool = False) -> Callable[[Tensor], Setup]:
    def build(order: Tensor) -> Setup:
        network = _network(1)
        base = nn.BCEWithLogitsLoss() if labels else nn.CrossEntropyLoss()
        loss = make(order, base)
        if isinstance(loss, LAFTRLoss):
            loss.watch(network[-1])
        shape = (len(CODES), CLASSES) if labels else (len(CODES),)
        target = (normal(*shape, seed=2) > 0).long()
        target = target.double() if labels else target
        return Setup(network, loss, normal(len(CODES), FEATURES, seed=3), target, torch.tensor(CODES))

    return build


def _heads(order: Tensor) -> Setup:
    setup = _classes(lambda _, base: DomainIndependentLoss(base, GROUPS))(order)
    heads = [_network(seed) for seed in range(GROUPS)]
    setup.network = DomainIndependentHead([heads[group] for group in order])
    return setup


def batch_dice(pred: Tensor, target: Tensor) -> Tensor:
    """A loss that mixes the cases of a batch: soft Dice over all of it."""
    truth = nn.functional.one_hot(target[:, 0], pred.shape[1]).movedim(-1, 1)
    p = pred.softmax(1)
    return 1 - ((2 * p * truth).sum((0, 2, 3)) / (p + truth).sum((0, 2, 3))).mean()


class InTurn(nn.Module):
    """Masks of one case after the other, each by the layer of its group."""

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.turn = GroupTurn()
        torch.manual_seed(5)
        self.below = nn.Conv2d(2, 4, 3, padding=1)
        layers = [nn.Conv2d(4, 3, 1) for _ in range(GROUPS)]
        self.layers = GroupLayers([layers[group] for group in order], self.turn)

    def forward(self, images: Tensor) -> Tensor:
        masks = []
        for row, image in enumerate(images.split(1)):
            self.turn.of(row)
            masks.append(self.layers(self.below(image)))
        return torch.cat(masks)


def _in_turn(order: Tensor) -> Setup:
    network = InTurn(order)
    setup = _masks(lambda _, base: GroupLayersLoss(base, GROUPS, network.turn))(order)
    setup.network = network
    return setup


def _laftr_masks(order: Tensor) -> Setup:
    """The auditor reads maps, their mean over the pixels."""
    setup = _masks(lambda order, base: _laftr(order, base, criterion="demographic_parity"))(order)
    setup.network = nn.Sequential(nn.Conv2d(2, WIDTH, 3, padding=1), nn.Tanh(), nn.Conv2d(WIDTH, 3, 1))
    assert isinstance(setup.loss, LAFTRLoss)
    setup.loss.watch(setup.network[-1])
    return setup


def _masks(make: Callable[[Tensor, LossFunction], GroupLoss]) -> Callable[[Tensor], Setup]:
    def build(order: Tensor) -> Setup:
        torch.manual_seed(5)
        network = nn.Conv2d(2, 3, 3, padding=1)
        target = (normal(len(CODES), 1, 6, 6, seed=6).abs() * 2).long().clamp(max=2)
        inputs = normal(len(CODES), 2, 6, 6, seed=7) + target
        return Setup(network, make(order, batch_dice), inputs, target, torch.tensor(CODES))

    return build


SETUPS: dict[str, Callable[[Tensor], Setup]] = {
    "group_dro": _classes(lambda _, base: GroupDROLoss(base, GROUPS, eta=0.5)),
    "group_dro_adjusted": _classes(
        lambda order, base: GroupDROLoss(base, GROUPS, eta=0.5, adjustment=2.0, group_sizes=SIZES[order])
    ),
    "group_dro_labels": _classes(lambda _, base: GroupDROLoss(base, GROUPS, eta=0.5), labels=True),
    "group_dro_masks": _masks(lambda _, base: GroupDROLoss(base, GROUPS, eta=0.5)),
    "reweighting": _classes(lambda order, base: ReweightedLoss(base, SIZES[order])),
    "reweighting_classes": _classes(lambda order, base: ReweightedLoss(base, TABLE[order])),
    "reweighting_labels": _classes(lambda order, base: ReweightedLoss(base, SIZES[order]), labels=True),
    "reweighting_masks": _masks(lambda order, base: ReweightedLoss(base, SIZES[order])),
    "gap_of_loss": _classes(lambda _, base: ConstrainedLoss(base, GROUPS, statistic="loss")),
    "gap_of_loss_masks": _masks(lambda _, base: ConstrainedLoss(base, GROUPS, statistic="loss")),
    "gap_of_selection": _classes(lambda _, base: ConstrainedLoss(base, GROUPS, statistic="demographic_parity")),
    "gap_of_tpr": _classes(lambda _, base: ConstrainedLoss(base, GROUPS, statistic="equal_opportunity", positive=1)),
    "gap_of_odds": _classes(lambda _, base: ConstrainedLoss(base, GROUPS, statistic="equalised_odds", positive=1)),
    "gap_of_odds_labels": _classes(lambda _, base: ConstrainedLoss(base, GROUPS), labels=True),
    "laftr_parity": _classes(lambda order, base: _laftr(order, base, criterion="demographic_parity")),
    "laftr_odds": _classes(_laftr),
    "laftr_odds_labels": _classes(_laftr, labels=True),
    "laftr_opportunity": _classes(
        lambda order, base: _laftr(order, base, criterion="equal_opportunity", positive=1),
    ),
    "laftr_masks": _laftr_masks,
    "domain_independent": _heads,
    "group_layers_masks": _in_turn,
    "febs": _masks(lambda *_: FEBSLoss(GROUPS)),
    "febs_published": _masks(lambda *_: FEBSLoss(GROUPS, published=True)),
}


def setup(name: str, order: Sequence[int] = range(GROUPS)) -> Setup:
    """A setup in which the new group j is what group ``order[j]`` was."""
    order = torch.tensor(list(order))
    made = SETUPS[name](order)
    made.network.double(), made.loss.double()
    inverse = order.argsort()
    made.codes = torch.where(made.codes >= 0, inverse[made.codes.clamp(min=0)], -1)
    return made
