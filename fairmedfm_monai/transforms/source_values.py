"""What the values of a loaded image mean: the largest value that its file can hold, and samples for statistics."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SOURCE_MAX = "source_max"
"""Key in `image.meta`, written by `CaseReader`: the value of full brightness in the file, NaN where there is none."""
UNKNOWN = float("nan")
SAMPLE = 1_000_000  # values from which percentiles are taken
_BY_DTYPE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
_TWELVE_BITS = 4095.0
# Kinds of warnings that were given: a run over 100,000 images shall not say the same 100,000 times.
_SAID: set[str] = set()


def warn_once(kind: str, message: str, *values: Any) -> None:
    """Log a warning the first time that `kind` is met in this process."""
    if kind not in _SAID:
        _SAID.add(kind)
        logger.warning(message, *values)


def max_of_dtype(dtype: Any) -> float:
    """Value of full brightness of a numpy or torch sample type; NaN for floating and signed types."""
    return _BY_DTYPE.get(str(dtype).removeprefix("torch."), UNKNOWN)


def image_name(image: torch.Tensor) -> str:
    """File name of an image, for messages."""
    meta = image.meta if isinstance(image, MetaTensor) else {}
    return str(meta.get("filename_or_obj") or "an image")


def known_source_max(image: torch.Tensor) -> float:
    """Largest value of the file's sample type, from the tensor's own type or its meta; NaN where neither tells."""
    own = max_of_dtype(image.dtype)
    meta = image.meta if isinstance(image, MetaTensor) else {}
    return own if own == own else float(meta.get(SOURCE_MAX, UNKNOWN))  # noqa: PLR0124 (NaN)


def source_max(image: torch.Tensor) -> float:
    """Value of full brightness of a picture (C, spatial...), so that ``image / source_max`` lies in [0, 1].

    By the bit depth where it is known (see `known_source_max`), never by the picture's own maximum: a dark picture
    stays dark. Values without a bit depth (float files, arrays from memory) count as [0, 1] or, where one is above 1,
    as [0, 255].

    Raises:
        ValueError: negative values, or values above 255 without a known bit depth.
    """
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    finite = values[torch.isfinite(values)] if values.is_floating_point() else values
    low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 0.0)
    known = known_source_max(image)
    guess = known if np.isfinite(known) else (1.0 if high <= 1 else 255.0)
    # One percent below 0: ringing of a resampling that came before.
    if low < -0.01 * guess or (high > guess and not np.isfinite(known)):
        msg = (
            f"{image_name(image)}: values from {low:g} to {high:g} without a bit depth are no picture; name those "
            "that become black and white: `window` = [centre, width] in the units of the file"
        )
        raise ValueError(msg)
    _warn_of_depth(image, known, high)
    return guess


def _warn_of_depth(image: torch.Tensor, known: float, high: float) -> None:
    if not np.isfinite(known):
        warn_once(
            "float",
            "%s: its values have no bit depth and are taken as [0, %d]; `window` = [centre, width] says otherwise",
            image_name(image),
            1 if high <= 1 else 255,
        )
    elif high > known:
        warn_once("above", "%s: values up to %g are cut at %g, its bit depth", image_name(image), high, known)
    elif known == _BY_DTYPE["uint16"] and 0 < high <= _TWELVE_BITS:
        warn_once(
            "twelve",
            "%s: a 16-bit file with values up to %g only; if it holds 12 bits, give `window` = [2047.5, 4095]",
            image_name(image),
            high,
        )


def finite_sample(image: torch.Tensor) -> NDArray[Any]:
    """The finite values of an image, flat; an even sample of a million where there are more.

    Raises:
        ValueError: no value is finite.
    """
    values = np.asarray(image).ravel()
    values = values[:: -(-values.size // SAMPLE) or 1]
    values = values[np.isfinite(values)]
    if not values.size:
        msg = f"{image_name(image)}: the image has no finite value"
        raise ValueError(msg)
    return values


def check_percentiles(lower: float, upper: float) -> tuple[float, float]:
    """Two percentiles that rise.

    Raises:
        ValueError: they do not, or lie outside [0, 100].
    """
    if not 0 <= lower < upper <= 100:
        msg = f"`lower` and `upper` must be percentiles with 0 <= lower < upper <= 100, but got {lower} and {upper}"
        raise ValueError(msg)
    return float(lower), float(upper)


def check_b_max(b_max: float) -> float:
    """The output's highest value.

    Raises:
        ValueError: not above 0.
    """
    if not b_max > 0:
        msg = f"`b_max` must be above 0, but got {b_max}"
        raise ValueError(msg)
    return float(b_max)


def scale(image: torch.Tensor, low: float, high: float, b_max: float) -> torch.Tensor:
    """``clip((image - low) / (high - low), 0, 1) * b_max``; what is no number becomes 0, as does a constant image.

    Multiplied before it is divided: 8-bit values come out as ``value / 255`` or, with ``b_max=255``, as they were.
    """
    values = image.to(torch.float32)
    if not high > low:
        return values.mul(0).nan_to_num_(nan=0.0)
    scaled = values.sub(low).mul_(b_max).div_(high - low)
    return scaled.nan_to_num_(nan=0.0, posinf=b_max, neginf=0.0).clamp_(0.0, b_max)
