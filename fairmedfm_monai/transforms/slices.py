"""Slices of volumes for models of pictures."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
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
