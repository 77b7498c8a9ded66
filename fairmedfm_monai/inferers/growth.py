"""Where windows of a volume are put: tiles of a known extent, and neighbours into which an object reaches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor

from fairmedfm_monai.inferers.clicks import deepest_point

# Least part of a window that tiles of a known extent share with the next.
_OVERLAP = 0.25


def tiles(lower: np.ndarray, upper: np.ndarray, window: Sequence[int]) -> list[tuple[int, ...]]:
    """First voxels of the windows that cover a known extent, the middle ones first.

    Along an axis where the extent fits, one window is centred on it. Elsewhere as few windows as share at least a
    quarter with their neighbours; what they cover more than the extent lies on both sides alike.

    Args:
        lower: (3,) indices, not necessarily whole, of the extent's first voxel.
        upper: (3,) of its last voxel.
        window: (3,) voxels.
    """
    starts = []
    for low, high, size in zip(lower, upper, window, strict=True):
        room, step = max(high - low + 1 - size, 0.0), size * (1 - _OVERLAP)
        count = math.ceil(room / step) + 1
        first = (low + high - size - (count - 1) * step) / 2 + 1
        starts.append([math.floor(first + number * step) for number in range(count)])
    middle = (lower + upper + 1 - np.array(window)) / 2
    return sorted(itertools.product(*starts), key=lambda start: float(np.abs(np.array(start) - middle).sum()))


def around_points(points: np.ndarray, window: Sequence[int]) -> list[tuple[int, ...]]:
    """First voxels of windows around points (N, 3) of one object, which may reach further than they tell.

    One window centred on all of them where they lie within half a window. Otherwise windows centred on points, in
    their order, until every point lies in the inner half of a window.
    """
    half = np.array(window) / 2
    if (np.ptp(points, axis=0) <= half).all():
        return tiles(points.min(axis=0), points.max(axis=0), window)
    starts, rest = [], points
    while len(rest):
        starts += tiles(rest[0], rest[0], window)
        rest = rest[(np.abs(rest - rest[0]) > half / 2).any(axis=1)]
    return starts


def hanging_together(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts (neighbours share a face) of a mask (bool) that hold one of the seeds (N, 3), indices."""
    regions, _ = ndimage.label(mask)
    voxels = np.clip(np.floor(seeds + 0.5).astype(int), 0, np.array(mask.shape) - 1)
    return np.isin(regions, np.setdiff1d(regions[tuple(voxels.T)], [0]))


@dataclass(frozen=True)
class Crossing:
    """A place where an object leaves a window.

    Attributes:
        shift: (3,) voxels, half a window, to the neighbour that sees where the object goes.
        point: (3,) index, in the window, of the deepest voxel of the piece of the object in the shared half.
        beyond: (M, 3) indices of the voxels just outside the face that the piece touches.
    """

    shift: np.ndarray
    point: np.ndarray
    beyond: np.ndarray


def crossings(mask: np.ndarray, faces: Sequence[tuple[int, int]]) -> Iterator[Crossing]:
    """Where an object leaves its window, for each face and each connected piece of its half of the window.

    Args:
        mask: (X, Y, Z) bool, the object.
        faces: (axis, -1 or 1) of the window's faces beyond which there is something to segment.
    """
    for axis, side in faces:
        if not mask.take(_face(side), axis).any():
            continue
        shift = np.zeros(3, dtype=int)
        shift[axis] = side * (mask.shape[axis] // 2)
        corner = np.maximum(shift, 0)
        upper = np.array(mask.shape) + np.minimum(shift, 0)
        half = mask[tuple(map(slice, corner.tolist(), upper.tolist()))]
        pieces, _ = ndimage.label(half)
        boxes = ndimage.find_objects(pieces)
        outermost = pieces.take(_face(side), axis)
        for piece in np.setdiff1d(outermost, [0]).tolist():
            box = boxes[piece - 1]
            point = corner + deepest_point(pieces[box] == piece) + [part.start for part in box]
            beyond = np.insert(np.argwhere(outermost == piece), axis, mask.shape[axis] if side > 0 else -1, axis=1)
            yield Crossing(shift, point, beyond + np.where(shift == 0, corner, 0))


def _face(side: int) -> int:
    """Index of the outermost plane on a side."""
    return 0 if side < 0 else -1


def shifted(logits: Tensor, shift: Sequence[int], window: Sequence[int]) -> Tensor | None:
    """Low-resolution logits (h, w, d) as the window shifted by `shift` voxels sees them, 0 where nothing is known.

    None where the shift is no whole number of low-resolution voxels.
    """
    moves = [step * size / full for step, size, full in zip(shift, logits.shape, window, strict=True)]
    if any(move != int(move) for move in moves):
        return None
    result = logits.new_zeros(logits.shape)
    here, there = [], []
    for move, size in zip(map(int, moves), logits.shape, strict=True):
        here.append(slice(max(move, 0), size + min(move, 0)))
        there.append(slice(max(-move, 0), size + min(-move, 0)))
    result[tuple(there)] = logits[tuple(here)]
    return result
