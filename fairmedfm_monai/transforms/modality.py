"""The intensity transform of a modality, chosen by the dataset card's word for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from fairmedfm_monai.transforms.intensity import CTWindowd, XRayIntensityd

MODALITIES = ("ct", "xray")


class ModalityIntensityd(MapTransform):
    """Bring an image of any supported modality to one range, so that one configuration serves several modalities.

    ``xray``: percentiles and inversion (:class:`XRayIntensityd`); ``ct``: a window in HU (:class:`CTWindowd`).

    Args:
        keys: keys of images (C, spatial...).
        modality: ``ct`` or ``xray``.
        window: CT only: a name or ``(centre, width)`` in HU, None for soft tissue.
        b_max: value of the brightest; the darkest is 0.

    Raises:
        ValueError: for a modality that has no intensity transform here.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: str,
        window: str | Sequence[float] | None = None,
        b_max: float = 1.0,
    ) -> None:
        super().__init__(keys)
        if modality not in MODALITIES:
            msg = (
                f"`modality` must be one of {', '.join(MODALITIES)}, but got {modality!r}: "
                "replace this transform in the configuration by one for that modality"
            )
            raise ValueError(msg)
        ct = modality == "ct"
        # CT is scaled in one step: a copy of a large volume less.
        self.transform = CTWindowd(keys, window=window, output_range=(0.0, b_max)) if ct else XRayIntensityd(keys)
        self.factor = 1.0 if ct else b_max

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images of every key to [0, ``b_max``]."""
        result = self.transform(data)
        if self.factor != 1.0:
            for key in self.key_iterator(result):
                result[key] = result[key] * self.factor
        return result
