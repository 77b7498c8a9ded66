"""Intensities of MRI, whose units mean nothing by themselves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.bias_field import correct_bias_field
from fairmedfm_monai.transforms.source_values import (
    check_b_max,
    check_percentiles,
    finite_sample,
    image_name,
    scale,
    warn_once,
)
from fairmedfm_monai.transforms.tissue import tissue_threshold

_AIR_HU = -900.0


class MRIIntensityd(MapTransform):
    """Scale MRI to [0, b_max] by percentiles of the whole volume, never of a slice.

    ``out = clip((v - low) / (high - low), 0, 1) * b_max``. ``low`` is the `lower` percentile of all values: air, or the
    darkest tissue where there is no air; ``high`` is the `upper` percentile of the tissue alone (Otsu's threshold), so
    that it depends on the patient and not on how much air is around, which goes with the size of the head or body.
    Percentiles are those of an even sample of a million values in larger volumes. Channels are sequences, each with its
    own scale. Values that are no numbers become 0, as does a constant image.

    Args:
        keys: images (C, H, W) or volumes (C, X, Y, Z).
        lower: percentile of all values that becomes 0.
        upper: percentile of the tissue's values that becomes `b_max`.
        n4: remove the bias field first (:class:`fairmedfm_monai.transforms.N4BiasFieldd`), half a minute for a head of
            1 mm voxels.
        b_max: value of the brightest; the darkest is 0.
        allow_missing_keys: whether absent keys are passed over.

    Raises:
        ValueError: percentiles that do not rise; when called, a channel without finite values.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        lower: float = 0.5,
        upper: float = 99.5,
        n4: bool = False,
        b_max: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper = check_percentiles(lower, upper)
        self.n4, self.b_max = n4, check_b_max(b_max)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of `keys`; other entries stay as they are."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = torch.as_tensor(result[key]).to(torch.float32)
            if self.n4:
                image = correct_bias_field(image)
            result[key] = torch.cat([self._scaled(image[index : index + 1]) for index in range(image.shape[0])])
        return result

    def _scaled(self, channel: torch.Tensor) -> torch.Tensor:
        values = finite_sample(channel)
        if values.min() < _AIR_HU:
            warn_once(
                "hu",
                "%s: values down to %g look like Hounsfield units of CT, not like MRI; is `modality` right?",
                image_name(channel),
                values.min(),
            )
        tissue = values[values > tissue_threshold(values)]
        low = np.percentile(values, self.lower)
        high = np.percentile(tissue if tissue.size else values, self.upper)
        return scale(channel, float(low), float(high), self.b_max)
