"""Intensities of X-ray images and CT, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.source_values import (
    check_b_max,
    check_percentiles,
    finite_sample,
    image_name,
    known_source_max,
    warn_once,
)

# Centre and width in HU, the usual reading-room values (Radiopaedia, "Windowing (CT)").
WINDOWS: Mapping[str, tuple[float, float]] = {
    "abdomen": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "liver": (30.0, 150.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft_tissue": (50.0, 400.0),
    "spine": (50.0, 250.0),
    "subdural": (75.0, 215.0),
}
DEFAULT_WINDOW = "soft_tissue"
_GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601
_PHOTOMETRIC = "00280004"  # DICOM tag of the photometric interpretation, as pydicom writes it into JSON
_EIGHT_BITS = 255.0


def window_bounds(window: str | Sequence[float] | None) -> tuple[float, float]:
    """Lowest and highest HU of a window.

    Args:
        window: a name of `WINDOWS`, ``(centre, width)`` in HU, or None for soft tissue.

    Raises:
        ValueError: an unknown name, or a width that is not positive.
    """
    if window is None or isinstance(window, str):
        name = window or DEFAULT_WINDOW
        if name not in WINDOWS:
            msg = f"`window` {name!r} is not known; choose from {', '.join(WINDOWS)} or give [centre, width] in HU"
            raise ValueError(msg)
        centre, width = WINDOWS[name]
    else:
        if len(window) != 2 or not float(window[1]) > 0:
            msg = f"`window` must be [centre, width] in HU with width > 0, but got {list(window)}"
            raise ValueError(msg)
        centre, width = float(window[0]), float(window[1])
    return centre - width / 2, centre + width / 2


class CTWindowd(MapTransform):
    """Cut CT values to a window and scale them linearly.

    ``out = clip((HU - low) / (high - low), 0, 1) * (b - a) + a`` with ``low, high = centre -+ width / 2`` and
    ``a, b = output_range``. Values that are no number (padding of some scanners) count as the lowest.

    Args:
        keys: images of shape (C, spatial...), in HU.
        window: a name of `WINDOWS`, ``(centre, width)`` in HU, or None for soft tissue.
        output_range: values of the window's ends, e.g. ``(0, 255)`` for SAM.
        allow_missing_keys: whether absent keys are passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        window: str | Sequence[float] | None = DEFAULT_WINDOW,
        output_range: Sequence[float] = (0.0, 1.0),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.low, self.high = window_bounds(window)
        if len(output_range) != 2 or not output_range[0] < output_range[1]:
            msg = f"`output_range` must be two rising numbers, but got {list(output_range)}"
            raise ValueError(msg)
        self.output_range = (float(output_range[0]), float(output_range[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Window the images of `keys`; other entries stay as they are."""
        result = dict(data)
        low, high = self.output_range
        for key in self.key_iterator(result):
            image = torch.as_tensor(result[key])
            if known_source_max(image) == _EIGHT_BITS:
                warn_once(
                    "picture",
                    "%s: a file of 8 bits holds the values of a picture, not HU, and is windowed as HU all the same; "
                    "convert it to HU, or name the values: `window` = [127.5, 255] keeps all of them",
                    image_name(image),
                )
            image = image.to(torch.float32)
            # One copy, then in place: a volume of 600 slices takes 600 MB in each step otherwise.
            image = torch.nan_to_num(image, nan=self.low, posinf=self.high, neginf=self.low)
            unit = image.sub_(self.low).div_(self.high - self.low).clamp_(0.0, 1.0)
            result[key] = unit.mul_(high - low).add_(low)
        return result


class XRayIntensityd(MapTransform):
    """Scale a radiograph of any bit depth to [0, b_max], one channel, bone bright.

    ``out = clip((v - p_low) / (p_high - p_low), 0, 1) * b_max`` with percentiles of the finite values (of an even
    sample of a million where there are more), so that burnt-in markers and collimator edges do not set the scale.
    Colour images become grey first. A constant image becomes 0.

    Args:
        keys: images of shape (1 or 3, spatial...).
        lower: percentile that becomes 0.
        upper: percentile that becomes `b_max`.
        invert: True, False, or ``"auto"``: where the meta data say that the values are MONOCHROME1 (low is bright), as
            those of MONAI's ``PydicomReader(prune_metadata=False)`` do. `CaseReader` has turned such images round.
        b_max: value of the brightest; the darkest is 0.
        allow_missing_keys: whether absent keys are passed over.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        lower: float = 0.5,
        upper: float = 99.5,
        invert: bool | str = "auto",
        b_max: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if invert not in (True, False, "auto"):
            msg = f"`invert` must be true, false or 'auto', but got {invert!r}"
            raise ValueError(msg)
        self.lower, self.upper = check_percentiles(lower, upper)
        self.invert, self.b_max = invert, check_b_max(b_max)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of `keys`; other entries stay as they are."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = _one_channel(torch.as_tensor(result[key]).to(torch.float32))
            low, high = self._bounds(image)
            scaled = torch.nan_to_num((image - low) / (high - low), nan=0.0) if high > low else image * 0.0
            scaled = scaled.clamp(0.0, 1.0)
            upright = 1.0 - scaled if self._inverted(image) else scaled
            result[key] = upright * self.b_max if self.b_max != 1.0 else upright
        return result

    def _bounds(self, image: torch.Tensor) -> tuple[float, float]:
        low, high = np.percentile(finite_sample(image), (self.lower, self.upper))
        return float(low), float(high)

    def _inverted(self, image: torch.Tensor) -> bool:
        if self.invert != "auto":
            return bool(self.invert)
        meta = image.meta if isinstance(image, MetaTensor) else {}
        return "MONOCHROME1" in dict(meta.get(_PHOTOMETRIC) or {}).get("Value", ())


def _one_channel(image: torch.Tensor) -> torch.Tensor:
    if image.shape[0] == 1:
        return image
    if image.shape[0] != 3:
        msg = f"a radiograph must have shape (1 or 3, spatial...), but got {tuple(image.shape)}"
        raise ValueError(msg)
    return _GREY[0] * image[0:1] + _GREY[1] * image[1:2] + _GREY[2] * image[2:3]
