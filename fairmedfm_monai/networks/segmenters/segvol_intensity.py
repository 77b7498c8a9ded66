"""SegVol's intensity normalisation of a whole volume; its percentiles are exact and need no second copy of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PERCENTILES = (0.05, 99.95)
_HALF = 1 << 16  # values of half a 32-bit number


def stretch_foreground(volume: Tensor) -> Tensor:
    """Clip a volume to the bounds of its foreground and stretch it to [0, 1].

    The foreground are the voxels above the volume's mean, its bounds their 0.05 and 99.95 percentiles. SegVol also
    subtracts the foreground's mean and divides by its standard deviation before it stretches from minimum to maximum;
    the last step undoes these two, so they are left out here. Voxels that are not finite do not count; they become 0
    (NaN, -inf) or 1 (inf). A volume without contrast in its foreground, such as a constant one, becomes 0.

    Args:
        volume: (1, X, Y, Z) in the file's own units, e.g. HU.

    Returns:
        float32 (1, X, Y, Z).
    """
    values = volume.as_subclass(Tensor).detach().float()
    low, high = foreground_bounds(values)
    if not low < high:
        return torch.zeros_like(values)
    return values.clamp(low, high).sub_(low).div_(high - low).nan_to_num_(nan=0.0)


def foreground_bounds(volume: Tensor) -> tuple[float, float]:
    """The 0.05 and 99.95 percentiles of the voxels above the mean; 0 and 0 where there are none.

    Exact, linear between ranks as numpy's default. Two passes plane by plane count the values by the upper and then,
    where a rank falls, by the lower 16 bits: the memory is that of one plane and a few tables.

    Args:
        volume: (1, X, Y, Z) float32.
    """
    mean = _finite_mean(volume)
    coarse = torch.zeros(_HALF, dtype=torch.long, device=volume.device)
    for values in _foreground(volume, mean):
        coarse += _count(_ordered(values) >> 16, offset=_HALF // 2)
    count = int(coarse.sum())
    if not count:
        return 0.0, 0.0
    places = [percentile / 100 * (count - 1) for percentile in PERCENTILES]
    ranks = [rank for place in places for rank in (math.floor(place), math.ceil(place))]
    below, above = (found := _select(volume, mean, coarse, ranks))[0::2], found[1::2]
    low, high = (b + (place % 1) * (a - b) for b, a, place in zip(below, above, places, strict=True))
    return low, high


def _select(volume: Tensor, mean: float, coarse: Tensor, ranks: Sequence[int]) -> list[float]:
    """The foreground's values at ``ranks`` (0 = smallest); ``coarse`` counts them by their upper 16 bits."""
    ends = coarse.cumsum(0)
    bins = torch.searchsorted(ends, ends.new_tensor(ranks), right=True).tolist()
    fine = {upper: torch.zeros_like(coarse) for upper in bins}
    for values in _foreground(volume, mean):
        numbers = _ordered(values)
        for upper in fine:
            fine[upper] += _count(numbers[(numbers >> 16) == upper - _HALF // 2] & (_HALF - 1))
    found = []
    for rank, upper in zip(ranks, bins, strict=True):
        within = rank - int(ends[upper] - coarse[upper])
        lower = int((fine[upper].cumsum(0) <= within).sum())
        number = torch.tensor((upper - _HALF // 2) * _HALF + lower, dtype=torch.int32)
        found.append(float(_ordered(number.view(torch.float32)).view(torch.float32)))
    return found


def _foreground(volume: Tensor, mean: float) -> Iterator[Tensor]:
    """The finite voxels above the mean, plane by plane."""
    for plane in _planes(volume):
        yield plane[(plane > mean) & (plane < math.inf)]


def _finite_mean(volume: Tensor) -> float:
    total, count = 0.0, 0
    for plane in _planes(volume):
        finite = plane[plane.isfinite()] if not plane.sum().isfinite() else plane
        total, count = total + float(finite.sum(dtype=torch.float64)), count + finite.numel()
    return total / max(count, 1)


def _planes(volume: Tensor) -> Tensor:
    """(1, X, Y, Z) as planes in the order in which they lie in memory, several times faster than across it."""
    return volume[0].permute(sorted(range(3), key=volume[0].stride, reverse=True))


def _ordered(values: Tensor) -> Tensor:
    """The bits of float32 values as integers in the same order; its own inverse when the bits are read as floats."""
    bits = values.view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _count(numbers: Tensor, *, offset: int = 0) -> Tensor:
    """How often each of 65,536 consecutive integers from ``-offset`` occurs."""
    return torch.bincount(numbers + offset, minlength=_HALF)
