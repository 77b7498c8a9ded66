"""Boxes of a volume, as tuples of three slices, and their windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor
from torch.nn import functional as F

Box = tuple[slice, ...]


def foreground(volume: Tensor) -> Box:
    """The smallest box around all voxels > 0 of (1, X, Y, Z); everything where there are none."""
    box = []
    for axis in range(3):
        hits = volume[0].amax(dim=[other for other in range(3) if other != axis]).cpu().numpy() > 0
        places = np.flatnonzero(hits)
        box.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, len(hits)))
    return tuple(box)


def enlarge(box: Box, least: Sequence[int], shape: Sequence[int]) -> Box:
    """A box grown to `least` voxels, on each side by half of what is lacking, and cut to a volume of `shape`."""
    grown = []
    for part, size, full in zip(box, least, shape, strict=True):
        lacking = max(size - (part.stop - part.start), 0)
        grown.append(slice(max(part.start - lacking // 2, 0), min(part.stop + lacking - lacking // 2, full)))
    return tuple(grown)


def around(box: Box, shape: Sequence[int]) -> Iterator[Box]:
    """Boxes that do not overlap and make up everything in a volume of `shape` outside of `box`."""
    rest = [slice(0, size) for size in shape]
    for axis, part in enumerate(box):
        for side in (slice(rest[axis].start, part.start), slice(part.stop, rest[axis].stop)):
            if side.start < side.stop:
                yield tuple(side if other == axis else rest[other] for other in range(3))
        rest[axis] = part


def pick(array: Tensor, indices: Sequence[np.ndarray]) -> Tensor:
    """Elements of (X, Y, Z) at all combinations of indices along the three axes."""
    for axis, places in enumerate(indices):
        array = array.index_select(axis, torch.from_numpy(places).to(array.device))
    return array


@dataclass(frozen=True)
class WindowedBox:
    """A box that is cut into windows, with the padding that makes it at least as big as one.

    Attributes:
        box: of a volume.
        window: (3,) voxels of a window.
        overlap: share of a window that neighbours have in common.
    """

    box: Box
    window: tuple[int, ...]
    overlap: float

    @property
    def before(self) -> tuple[int, ...]:
        """(3,) voxels of padding in front: half of what is lacking, rounded down; the rest is behind."""
        return tuple(n // 2 for n in self._lacking)

    @property
    def _lacking(self) -> list[int]:
        return [max(size - (part.stop - part.start), 0) for part, size in zip(self.box, self.window, strict=True)]

    def pad(self, array: Tensor) -> Tensor:
        """(..., X, Y, Z) of the box with its padding, zeros (or False)."""
        pairs = [(first, lacking - first) for first, lacking in zip(self.before, self._lacking, strict=True)]
        return F.pad(array, [size for pair in reversed(pairs) for size in pair]) if any(self._lacking) else array

    def crop(self, array: Tensor) -> Tensor:
        """Undo `pad` of (X, Y, Z)."""
        parts = zip(self.before, self.box, strict=True)
        return array[tuple(slice(first, first + part.stop - part.start) for first, part in parts)]

    @property
    def windows(self) -> list[Box]:
        """In the padded box, the very ones of ``monai.inferers.sliding_window_inference``."""
        shape = [part.stop - part.start + n for part, n in zip(self.box, self._lacking, strict=True)]
        pairs = zip(self.window, shape, strict=True)
        steps = [size if size == full else max(int(size * (1 - self.overlap)), 1) for size, full in pairs]
        return list(dense_patch_slices(shape, self.window, steps))

    def corner(self, window: Box) -> tuple[int, ...]:
        """Index in the volume of a window's first voxel; may lie in the padding, outside of the box."""
        parts = zip(self.box, self.before, window, strict=True)
        return tuple(part.start - first + place.start for part, first, place in parts)

    def indices(self, window: Box) -> list[np.ndarray]:
        """Along each axis the indices in the volume of a window's voxels, in the padding those of the box's border."""
        parts = zip(self.box, self.corner(window), self.window, strict=True)
        return [np.clip(np.arange(start, start + size), part.start, part.stop - 1) for part, start, size in parts]
