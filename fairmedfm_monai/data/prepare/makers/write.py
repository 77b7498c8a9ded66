"""Image files with every value as it was, and the same bytes whenever they are made from the same values."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.headers import LPS_TO_RAS

_GZIP_LEVEL = 1  # of CT four times as fast as level 6, and no larger


def write_nifti(array: NDArray[Any], target: Path, *, affine: NDArray[Any] | None = None) -> None:
    """Write values as NIfTI, compressed where the name ends in ``.gz``.

    Types that NIfTI readers agree on stay (8 to 32 bits, float32, float64); half precision becomes float32, booleans
    become 8 bits, 64-bit integers the smallest type that holds them.

    Args:
        array: values, axes x, y (, z). A picture of H rows and W columns comes transposed, as (W, H).
        target: file to write.
        affine: 4x4, index to RAS millimetres; by default that of a picture, ``diag(-1, -1, 1, 1)``.

    Raises:
        ValueError: values that no NIfTI type holds.
    """
    import nibabel

    image = nibabel.Nifti1Image(_nifti_values(array), LPS_TO_RAS if affine is None else affine)
    content = image.to_bytes()
    if target.suffix != ".gz":
        target.write_bytes(content)
        return
    with target.open("wb") as file, gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as stream:
        stream.write(content)


def write_png(array: NDArray[Any], target: Path) -> None:
    """Write a picture as PNG without loss.

    Args:
        array: whole numbers (of any type) from 0 to 255, shape (rows, columns) or (rows, columns, 3); or one channel of
            numbers up to 65535, which becomes a 16-bit file.
        target: file to write.

    Raises:
        ValueError: another shape, or values that PNG cannot hold.
    """
    from PIL import Image

    values = np.asarray(array)
    colour = values.ndim == 3 and values.shape[2] == 3
    if not values.size or not (values.ndim == 2 or colour) or values.dtype.kind not in "biuf":
        msg = f"a picture must be rows x columns (x 3) of numbers, but it is {values.dtype} of shape {values.shape}"
        raise ValueError(msg)
    highest = 255 if colour or values.max() <= 255 else 65535
    # Written as "not all inside": NaN must not pass.
    if not ((values >= 0) & (values <= highest)).all() or (values.dtype.kind == "f" and (values % 1).any()):
        low, high = values.min(), values.max()
        msg = f"a picture must hold whole numbers from 0 to {highest}, but it has {values.dtype} from {low} to {high}"
        raise ValueError(msg)
    depth = np.uint8 if highest == 255 else np.uint16
    Image.fromarray(np.ascontiguousarray(values.astype(depth))).save(target, format="PNG")


def _nifti_values(array: NDArray[Any]) -> NDArray[Any]:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8)
    if kind == "f" and size == 2:
        return array.astype(np.float32)
    if kind in "iu" and size == 8:
        for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.uint32):
            if not array.size or (array.min() >= np.iinfo(dtype).min and array.max() <= np.iinfo(dtype).max):
                return array.astype(dtype)
    elif (kind in "iu" and size <= 4) or (kind == "f" and size <= 8):
        return array.astype(array.dtype.newbyteorder("="))
    msg = f"NIfTI holds no values of type {array.dtype}" + (
        f" from {array.min()} to {array.max()}" if kind in "iu" and array.size else ""
    )
    raise ValueError(msg)
