"""Colour images with their channels the other way round."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform


class ReverseChannelsd(MapTransform):
    """RGB as BGR, for protocols whose numbers were made with OpenCV's order.

    Args:
        keys: images (C, spatial...); grey ones do not change.
        enabled: False leaves every image as it is, so that a configuration can name the transform and switch it.
    """

    def __init__(self, keys: KeysCollection, *, enabled: bool = True) -> None:
        super().__init__(keys)
        self.enabled = enabled

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reverse the channels of every key in a copy of `data`."""
        result = dict(data)
        if self.enabled:
            for key in self.key_iterator(result):
                result[key] = result[key].flip(0)
        return result
