"""Which parts of a case a segmenter is trained on: slices of a volume, or windows around what is labelled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

Cut = tuple[NDArray[Any], NDArray[np.uint8]]
"""One sample: the image (C, *size) and its label map (*size), 0 = background, 1, 2, ... = the labels in their order."""


class SliceCutter:
    """The slices of a volume that hold a label, upright, for models that see slices; an image is one slice.

    Rows are the second in-plane axis and columns the first, as the inferer shows slices to the model. Intensities are
    rounded to 8 bit, the depth that models of slices see.

    Args:
        axis: the axis that numbers the slices of a volume.
        min_pixels: a slice is kept where some label has that many pixels; 0 keeps empty slices too, which a model
            without prompts must learn from.

    Raises:
        ValueError: for an axis that does not exist.
    """

    def __init__(self, *, axis: int = -1, min_pixels: int = 10) -> None:
        if axis not in range(-3, 3):
            msg = f"`axis` must be one axis of a volume, -3 to 2, but got {axis!r}"
            raise ValueError(msg)
        self.axis, self.min_pixels = axis % 3, min_pixels

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> Iterator[Cut]:
        """Cut an image (C, H, W[, D]) in 0..255 with its label map (H, W[, D]); images are cut into (C, rows, columns).

        The order of the slices is that of the axis.
        """
        volume = image.ndim == 4
        pictures = image.movedim(1 + self.axis, 0) if volume else image[None]
        maps = label.movedim(self.axis, 0) if volume else label[None]
        for picture, labelled in zip(pictures, maps, strict=True):
            counts = np.bincount(labelled.numpy().ravel(), minlength=2)[1:]
            if counts.max() >= self.min_pixels:
                upright = picture.transpose(-1, -2).float().clamp(0, 255).round()
                yield upright.to(torch.uint8).numpy(), np.ascontiguousarray(labelled.numpy().T)


class WindowCutter:
    """Windows of a volume around its labels, for models that see volumes.

    A label gets one window centred on its box; where the box is larger than the window, the fewest equally spaced
    windows that cover it. Where a window reaches beyond the volume it holds 0. Of a model that zooms
    (``volume_spec.zoom``) the whole volume, shrunk to one window, is a further sample.

    Args:
        network: a `VolumeSegmenter`; gives the window and prepares the intensities of the whole volume.
        min_voxels: a window is kept where its label has that many voxels in it; 0 adds the windows that tile the whole
            volume, empty or not, which a model without prompts must learn from.
    """

    def __init__(self, network: Any, *, min_voxels: int = 10) -> None:
        self.prepare = network.prepare
        self.window: tuple[int, ...] = tuple(network.volume_spec.window)
        self.zoom = bool(network.volume_spec.zoom)
        self.min_voxels = min_voxels
        # What it does depends on the class of the network, never on its weights.
        self.cache_key = f"{type(network).__qualname__} {self.window} {self.zoom} {min_voxels}"

    def __call__(self, image: torch.Tensor, label: torch.Tensor) -> Iterator[Cut]:
        """Cut a volume (1, X, Y, Z) with its label map (X, Y, Z) on the model's grid into (1, *window)."""
        volume, labelled = self.prepare(image).float().numpy(), label.numpy()
        if self.zoom and labelled.any():
            yield self._shrunk(volume, labelled)
        for start in self._starts(labelled):
            yield _window(volume, start, self.window), _window(labelled[None], start, self.window)[0]

    def _starts(self, labelled: NDArray[np.uint8]) -> list[tuple[int, ...]]:
        starts: dict[tuple[int, ...], None] = {}
        for value, box in enumerate(ndimage.find_objects(labelled), start=1):
            if box is None:
                continue
            for start in _tiles(box, self.window):
                inside = np.count_nonzero(_window(labelled[None], start, self.window) == value)
                if inside >= max(self.min_voxels, 1):
                    starts[start] = None
        if not self.min_voxels:
            starts |= dict.fromkeys(_tiles([slice(0, size) for size in labelled.shape], self.window))
        return list(starts)

    def _shrunk(self, volume: NDArray[Any], labelled: NDArray[np.uint8]) -> Cut:
        image, label = (
            F.interpolate(torch.from_numpy(array).float()[None], self.window, mode="nearest-exact")[0]
            for array in (volume, labelled[None])
        )
        return image.numpy(), label[0].to(torch.uint8).numpy()


def _tiles(box: Sequence[slice], window: Sequence[int]) -> list[tuple[int, ...]]:
    """First voxels of the fewest equally spaced windows that cover `box`; one centred window along a short side."""
    along = []
    for side, size in zip(box, window, strict=True):
        extent = side.stop - side.start
        if extent <= size:
            along.append([math.floor((side.start + side.stop - size) / 2)])
        else:
            steps = math.ceil(extent / size)
            along.append([round(side.start + step * (extent - size) / (steps - 1)) for step in range(steps)])
    return list(itertools.product(*along))


def _window(array: NDArray[Any], start: Sequence[int], window: Sequence[int]) -> NDArray[Any]:
    """The part (C, *window) of (C, X, Y, Z) from `start` on; 0 outside."""
    result = np.zeros((len(array), *window), dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for first, size, limit in zip(start, window, array.shape[1:], strict=True):
        low = max(first, 0)
        high = max(min(first + size, limit), low)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    result[tuple(target)] = array[tuple(source)]
    return result
