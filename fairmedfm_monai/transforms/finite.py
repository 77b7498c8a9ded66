"""Images with values that are no numbers."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.prompts import as_image, case_name

logger = logging.getLogger(__name__)


class FiniteValuesd(MapTransform):
    """Replace NaN and infinite values of an image by its lowest finite value, which is the darkest: background.

    One such voxel would turn a normalised image, and everything that a network makes of it, into NaN. How many there
    were is logged with the name of the case. An image without any is handed on as it is. Put it right after loading,
    before intensities are scaled.

    Args:
        keys: keys of loaded images (C, spatial).
        allow_missing_keys: do nothing for a case without image.

    Raises:
        ValueError: no value of the image is finite.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace such values in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = as_image(result, key)
            result[key] = _finite(image, case_name(result, image))
        return result


def _finite(image: MetaTensor, case: str) -> MetaTensor:
    values = image.as_tensor()
    finite = torch.isfinite(values)
    bad = values.numel() - int(finite.sum())
    if not bad:
        return image
    if bad == values.numel():
        msg = f"{case}: none of its {bad} values is finite (all are NaN or infinite); replace or leave out the image"
        raise ValueError(msg)
    lowest = values[finite].min()
    logger.warning(
        "%s: %d of %d values are NaN or infinite; they become the lowest finite value, %g",
        case,
        bad,
        values.numel(),
        lowest.item(),
    )
    return MetaTensor(torch.where(finite, values, lowest)).copy_meta_from(image)
