"""Fair error-bound scaling (Tian et al., FairSeg, ICLR 2024, arXiv:2311.02189): predicted probabilities of a group are
scaled down by how much worse than the best group it is, which raises its Dice loss.

Dice is soft, with squared denominators and over the whole batch:
``1 - (2 sum(p t) + s) / (sum(p^2) + sum(t^2) + s)``, s = 1e-5.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairmedfm_monai.losses.base import GroupLoss
from fairmedfm_monai.losses.ddp import union
from fairmedfm_monai.losses.groups import batch_mean, full_precision, group_sums, per_case

SMOOTH = 1e-5
ACTIVATIONS = ("softmax", "sigmoid")


def dice_terms(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Sums over the pixels (B, C, 3) of p t, p^2 and t^2, of p and t (B, C, ...)."""
    p, t = probabilities.flatten(2), truth.flatten(2)
    return torch.stack([(p * t).sum(-1), p.square().sum(-1), t.square().sum(-1)], -1)


def dice_loss(terms: Tensor) -> Tensor:
    """Soft Dice loss (...) of sums (..., 3)."""
    overlap, predicted, actual = terms.unbind(-1)
    return 1 - (2 * overlap + SMOOTH) / (predicted + actual + SMOOTH)


def group_errors(terms: Tensor, codes: Tensor, num_groups: int) -> Tensor:
    """Error E_g (G,) of each group: its Dice loss summed over the classes; 0 for a group that is absent.

    Args:
        terms: (B, C, 3) of :func:`dice_terms`.
        codes: (B,) int64, -1 = unknown.
        num_groups: G.
    """
    return dice_loss(group_sums(terms, codes, num_groups)).sum(-1)


def scaling(terms: Tensor, codes: Tensor, num_groups: int, *, gamma: float) -> Tensor:
    """Scale (B,) of each case, ``tanh((min E / E_g)^gamma) / tanh(1)``: 1 for the best group and for equal groups.

    The minimum is that of the groups in the batch; cases of unknown group have scale 1. Both errors get the smoothing
    of the Dice loss, so that a group without error does not take the others' gradient away. Without gradient.

    Args:
        terms: (B, C, 3) of :func:`dice_terms`.
        codes: (B,) int64, -1 = unknown.
        num_groups: G.
        gamma: larger = stronger.
    """
    errors = group_errors(terms.detach(), codes, num_groups) + SMOOTH
    absent = group_sums(torch.ones_like(codes), codes, num_groups) == 0
    best = errors.masked_fill(absent, torch.inf).amin()
    scales = (best / errors).pow(gamma).tanh() / math.tanh(1)
    return torch.where(codes >= 0, scales[codes.clamp(min=0)], 1.0)


def published_scaling(terms: Tensor, codes: Tensor, num_groups: int, *, gamma: float) -> Tensor:
    """Scale (B,) of each case, ``tanh((min E / E_g)^gamma)``, as the published code computes it.

    The best group has tanh(1) = 0.762. The minimum is that of all groups, and one that the batch lacks has error 0:
    with a group missing all scales are 0. Unknown (-1) is the last group, whose error is that of its own cases if it
    has any.
    """
    terms = terms.detach()
    errors = group_errors(terms, codes, num_groups)
    if not bool((codes == num_groups - 1).any()):
        errors[-1] = dice_loss(terms[codes < 0].sum(0)).sum()
    scales = (errors.amin() / errors).pow(gamma).tanh()
    return scales[codes]


def scaled_dice(terms: Tensor, scales: Tensor) -> Tensor:
    """Dice loss () of the batch, mean over the classes, with probabilities times a scale (B,) per case."""
    factors = torch.stack([scales, scales.square(), torch.ones_like(scales)], -1)
    return dice_loss((terms * factors[:, None]).sum(0)).mean()


class FEBSLoss(GroupLoss):
    """``lambda_dice x fair Dice + lambda_ce x cross-entropy``; the cross-entropy knows no groups.

    Args:
        num_groups: number G of groups.
        gamma: exponent of the ratio of errors.
        lambda_dice: weight of the Dice loss; 0.8 and 0.2 for SAMed, 0.5 and 0.5 for TransUNet in FairSeg.
        lambda_ce: weight of the cross-entropy.
        activation: ``softmax``: classes exclude each other, background first; ``sigmoid``: each channel by itself,
            with binary cross-entropy.
        published: scale as the published code does (:func:`published_scaling`).

    Raises:
        ValueError: an unknown activation, a negative ``gamma``.
    """

    def __init__(
        self,
        num_groups: int,
        *,
        gamma: float = 1.0,
        lambda_dice: float = 0.8,
        lambda_ce: float = 0.2,
        activation: str = "softmax",
        published: bool = False,
    ) -> None:
        if activation not in ACTIVATIONS:
            msg = f"`activation` must be one of {', '.join(ACTIVATIONS)}, but got {activation!r}"
            raise ValueError(msg)
        if gamma < 0:
            msg = f"`gamma` must not be negative, but got {gamma}"
            raise ValueError(msg)
        super().__init__(nn.CrossEntropyLoss() if activation == "softmax" else nn.BCEWithLogitsLoss(), num_groups)
        self.gamma = gamma
        self.lambda_dice = lambda_dice
        self.lambda_ce = lambda_ce
        self.activation = activation
        self.published = published

    @classmethod
    def in_place_of(cls, loss_function: Any, num_groups: int, **options: Any) -> FEBSLoss:
        """The same mixture as a ``DiceCELoss`` of MONAI.

        Args:
            loss_function: with ``softmax=True`` or ``sigmoid=True``.
            num_groups: number G of groups.
            **options: ``gamma``, ``published``.

        Raises:
            ValueError: another loss.
        """
        dice = getattr(loss_function, "dice", None)
        activation = next((name for name in ACTIVATIONS if getattr(dice, name, False)), None)
        if activation is None or not hasattr(loss_function, "lambda_ce"):
            msg = (
                "fair error-bound scaling is for segmentation with MONAI's DiceCELoss, softmax=True or sigmoid=True, "
                f"but the loss is {loss_function!r}"
            )
            raise ValueError(msg)
        parts = {"lambda_dice": loss_function.lambda_dice, "lambda_ce": loss_function.lambda_ce}
        return cls(num_groups, activation=activation, **parts, **options)

    def compute(self, pred: Tensor, target: Tensor, codes: Tensor) -> Tensor:
        """Loss of mask logits (B, C, ...) and targets (B, C, ...); with softmax also label maps (B, [1,] ...)."""
        logits = full_precision(pred)
        labels, truth = self._labels(logits, target)
        probabilities = logits.softmax(1) if self.activation == "softmax" else logits.sigmoid()
        terms, codes = union(dice_terms(probabilities, truth), codes)
        rule = published_scaling if self.published else scaling
        dice = scaled_dice(terms, rule(terms, codes, self.num_groups, gamma=self.gamma))
        return self.lambda_dice * dice + self.lambda_ce * batch_mean(per_case(self.loss_function, pred, labels))

    def _labels(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What the cross-entropy takes, and 0/1 masks (B, C, ...)."""
        if target.shape == logits.shape:
            return target.to(logits), target.to(logits)
        labels = target[:, 0] if target.ndim == logits.ndim and target.shape[1] == 1 else target
        if self.activation == "sigmoid" or labels.shape != logits[:, 0].shape:
            msg = f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not belong together"
            raise ValueError(msg)
        masks = functional.one_hot(labels.long(), logits.shape[1]).movedim(-1, 1)
        return labels.long(), masks.to(logits)
