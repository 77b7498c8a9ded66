"""The one road of prompts to the inferer: JSON text in the image's meta data."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.prompts import (
    PROMPTS_KEY,
    SOURCE_PROMPTS_KEY,
    Prompt,
    as_image,
    case_name,
    file_affine,
    invert_affine,
    map_prompt,
)


class PromptsToMetad(MapTransform):
    """Map prompts from the image file to the preprocessed image and store them in ``image.meta["prompts"]``.

    The last transform of a preprocessing. It takes ``prompts`` out of the data dict (lists of unequal length break
    collation) and leaves JSON text, which survives collation, devices and arithmetic and is all that MONAI Label, MONAI
    Deploy and a DataLoader hand on to an inferer. Coordinates are mapped by ``inv(affine) @ original_affine``; a box
    stays the smallest box around its voxels, and masks are resampled to the nearest voxel. ``axis`` counts in the
    preprocessed image from the start and stays. The prompts as they were made, in voxel indices of the file, stay
    beside them under ``source_prompts``, for whoever saves them. Without ``prompts`` it does nothing.

    Args:
        keys: key of the image (C, H, W[, D]).
        allow_missing_keys: do nothing for a case without image.
    """

    def __init__(self, keys: KeysCollection = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move ``prompts`` from a copy of `data` to the image's meta data."""
        result = dict(data)
        prompts = result.pop(PROMPTS_KEY, None)
        if prompts is None:
            return result
        for key in self.key_iterator(result):
            image = as_image(result, key)
            affine = to_affine_nd(3, np.asarray(image.affine, dtype=float))
            matrix = invert_affine(affine, where=case_name(result, image)) @ file_affine(image)
            mapped = [map_prompt(prompt, matrix, shape=image.shape[1:]) for prompt in prompts]
            image.meta[PROMPTS_KEY] = json.dumps(mapped)
            image.meta[SOURCE_PROMPTS_KEY] = json.dumps([_without_target(prompt) for prompt in prompts])
        return result


def _without_target(prompt: Prompt) -> dict[str, Any]:
    """The reference mask that correction clicks look at is no part of what was asked."""
    return {key: value for key, value in prompt.items() if key != "target"}
