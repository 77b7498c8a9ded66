"""Giving an image the number of channels that a model expects."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

GREY = 1


class MatchChannelsd(MapTransform):
    """Repeat a grey image to the wanted channels, or average colours to grey.

    Args:
        keys: keys of images (C, H, W[, D]).
        channels: wanted number of channels.

    Raises:
        ValueError: for an image whose channels can be neither repeated nor averaged, e.g. 4 for a model of 3.
    """

    def __init__(self, keys: KeysCollection, *, channels: int) -> None:
        super().__init__(keys)
        self.channels = int(channels)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Match the channels of every key."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            have = image.shape[0]
            if have == self.channels:
                continue
            if have == GREY:
                result[key] = image.repeat(self.channels, *([1] * (image.ndim - 1)))
            elif self.channels == GREY:
                result[key] = image.mean(dim=0, keepdim=True)
            else:
                msg = f"image {key!r} has {have} channels, the model takes {self.channels}: convert it to grey or RGB"
                raise ValueError(msg)
        return result
