"""Objects of a reference mask, from which prompts are drawn: planes, components, depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from fairmedfm_monai.transforms.prompt_masks import tight

# A distance transform takes some 60 bytes per voxel. Objects with more voxels than this in their box (a body in a CT)
# are measured on a lattice of every 2nd, 3rd, ... voxel; slices of up to 2048 x 2048 never are.
LATTICE_LIMIT = 2**22


@dataclass(frozen=True)
class ObjectMask:
    """One object in a plane or a volume of D axes, held as the block around it.

    Attributes:
        mask: bool, true where the object is; the image is background outside of this block.
        start: (D,), index of the block's first voxel in the image.
        shape: (D,), of the image.
        spacing: (D,), what a step along each axis counts for in distances: millimetres, or 1 per pixel.
    """

    mask: np.ndarray
    start: np.ndarray
    shape: tuple[int, ...]
    spacing: np.ndarray

    def part(self, mask: np.ndarray, start: np.ndarray) -> ObjectMask:
        """Another object of the same image, its block cut to what is needed."""
        block, first = tight(mask, start)
        return ObjectMask(np.ascontiguousarray(block), first, self.shape, self.spacing)

    @property
    def box(self) -> np.ndarray:
        """(2, D): first and last index of the object along each axis, both inclusive; the block must be tight."""
        return np.stack([self.start, self.start + self.mask.shape - 1])

    @cached_property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def centroid(self) -> np.ndarray:
        """(D,): centre of gravity, in indices of the image."""
        axes = range(self.mask.ndim)
        counts = [self.mask.sum(axis=tuple(other for other in axes if other != axis)) for axis in axes]
        return np.array([float(count @ np.arange(len(count))) / self.size for count in counts]) + self.start

    @cached_property
    def lattice(self) -> tuple[slice, ...]:
        """The voxels of the block that are measured, one slice per axis: all, or so many that it stays feasible.

        The lattice is as even in `spacing` as it can be and goes through a voxel of the object.
        """
        steps = np.ones(self.mask.ndim, dtype=int)
        while np.prod(-(-np.array(self.mask.shape) // steps)) > LATTICE_LIMIT:
            steps[np.argmin(np.where(steps < self.mask.shape, steps * self.spacing, np.inf))] += 1
        first = np.unravel_index(int(self.mask.argmax()), self.mask.shape)
        return tuple(slice(int(a) % int(step), None, int(step)) for a, step in zip(first, steps, strict=True))

    @cached_property
    def depth(self) -> np.ndarray:
        """Distance of every voxel of `lattice` to the nearest one outside the object, 0 outside; in `spacing`.

        What lies beyond the picture is outside too, but not along an axis of a single voxel, which has no depth.
        """
        block = self.mask[self.lattice]
        widths = [(1, 1) if size > 1 else (0, 0) for size in self.shape]
        if not any(before for before, _ in widths):
            return block.astype(float)
        steps = np.array([span.step for span in self.lattice])
        depth = ndimage.distance_transform_edt(np.pad(block, widths), sampling=steps * self.spacing)
        return depth[tuple(slice(before, before + n) for (before, _), n in zip(widths, block.shape, strict=True))]

    def from_lattice(self, places: np.ndarray) -> np.ndarray:
        """Indices of the image (N, D) of places (N, D) of `lattice`."""
        return places * [span.step for span in self.lattice] + [span.start for span in self.lattice] + self.start

    def voxels(self, ranks: np.ndarray) -> np.ndarray:
        """Indices of the image (N, D) of the voxels with these ranks (N,) among the object's, in C order."""
        return nth_true(self.mask, ranks) + self.start

    def window(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """The mask (bool) of the image from index `lower` to `upper` (D,), both inclusive."""
        result = np.zeros(upper - lower + 1, dtype=bool)
        low, high = np.maximum(lower, self.start), np.minimum(upper + 1, self.start + self.mask.shape)
        if (low < high).all():
            source, target = _slices(low - self.start, high - self.start), _slices(low - lower, high - lower)
            result[target] = self.mask[source]
        return result

    def plane(self, axis: int, index: int) -> ObjectMask:
        """Slice `index` (of the image) along `axis`, as an object of D - 1 axes that counts distances in pixels."""
        mask = self.mask.take(index - self.start[axis], axis=axis)
        shape = tuple(np.delete(self.shape, axis).tolist())
        return ObjectMask(mask, self.start, shape, np.ones(len(shape))).part(mask, np.delete(self.start, axis))

    def areas(self, axis: int) -> np.ndarray:
        """Number of object voxels in each slice of the block along `axis`."""
        return np.count_nonzero(self.mask, axis=tuple(other for other in range(self.mask.ndim) if other != axis))

    def slices(self, axis: int) -> list[int]:
        """Indices of the image of all slices along `axis` that hold the object."""
        return (np.flatnonzero(self.areas(axis)) + self.start[axis]).tolist()

    def key_slice(self, axis: int) -> int:
        """Index of the slice with the largest area along `axis`; of several the one nearest to the centroid."""
        areas = self.areas(axis)
        largest = np.flatnonzero(areas == areas.max()) + self.start[axis]
        return int(largest[np.argmin(np.abs(largest - self.centroid[axis]).round(6))])

    def components(self, least: int) -> tuple[list[ObjectMask], int]:
        """Connected components (touching by faces, edges or corners), largest first.

        Args:
            least: components with fewer voxels are left out, but never the largest one.

        Returns:
            the components and how many were left out.
        """
        numbers, count = ndimage.label(self.mask, structure=np.ones([3] * self.mask.ndim))
        parts = []
        for number, span in enumerate(ndimage.find_objects(numbers, max_label=count), 1):
            parts.append(self.part(numbers[span] == number, self.start + [s.start for s in span]))
        parts.sort(key=lambda part: -part.size)
        kept = parts[:1] + [part for part in parts[1:] if part.size >= least]
        return kept, len(parts) - len(kept)


def nth_true(mask: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Indices (N, D) of the true values with these ranks (N,) in C order, without a list of all of them."""
    rows = mask.reshape(len(mask), -1)
    counts = np.count_nonzero(rows, axis=1)
    ends = np.cumsum(counts)
    chosen = np.searchsorted(ends, ranks, side="right")
    before = ends - counts
    found = [np.flatnonzero(rows[row])[rank - before[row]] for row, rank in zip(chosen, ranks, strict=True)]
    rest = np.unravel_index(np.array(found, dtype=int), mask.shape[1:])
    return np.stack([chosen, *rest], axis=1)


def _slices(low: Sequence[int] | np.ndarray, high: Sequence[int] | np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
