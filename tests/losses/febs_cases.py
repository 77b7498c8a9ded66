"""Batches on which the published fair error-bound scaling was recorded, and made again by the test."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tests.networks import parity

CLASSES = 3
SIZE = 12


@dataclass(frozen=True)
class Case:
    codes: tuple[int, ...]
    groups: int
    gamma: float = 1.0
    seed: int = 0


CASES = {
    "two_groups": Case((0, 1, 0, 1, 1), 2),
    "three_groups": Case((2, 0, 1, 0, 2, 1, 1), 3, seed=1),
    "strong": Case((2, 0, 1, 0, 2, 1, 1), 3, gamma=3.0, seed=1),
    "gamma_0": Case((2, 0, 1, 0, 2, 1, 1), 3, gamma=0.0, seed=1),
    "one_group": Case((0, 0, 0), 1, seed=2),
    "absent_group": Case((0, 2, 0, 2), 3, seed=3),
    "unknown_beside_last": Case((0, -1, 1, 1, 0, -1), 2, seed=4),
    "unknown_as_last": Case((0, -1, 1, 1, 0, -1), 3, seed=5),
}


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, 3, S, S) that are better for some cases than for others, label maps (B, S, S) and codes (B,)."""
    shape = (len(case.codes), CLASSES, SIZE, SIZE)
    target = parity.seeded_input((shape[0], SIZE, SIZE), 100 + case.seed, low=0, high=CLASSES).long().clamp(max=2)
    noise = parity.seeded_input(shape, case.seed, low=-2, high=2)
    skill = parity.seeded_input((shape[0], 1, 1, 1), 200 + case.seed, low=0.2, high=3)
    masks = torch.stack([target == label for label in range(CLASSES)], 1)
    return noise + skill * masks, target, torch.tensor(case.codes)
