"""Remembering how large a sample is, before samples of different sizes are padded into one batch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


class SampleSized(MapTransform):
    """Put the spatial size (D,) of an image (C, *size) under ``size``.

    Args:
        keys: key of the image.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``size`` to a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            result["size"] = torch.tensor(result[key].shape[1:])
        return result
