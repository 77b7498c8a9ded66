"""A volume segmented along all three axes: the majority decides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VOTE = "vote"


def majority(results: Sequence[Tensor], output: str) -> Tensor:
    """What at least two of three say.

    ``logits``: the median of the three, which is positive where at least two are, so that overlaps of labels are still
    decided by the larger logit. ``masks``: 1 where at least two are. ``label_map``: each axis votes for one label per
    voxel, the one with its largest logit; a voxel gets the label that has at least two votes, else 0. There two labels
    cannot tie.

    Args:
        results: three of `Assembly.result`, (channels, X, Y, Z); the first is overwritten.
        output: of the assemblies.

    Returns:
        (channels, X, Y, Z), the memory of the first result.
    """
    first, second, third = results
    for row in range(first.shape[1]):  # piece by piece, so that nothing else of the output's size is needed
        a, b, c = first[:, row], second[:, row], third[:, row]
        if output == "label_map":
            a.copy_(torch.where((a == b) | (a == c), a, torch.where(b == c, b, torch.zeros_like(a))))
        else:
            a.copy_(torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c)))
    return first
