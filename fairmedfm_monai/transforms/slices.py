"""Slices of volumes for models of pictures."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

VOLUME_NDIM = 4  # (C, X, Y, Z)


class TakeSlicesd(MapTransform):
    """Keep a fixed number of evenly spread slices along the last axis of volumes; pictures pass unchanged.

    The first and the last slice are among them; of volumes with fewer slices some come twice. So all cases have one
    shape, and memory does not grow with the length of a scan.

    Args:
        keys: volumes (C, X, Y, Z), or pictures (C, X, Y).
        number: slices to keep.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, keys: KeysCollection, *, number: int) -> None:
        super().__init__(keys)
        if number < 1:
            msg = f"`number` of slices must be at least 1, but got {number}"
            raise ValueError(msg)
        self.number = int(number)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the slices of every key in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            if image.ndim == VOLUME_NDIM:
                depth = image.shape[-1]
                # A single slice is taken from the middle, not from the end.
                start, stop = (0.0, depth - 1.0) if self.number > 1 else ((depth - 1) / 2, (depth - 1) / 2)
                result[key] = image[..., np.rint(np.linspace(start, stop, self.number)).astype(np.int64)]
        return result


class InPlaned(MapTransform):
    """Apply a transform of pictures to every slice of a volume at once; to pictures as it is.

    The slices of a volume (C, X, Y, Z) take the place of channels meanwhile. Meta data stay those of the input.

    Args:
        keys: volumes (C, X, Y, Z), or pictures (C, X, Y).
        transform: of arrays (channels, X, Y), the same for every channel, such as MONAI's ``Resize``.
    """

    def __init__(self, keys: KeysCollection, *, transform: Callable[[Any], Any]) -> None:
        super().__init__(keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform the slices of every key in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            result[key] = self._slices(image) if image.ndim == VOLUME_NDIM else self.transform(image)
        return result

    def _slices(self, image: Any) -> Any:
        plain = torch.as_tensor(image).as_subclass(torch.Tensor)
        channels, depth = plain.shape[0], plain.shape[-1]
        folded = torch.as_tensor(self.transform(plain.permute(0, 3, 1, 2).flatten(0, 1)))
        moved = folded.as_subclass(torch.Tensor).unflatten(0, (channels, depth)).permute(0, 2, 3, 1)
        return MetaTensor(moved, meta=image.meta) if isinstance(image, MetaTensor) else moved
