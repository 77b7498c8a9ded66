"""Intensities of pictures, grey or in colour: by their bit depth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.source_values import check_b_max, check_percentiles, finite_sample, scale, source_max


class PictureIntensityd(MapTransform):
    """Scale fundus and skin photographs, histology, ultrasound, OCT and SLO pictures to [0, b_max]; colours stay.

    ``out = clip(v / source_max, 0, 1) * b_max``, where ``source_max`` is the largest value that the file can hold: 255
    for 8 bits (so ``v / 255`` exactly, as published models saw their pictures), 65535 for 16, ``2**n - 1`` for DICOM of
    n stored bits. A dark picture stays dark: a stretch per picture would hide how exposures differ, and darkness may go
    with a group (pigment, pupil, camera). Grey pictures pass as one channel; values that are no numbers become 0.

    Args:
        keys: pictures (C, H, W) or volumes of them (C, H, W, D), e.g. OCT.
        value_range: values that become 0 and `b_max` instead, in the units of the file: 12 bits in a 16-bit file
            ``(0, 4095)``; a retinal thickness map ``(-2, 350)`` in micrometres.
        stretch: percentiles (lower, upper) of each image that become 0 and `b_max`: one pair for all channels, so that
            hues stay, and for all slices. Off unless asked for; then the same rule holds for every image.
        b_max: value of the brightest; the darkest is 0.
        allow_missing_keys: whether absent keys are passed over.

    Raises:
        ValueError: both `value_range` and `stretch`, or a range that does not rise; when called, see
            :func:`fairmedfm_monai.transforms.source_values.source_max`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        value_range: Sequence[float] | None = None,
        stretch: Sequence[float] | None = None,
        b_max: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if value_range is not None and stretch is not None:
            msg = f"give `value_range` or `stretch`, not both, but got {list(value_range)} and {list(stretch)}"
            raise ValueError(msg)
        if value_range is not None and (len(value_range) != 2 or not value_range[0] < value_range[1]):
            msg = f"`value_range` must be two rising numbers, but got {list(value_range)}"
            raise ValueError(msg)
        if stretch is not None and len(stretch) != 2:
            msg = f"`stretch` must be two percentiles, [lower, upper], but got {list(stretch)}"
            raise ValueError(msg)
        self.value_range = value_range
        self.stretch = stretch if stretch is None else check_percentiles(*stretch)
        self.b_max = check_b_max(b_max)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of `keys`; other entries stay as they are."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = torch.as_tensor(result[key])
            low, high = self._bounds(image)
            result[key] = scale(image, low, high, self.b_max)
        return result

    def _bounds(self, image: torch.Tensor) -> tuple[float, float]:
        if self.value_range is not None:
            return float(self.value_range[0]), float(self.value_range[1])
        if self.stretch is not None:
            low, high = np.percentile(finite_sample(image), self.stretch)
            return float(low), float(high)
        return 0.0, source_max(image)
