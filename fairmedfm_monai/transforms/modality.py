"""The intensity transform of a modality, chosen by the dataset card's word for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from fairmedfm_monai.data.card_checks import MODALITIES
from fairmedfm_monai.transforms.intensity import CTWindowd, XRayIntensityd, window_bounds
from fairmedfm_monai.transforms.mri import MRIIntensityd
from fairmedfm_monai.transforms.picture import PictureIntensityd

STRETCHABLE = ("oct", "slo", "ultrasound")
"""Grey pictures, whose contrast may be stretched; in colour photographs it is what the FM shall see."""


class ModalityIntensityd(MapTransform):
    """Bring an image of any modality to one range, so that one configuration serves them all.

    ``ct``: a window in HU (:class:`CTWindowd`); ``xray``: percentiles and inversion (:class:`XRayIntensityd`); ``mri``:
    percentiles of the tissue (:class:`MRIIntensityd`); ``fundus``, ``dermoscopy``, ``pathology``, ``ultrasound``,
    ``oct``, ``slo``: by bit depth, colours stay (:class:`PictureIntensityd`).

    Args:
        keys: keys of images (C, spatial...).
        modality: one of the nine that a dataset card knows.
        window: CT: a name or ``(centre, width)`` in HU, None for soft tissue. Others: None, or ``(centre, width)`` in
            the units of the file, which then replaces percentiles and bit depth.
        b_max: value of the brightest; the darkest is 0.
        n4: MRI only: remove the bias field first.
        stretch: ultrasound, OCT and SLO only: percentiles of each image that become 0 and `b_max`.

    Raises:
        ValueError: an unknown modality, or an option that is not for it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: str,
        window: str | Sequence[float] | None = None,
        b_max: float = 1.0,
        n4: bool = False,
        stretch: Sequence[float] | None = None,
    ) -> None:
        super().__init__(keys)
        if modality not in MODALITIES:
            msg = f"`modality` must be one of {', '.join(MODALITIES)}, but got {modality!r}"
            raise ValueError(msg)
        if n4 and modality != "mri":
            msg = f"`n4` is for `modality` mri, but got {modality!r}: leave it out"
            raise ValueError(msg)
        if stretch is not None and (modality not in STRETCHABLE or window is not None):
            msg = (
                f"`stretch` is for `modality` {', '.join(STRETCHABLE)} without `window`, but got {modality!r} with "
                f"`window` {window!r}"
            )
            raise ValueError(msg)
        if isinstance(window, str) and modality != "ct":
            msg = (
                f"`window` {window!r} is a name for CT, but `modality` is {modality!r}: leave it out, or give "
                "[centre, width] in the units of the file"
            )
            raise ValueError(msg)
        self.transform = _transform(keys, modality=modality, window=window, b_max=b_max, n4=n4, stretch=stretch)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of every key to [0, ``b_max``]."""
        return self.transform(data)


def _transform(
    keys: KeysCollection,
    *,
    modality: str,
    window: str | Sequence[float] | None,
    b_max: float,
    n4: bool,
    stretch: Sequence[float] | None,
) -> CTWindowd | XRayIntensityd | MRIIntensityd | PictureIntensityd:
    if modality == "ct":
        return CTWindowd(keys, window=window, output_range=(0.0, b_max))
    if window is not None:
        return PictureIntensityd(keys, value_range=window_bounds(window), b_max=b_max)
    if modality == "xray":
        return XRayIntensityd(keys, b_max=b_max)
    if modality == "mri":
        return MRIIntensityd(keys, n4=n4, b_max=b_max)
    return PictureIntensityd(keys, stretch=stretch, b_max=b_max)
