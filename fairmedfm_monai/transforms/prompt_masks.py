"""Masks as run lengths: small enough to travel as JSON text, and how they move to another grid.

``{"shape": [H, W(, D)], "counts": [...]}`` holds the lengths of runs in C order, of zeros and ones in turn, beginning
with zeros (a length of 0 where the first value is one). Two further keys, ``start`` and ``size``, say that the runs
are those of a block of that size at that index and that everything around it is zero. A slice of a volume takes a few
hundred numbers that way instead of one or two per pixel. `decode_mask` reads both forms.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

# Voxels whose places are computed at once when a mask is resampled obliquely: 2**20 take about 50 MB.
_CHUNK = 2**20


class _Runs(TypedDict):
    shape: list[int]
    counts: list[int]


class Rle(_Runs, total=False):
    """Run lengths of a mask, see the module's text."""

    start: list[int]
    size: list[int]


def encode_mask(array: np.ndarray) -> Rle:
    """Run lengths of a mask (any shape, true where it is not 0)."""
    return Rle(shape=list(map(int, array.shape)), counts=_encode(array))


def encode_block(block: np.ndarray, start: Sequence[int] | np.ndarray, shape: Sequence[int]) -> Rle:
    """Run lengths of a mask of `shape` that is zero outside `block`, whose first voxel has the index `start`."""
    return Rle(
        shape=list(map(int, shape)),
        counts=_encode(block),
        start=list(map(int, start)),
        size=list(map(int, block.shape)),
    )


def decode_mask(rle: Rle) -> np.ndarray:
    """The mask (bool) in its full shape; for a volume of slices `decode_plane` is much cheaper.

    Raises:
        ValueError: counts that do not add up, or a block that is not inside the shape.
    """
    block, start = decode_block(rle)
    if list(block.shape) == rle["shape"]:
        return block
    mask = np.zeros(rle["shape"], dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, block.shape, strict=True))] = block
    return mask


def decode_block(rle: Rle) -> tuple[np.ndarray, tuple[int, ...]]:
    """A block (bool) outside of which the mask is zero, and the index of the block's first voxel.

    Raises:
        ValueError: as `decode_mask`.
    """
    shape = rle["shape"]
    size, start = rle.get("size", shape), rle.get("start", [0] * len(shape))
    counts = np.asarray(rle["counts"], dtype=np.int64)
    fits = len(size) == len(start) == len(shape) and all(
        min(a, n) >= 0 and a + n <= total for a, n, total in zip(start, size, shape, strict=True)
    )
    if not fits or (counts < 0).any() or counts.sum() != np.prod(size, dtype=np.int64):
        msg = (
            f"a mask of run lengths must have counts that add up to its size and lie inside its shape, got shape "
            f"{shape}, start {start}, size {size}, {len(counts)} counts with the sum {counts.sum()}"
        )
        raise ValueError(msg)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size), tuple(start)


def decode_plane(rle: Rle, *, axis: int, index: int) -> np.ndarray:
    """Slice `index` along `axis` of the mask, (H, W) bool, without unpacking the whole volume."""
    block, start = decode_block(rle)
    axis %= len(start)
    plane = np.zeros([n for a, n in enumerate(rle["shape"]) if a != axis], dtype=bool)
    if 0 <= index - start[axis] < block.shape[axis]:
        inside = block.take(index - start[axis], axis=axis)
        corner = [a for dim, a in enumerate(start) if dim != axis]
        plane[tuple(slice(a, a + n) for a, n in zip(corner, inside.shape, strict=True))] = inside
    return plane


def planes_of(rle: Rle, *, axis: int) -> list[int]:
    """Indices along `axis` of the slices that hold anything."""
    block, start = decode_block(rle)
    axis %= len(start)
    others = tuple(dim for dim in range(block.ndim) if dim != axis)
    return (np.flatnonzero(block.any(axis=others)) + start[axis]).tolist()


