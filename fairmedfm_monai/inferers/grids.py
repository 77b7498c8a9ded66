"""The grid of a preprocessed volume and the grid a model of volumes was trained on: images there, logits back.

Convention: both grids lie in the same space with the same axes, and the outer face of voxel 0 is the same plane in both
(aligned by extent, not by the centres of the corner voxels). A voxel's centre has a whole index, so along each axis

    model index + 0.5 = (volume index + 0.5) * spacing of the volume / spacing of the model.

One matrix maps images, masks and coordinates of prompts; with equal spacings it is the identity and nothing is
interpolated. A window is a box of model voxels at a whole start index, which may reach beyond the volume. The volume is
resampled window by window, never as a whole.

The axes are those of the preprocessed volume, which ``Orientationd`` brought to the model's orientation by flips and
permutations. What is oblique stays so: spacings are the lengths of the affine's columns, and the model sees the volume
along its own axes, as the official pipelines do after their canonical reorientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairmedfm_monai.inferers.crops import MaskCrop

# Planes of a volume that are resampled at a time: bounds the memory, changes no value.
_PLANES = 32


@dataclass(frozen=True)
class Grid:
    """Mapping between a volume and a model's grid.

    Args:
        shape: voxels of the volume.
        scale: model voxels per voxel of the volume, along each axis.
    """

    shape: tuple[int, ...]
    scale: tuple[float, ...]

    @classmethod
    def between(cls, shape: Sequence[int], spacing: Sequence[float], model_spacing: float | None) -> Grid:
        """The grid of a volume for a model.

        Args:
            shape: (3,) voxels of the volume.
            spacing: (3,) mm of the volume, the lengths of its affine's columns.
            model_spacing: mm; None = the volume's own voxels.

        Raises:
            ValueError: a spacing that is not positive and finite.
        """
        own = np.asarray(spacing, dtype=float)
        if own.shape != (3,) or not (np.isfinite(own) & (own > 0)).all():
            msg = (
                f"spacing must hold three positive numbers of mm, got {own.tolist()}; the image has no usable affine: "
                "give the file a header with its voxel sizes"
            )
            raise ValueError(msg)
        scale = own / (own if model_spacing is None else model_spacing)
        return cls(tuple(int(size) for size in shape), tuple(scale.tolist()))

    @property
    def size(self) -> tuple[int, ...]:
        """(3,) model voxels that the volume reaches into: 0 .. size - 1."""
        return tuple(np.ceil((np.array(self.shape) * np.array(self.scale)).round(6)).astype(int).tolist())

    @property
    def matrix(self) -> np.ndarray:
        """(4, 4) homogeneous: voxel-centre indices of the volume -> those of the model's grid."""
        scale = np.array(self.scale)
        matrix = np.diag([*scale, 1.0])
        matrix[:3, 3] = 0.5 * scale - 0.5
        return matrix

    def box(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """(2, 3) first and last model voxel, not whole, over voxels `lower` to `upper`, (3,) each, of the volume."""
        scale = np.array(self.scale)
        return np.stack([lower * scale, (upper + 1) * scale - 1])

    def image(self, volume: Tensor, start: Sequence[int], window: Sequence[int]) -> Tensor:
        """One window of a volume on the model's grid.

        Linear along each axis; where the grid gets coarser the triangle is widened to the new voxel, which is the
        anti-aliased linear filter of ``torch.nn.functional.interpolate``. Beyond the centres of the volume's outermost
        voxels these are continued. Model voxels that lie wholly outside the volume are 0: what SAM-Med3D's and
        FastSAM3D's crop-or-pad fills in before they normalise over voxels > 0.

        Args:
            volume: (1, X, Y, Z), any real dtype.
            start: (3,) model index of the window's first voxel; may be negative.
            window: (3,) model voxels.

        Returns:
            (1, 1, *window), float32.
        """
        filters = [self._filter(axis, start[axis], window[axis], 0, size) for axis, size in enumerate(self.shape)]
        return _resampled(volume[0], filters)[None, None]

    def mask(self, crop: MaskCrop, start: Sequence[int], window: Sequence[int]) -> Tensor:
        """One window (*window) bool of a binary mask of the volume: where it fills at least half of a model voxel.

        By the filter of `image`. If that leaves nothing, because the object is too thin, the nearest voxels are taken.
        """
        ends = zip(crop.start, crop.block.shape, strict=True)
        filters = [
            self._filter(axis, start[axis], window[axis], low, low + size) for axis, (low, size) in enumerate(ends)
        ]
        result = _resampled(torch.from_numpy(crop.block), filters) >= 0.5
        return result if result.any() else self._nearest(crop, start, window)

    def _nearest(self, crop: MaskCrop, start: Sequence[int], window: Sequence[int]) -> Tensor:
        result = torch.zeros(tuple(window), dtype=torch.bool)
        places, indices = [], []
        for axis, size in enumerate(crop.block.shape):
            index = np.floor(self._positions(axis, start[axis], window[axis]) + 0.5).astype(int) - crop.start[axis]
            places.append(np.flatnonzero((index >= 0) & (index < size)))
            indices.append(index[places[-1]])
        result[np.ix_(*places)] = torch.from_numpy(crop.block[np.ix_(*indices)])
        return result

    def inside(self, start: Sequence[int], window: Sequence[int]) -> np.ndarray:
        """(*window) bool: the model voxels that the volume reaches into."""
        first, second, third = (self._inside(axis, start[axis], window[axis]) for axis in range(3))
        return first[:, None, None] & second[:, None] & third

    def region(self, start: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
        """The voxels of the volume whose centre lies in the window's field, from its first face to before its last."""
        slices = []
        for axis, size in enumerate(self.shape):
            # Centre i lies at model index (i + 0.5) * scale - 0.5; the field begins at start - 0.5.
            faces = np.array([start[axis], start[axis] + window[axis]]) / self.scale[axis] - 0.5
            low, high = np.clip(np.ceil(faces.round(9)).astype(int), 0, size).tolist()
            slices.append(slice(low, high))
        return tuple(slices)

    def back(self, logits: Tensor, start: Sequence[int]) -> Tensor:
        """Logits (*window) of a window at the voxels of its `region`, trilinear between the model's voxel centres.

        In the outer half of a window's border voxels their value is continued.
        """
        window = tuple(logits.shape)
        result = logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            for axis, part in enumerate(self.region(start, window)):
                centres = torch.arange(part.start, part.stop, dtype=torch.float64) + 0.5
                weights = _triangle(centres * self.scale[axis] - 0.5 - start[axis], 0, window[axis], 1.0)
                result = torch.tensordot(weights.to(result), result, dims=([1], [axis])).movedim(0, axis)
        return result

    def _positions(self, axis: int, start: int, count: int) -> np.ndarray:
        """Volume indices of the centres of `count` model voxels along an axis."""
        return (np.arange(start, start + count) + 0.5) / self.scale[axis] - 0.5

    def _inside(self, axis: int, start: int, count: int) -> np.ndarray:
        index = np.arange(start, start + count)
        return (index >= 0) & (index < self.size[axis])

    def _filter(self, axis: int, start: int, count: int, first: int, last: int) -> tuple[slice, Tensor]:
        """How a window along an axis is made of the voxels first..last-1 of the volume; others are not looked at.

        Returns:
            the voxels that are needed, counted from `first`, and weights (count, needed); all weights of a model voxel
            sum to 1, or to 0 outside of the volume.
        """
        support = max(1.0, 1.0 / self.scale[axis])
        position = self._positions(axis, start, count)
        ends = np.array([np.floor(position[0] - support), np.ceil(position[-1] + support) + 1])
        low, high = np.clip(ends, 0, self.shape[axis]).astype(int).tolist()
        weights = _triangle(torch.from_numpy(position), low, high, support)
        weights = weights * torch.from_numpy(self._inside(axis, start, count))[:, None]
        begin, end = np.clip([low, high], first, last).tolist()
        return slice(begin - first, end - first), weights[:, begin - low : end - low]


def _resampled(volume: Tensor, filters: Sequence[tuple[slice, Tensor]]) -> Tensor:
    """(X, Y, Z) filtered along its three axes, float32."""
    parts = [part for part, _ in filters]
    first, second, third = (weights.to(volume.device) for _, weights in filters)
    result = torch.zeros((len(first), len(second), len(third)), device=volume.device)
    with torch.autocast(volume.device.type, enabled=False):  # half precision would round Hounsfield units
        for low in range(0, first.shape[1], _PLANES):
            begin = parts[0].start + low
            planes = volume[begin : min(begin + _PLANES, parts[0].stop), parts[1], parts[2]].float()
            result += torch.tensordot(first[:, low : low + len(planes)], second @ (planes @ third.T), dims=1)
    return result


def _triangle(positions: Tensor, low: int, high: int, support: float) -> Tensor:
    """Weights (N, high - low), float32, of voxels low..high-1 at N positions; a row sums to 1, or to 0 out of reach."""
    distance = (torch.arange(low, high, dtype=torch.float64) - positions.double()[:, None]).abs()
    weights = (1 - distance / support).clamp(min=0)
    return (weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)).float()
