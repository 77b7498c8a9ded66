"""What a classification bundle needs inside MONAI Label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform


class ForgetSpatialShaped(MapTransform):
    """Empty ``meta["spatial_shape"]``, so that MONAI Label does not resize class scores to the image's grid.

    Its server appends a ``Restored`` to every bundle, which resizes ``pred`` to the shape recorded in the image's meta
    data. Elsewhere this does nothing that anybody reads.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Forget the shape of every key that has meta data."""
        for key in self.key_iterator(dict(data)):
            if hasattr(data[key], "meta"):
                data[key].meta.update(spatial_shape=())
        return dict(data)
