"""The round field of view of fundus photographs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import CropForegroundd


class CropFundusd(CropForegroundd):
    """Crop a fundus photograph to the box around its field of view, and masks with it; MONAI's ``Invertd`` undoes it.

    Not part of any configuration: cameras differ in how much black they leave, but so do published pipelines. To use
    it, put it before the transform of intensities, with ``"keys": ["image", "label"]`` where there are masks. The field
    of view is the largest connected region above `threshold`, so letters in the black corners do not count.

    Args:
        keys: pictures (C, H, W) to crop.
        source_key: the photograph, loaded but not scaled yet.
        threshold: share of the photograph's brightest value above which a pixel (mean of its channels) is not black.
        margin: pixels left around the box.
        allow_missing_keys: whether absent keys are passed over.

    Raises:
        ValueError: a threshold outside [0, 1); when called, a photograph that is black all over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        source_key: str = "image",
        threshold: float = 0.03,
        margin: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        if not 0 <= threshold < 1:
            msg = f"`threshold` must be a share of the brightest value, 0 <= threshold < 1, but got {threshold}"
            raise ValueError(msg)
        select: Callable[[torch.Tensor], torch.Tensor] = partial(field_of_view, threshold=threshold)
        super().__init__(
            keys, source_key, select_fn=select, margin=margin, allow_smaller=True, allow_missing_keys=allow_missing_keys
        )


def field_of_view(image: torch.Tensor, *, threshold: float = 0.03) -> torch.Tensor:
    """Mask (1, H, W) of the largest connected region of a photograph (C, H, W) that is not black.

    Raises:
        ValueError: black all over.
    """
    from scipy import ndimage

    brightness = np.nan_to_num(np.asarray(image, dtype=np.float32)).mean(axis=0)
    regions, number = ndimage.label(brightness > threshold * brightness.max())
    if not number:
        msg = "the photograph is black all over: it has no field of view"
        raise ValueError(msg)
    largest = 1 + int(np.argmax(np.bincount(regions.ravel())[1:]))
    return torch.from_numpy(regions == largest)[None]
