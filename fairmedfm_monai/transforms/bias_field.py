"""The smooth brightening and darkening of MRI by its coils, estimated and divided out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from fairmedfm_monai.transforms.tissue import tissue_threshold

SHRINK = 4
_LEAST_EDGE = 24  # voxels that an axis keeps when it is shrunk: the field has four control points along it


class N4BiasFieldd(MapTransform):
    """N4 bias field correction of MRI (Tustison et al., IEEE Trans. Med. Imaging 29:1310, 2010), by SimpleITK.

    ``out = v / exp(field)``. The field is estimated on the tissue (above Otsu's threshold and above 0) of an image
    subsampled by `shrink`, and applied at full resolution. On one thread, so that two runs agree to the bit.

    Args:
        keys: images (C, H, W) or volumes (C, X, Y, Z), not negative in the tissue; each channel has its own field.
        shrink: every how many voxels of an axis are used; axes keep at least 24 of theirs.
        allow_missing_keys: whether absent keys are passed over.

    Raises:
        ValueError: `shrink` below 1.
    """

    def __init__(self, keys: KeysCollection, *, shrink: int = SHRINK, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if shrink < 1:
            msg = f"`shrink` must be at least 1, but got {shrink}"
            raise ValueError(msg)
        self.shrink = int(shrink)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Correct the images of `keys`; other entries stay as they are."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = correct_bias_field(torch.as_tensor(result[key]), shrink=self.shrink)
        return result


def correct_bias_field(image: torch.Tensor, *, shrink: int = SHRINK) -> torch.Tensor:
    """An image (C, spatial...) without its bias field, float32; meta data stay. See :class:`N4BiasFieldd`."""
    array = np.asarray(image.detach().cpu(), dtype=np.float32)
    fields = [_field(channel.squeeze(), shrink).reshape(channel.shape) for channel in array]
    corrected = torch.from_numpy(array / np.stack(fields)).to(image.device)
    return MetaTensor(corrected).copy_meta_from(image) if isinstance(image, MetaTensor) else corrected


def _field(values: NDArray[np.float32], shrink: int) -> NDArray[np.float32]:
    """The multiplicative field on the grid of the image; 1 where the image has no tissue to estimate it on."""
    import SimpleITK

    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    tissue = finite > max(tissue_threshold(finite.ravel()), 0.0)
    if values.ndim < 2 or not tissue.any():
        return np.ones_like(values)
    full = SimpleITK.GetImageFromArray(finite)
    steps = [max(min(shrink, size // _LEAST_EDGE), 1) for size in full.GetSize()]
    mask = SimpleITK.GetImageFromArray(tissue.astype(np.uint8))
    n4 = SimpleITK.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfThreads(1)
    n4.Execute(SimpleITK.Shrink(full, steps), SimpleITK.Shrink(mask, steps))
    log_field = SimpleITK.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full))
    return np.exp(log_field).astype(np.float32)