def tight(mask: np.ndarray, start: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the empty margin of a mask; the rest (a view) and the index of its first voxel, (D,).

    An empty mask becomes a block of no voxels.
    """
    spans = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(dim for dim in range(mask.ndim) if dim != axis)))
        spans.append(slice(int(hits[0]), int(hits[-1]) + 1) if len(hits) else slice(0, 0))
    return mask[tuple(spans)], np.asarray(start) + [span.start for span in spans]


def map_mask(rle: Rle, matrix: np.ndarray, shape: Sequence[int]) -> Rle:
    """Move a mask to another grid: a new voxel gets the value of the old voxel that its centre lies in.

    Exact under flips, permutations and crops. A mask so thin that no new voxel's centre lies in it is not lost: the
    new voxels that hold the centres of its old ones are taken. What lies outside the new grid is cut off.

    Args:
        rle: in the old grid.
        matrix: (4, 4), old homogeneous voxel indices -> new ones.
        shape: of the new grid, (H, W) or (H, W, D).
    """
    if list(shape) == rle["shape"] and np.allclose(matrix, np.eye(4), rtol=0, atol=1e-6):
        return rle
    dims = len(shape)
    block, start = decode_block(rle)
    block, first = tight(block, start)
    linear, offset = matrix[:dims, :dims], matrix[:dims, 3]
    window = _window(first, block.shape, linear, offset, np.asarray(shape))
    mapped = _pull(block, first, linear, offset, window)
    if block.any() and not mapped.any():
        mapped = _push(block, first, linear, offset, window)
    mapped, corner = tight(mapped, window[0])
    return encode_block(mapped, corner.tolist() if mapped.size else [0] * dims, shape)


def _window(
    first: np.ndarray, size: Sequence[int], linear: np.ndarray, offset: np.ndarray, shape: np.ndarray
) -> np.ndarray:
    """Half-open window (2, D) of the new grid around a block of the old one."""
    ends = np.stack([first - 0.5, first + size - 0.5])
    corners = np.array(list(itertools.product(*ends.T))) @ linear.T + offset
    lower = np.clip(np.floor(corners.min(axis=0)), 0, shape)
    upper = np.clip(np.ceil(corners.max(axis=0)) + 1, lower, shape)
    return np.stack([lower, upper]).astype(int)


def _pull(
    block: np.ndarray, first: np.ndarray, linear: np.ndarray, offset: np.ndarray, window: np.ndarray
) -> np.ndarray:
    """Look up every voxel of `window` in the old block."""
    inverse = np.linalg.inv(linear)
    size = window[1] - window[0]
    # The old index of the window's first voxel, relative to the block.
    origin = inverse @ (window[0] - offset) - first
    if _is_separable(inverse):
        return _pull_separable(block, inverse, origin, size)
    mapped = np.zeros(size, dtype=bool)
    rows = max(1, int(_CHUNK // max(1, np.prod(size[1:]))))
    for begin in range(0, size[0], rows):
        part = mapped[begin : begin + rows]
        places = np.indices(part.shape).reshape(len(size), -1)
        places[0] += begin
        old = _round(inverse @ places + origin[:, None])
        inside = ((old >= 0) & (old < np.array(block.shape)[:, None])).all(axis=0)
        part.reshape(-1)[inside] = block[tuple(old[:, inside])]
    return mapped


def _is_separable(inverse: np.ndarray) -> bool:
    """Whether every old axis runs along one new axis."""
    return bool(((np.abs(inverse) > 1e-9 * np.abs(inverse).max()).sum(axis=1) == 1).all())


def _pull_separable(block: np.ndarray, inverse: np.ndarray, origin: np.ndarray, size: np.ndarray) -> np.ndarray:
    mapped = np.zeros(size, dtype=bool)
    new_axes = np.abs(inverse).argmax(axis=1)
    old_places, new_places = [], [np.arange(0)] * len(size)
    for old_axis, new_axis in enumerate(new_axes):
        places = _round(inverse[old_axis, new_axis] * np.arange(size[new_axis]) + origin[old_axis])
        inside = np.flatnonzero((places >= 0) & (places < block.shape[old_axis]))
        new_places[new_axis] = inside
        old_places.append(places[inside])
    found = block[np.ix_(*old_places)]
    mapped[np.ix_(*new_places)] = found.transpose(np.argsort(new_axes))
    return mapped


def _push(
    block: np.ndarray, first: np.ndarray, linear: np.ndarray, offset: np.ndarray, window: np.ndarray
) -> np.ndarray:
    """Mark the voxels of `window` that hold the centre of a voxel of the block."""
    mapped = np.zeros(window[1] - window[0], dtype=bool)
    new = _round((np.argwhere(block) + first) @ linear.T + offset) - window[0]
    inside = ((new >= 0) & (new < mapped.shape)).all(axis=1)
    mapped[tuple(new[inside].T)] = True
    return mapped


def _round(places: np.ndarray) -> np.ndarray:
    """Nearest index; the rounding to 1e-4 voxels undoes the errors of inverted affines, halves then go up."""
    return np.floor(places.round(4) + 0.5).astype(int)


def _encode(array: np.ndarray) -> list[int]:
    flat = np.ascontiguousarray(array).reshape(-1).astype(bool, copy=False)
    if not flat.size:
        return []
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size).tolist()
    return [0, *counts] if flat[0] else counts
