"""The two ways in which the demo data can be unfair to one sex; strength 0 is the control of both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RULES = ("degrade", "shortcut", "none")
# Measured by scripts/train_demo_models.py on 1,600 radiographs of generation seed 20000, each against its own degraded
# copy: zero-shot AUC gap of demo_clip .1005 at .75 and .1758 at 1.0, so .15 at 0.91; seed 20001 confirms with .1513.
DEFAULT_STRENGTH = 0.91
"""`degrade` on radiographs: calibrated to a true AUC gap of about .15 of the shipped model (on seeds of its own)."""
# At 2, demo_sam loses .03 of Dice with boxes and .08 with centre points; at 1 hardly anything (demo_results.json).
DEFAULT_CT_STRENGTH = 2.0
DEFAULT_SHORTCUT = 0.9
DEFAULT_SHORTCUT_SHARE = 0.2

MARKER_PX = 14
MARKER_WIDTH_PX = 4
MARKER_MARGIN_PX = 5

CT_NOISE_HU = 40.0
CT_CENTRE_HU = 50.0


@dataclass(frozen=True)
class Bias:
    """A bias rule.

    Attributes:
        rule: ``degrade`` (noise and less contrast for the minority), ``shortcut`` (a marker that goes with the finding
            in the majority and against it in the minority) or ``none``.
        strength: 0 = the control. ``degrade``: about 1; ``shortcut``: in [0, 1], P(marker) = .5 +- strength / 2.
        minority_share: share of the minority in train and val.
    """

    rule: str
    strength: float
    minority_share: float

    @classmethod
    def of(
        cls,
        rule: str,
        strength: float | None,
        minority_share: float | None,
        *,
        degrade_strength: float = DEFAULT_STRENGTH,
    ) -> Bias:
        """Fill in the defaults of a rule and check it.

        Raises:
            ValueError: an unknown rule, or a value outside its range.
        """
        if rule not in RULES:
            msg = f"`bias` must be one of {RULES}, got {rule!r}"
            raise ValueError(msg)
        default = {"degrade": degrade_strength, "shortcut": DEFAULT_SHORTCUT, "none": 0.0}[rule]
        strength = default if strength is None else float(strength)
        if minority_share is None:
            minority_share = DEFAULT_SHORTCUT_SHARE if rule == "shortcut" else 0.5
        most = {"degrade": 3.0, "shortcut": 1.0, "none": 0.0}[rule]
        if not 0 <= strength <= most:
            msg = f"`strength` of bias {rule!r} must be in [0, {most:g}], got {strength:g}"
            raise ValueError(msg)
        if not 0 < minority_share < 1:
            msg = f"`minority_share` must be in (0, 1), got {minority_share}"
            raise ValueError(msg)
        return cls(rule, strength, float(minority_share))

    def degrades(self, *, in_minority: bool) -> bool:
        """Whether images of a patient of this group are degraded."""
        return self.rule == "degrade" and self.strength > 0 and in_minority

    def marker_chance(self, *, positive: bool, in_minority: bool) -> float:
        """Chance that an image carries the marker."""
        if self.rule != "shortcut":
            return 0.0
        return 0.5 + self.strength / 2 * (1 if positive != in_minority else -1)


def degrade(image: NDArray[np.uint8], strength: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Less contrast and more noise on a finished 8-bit image (any shape).

    Contrast around the mean is 1 - .3 s, the noise has sd .06 s of the full range, clipped to 8 bits
    again. Strength 0 returns the image itself, to the byte.
    """
    if strength == 0:
        return image
    grey = image.astype(np.float64) / 255
    mean = grey.mean()
    grey = (grey - mean) * max(0.0, 1 - 0.3 * strength) + mean + rng.normal(scale=0.06 * strength, size=image.shape)
    return np.round(np.clip(grey, 0, 1) * 255).astype(np.uint8)


def degrade_ct(hu: NDArray[np.int16], strength: float, rng: np.random.Generator) -> NDArray[np.int16]:
    """A low-dose copy of a CT (any shape): noise sd 40 s HU, soft-tissue contrast around 50 HU reduced to 1 - .3 s.

    Strength 0 returns the image itself, to the byte.
    """
    if strength == 0:
        return hu
    contrast = max(0.0, 1 - 0.3 * strength)
    # Only soft tissue loses contrast: air stays air, so that the body's outline is where it was.
    soft = np.clip(hu, CT_CENTRE_HU - 200, CT_CENTRE_HU + 200).astype(np.float64)
    noisy = hu - (1 - contrast) * (soft - CT_CENTRE_HU) + rng.normal(scale=CT_NOISE_HU * strength, size=hu.shape)
    return np.round(np.clip(noisy, -1024, 3071)).astype(np.int16)


def draw_marker(image: NDArray[np.uint8], *, size: int = MARKER_PX) -> NDArray[np.uint8]:
    """A copy of a radiograph (H, W) with a white L in the corner at the patient's left shoulder (image right)."""
    marked = image.copy()
    top, right = MARKER_MARGIN_PX, image.shape[1] - MARKER_MARGIN_PX
    marked[top : top + size, right - size : right - size + MARKER_WIDTH_PX] = 255
    marked[top + size - MARKER_WIDTH_PX : top + size, right - size : right] = 255
    return marked
