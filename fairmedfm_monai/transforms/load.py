"""One reader for all image files of a dataset, for MONAI's own `LoadImaged`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader, NibabelReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from fairmedfm_monai.data.headers import LPS_TO_RAS, itk_affine, kind_of, read_itk
from fairmedfm_monai.transforms.source_values import SOURCE_MAX, max_of_dtype

NO_CHANNEL = float("nan")  # MONAI's mark for an array without channel axis
_PNG_SAMPLES = {2: 3, 4: 2, 6: 4}  # per pixel, by colour type
_BITS_STORED, _PHOTOMETRIC = "0028|0101", "0028|0004"


class CaseReader(ImageReader):
    """Read PNG, JPEG, BMP, TIFF, DICOM (file or folder of one series), NIfTI, MHA and whatever else SimpleITK reads.

    For ``LoadImaged(reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True)``. MONAI's own readers
    serve PNG and NIfTI; this one adds TIFF and MHA, DICOM that is compressed, oblique or lies among stray files, and
    drops alpha channels.

    Array axes are x, y (, z) (, channel), as MONAI's ``PILReader`` and ``NibabelReader`` give them: a picture of W
    columns and H rows becomes (W, H). Affines map indices to RAS millimetres; a 2D image has the affine
    ``diag(-sx, -sy, 1, 1)`` with sx, sy the pixel spacing in mm (1 where the file has none), as MONAI's ``ITKReader``
    gives it, so ``Orientationd(axcodes="PLS")`` turns both pictures and volumes into rows x columns as on a screen.
    DICOM values come after the rescale slope, and MONOCHROME1 comes turned round, so that high values are bright. Of a
    header, only what MONAI needs (affine, shape, channel axis, file name) is kept, and the bit depth: ``source_max`` is
    the largest value that the file can hold (255 for 8 bits), NaN for floating, signed and rescaled values.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """True: every file is tried."""
        return True

    def read(self, data: Sequence[Any] | Any, **kwargs: Any) -> list[Path]:
        """Paths only; decoding waits for `get_data`, so that a broken file tells its own reason.

        Were it decoded here, ``LoadImaged`` would try every other reader and report the last one's complaint.
        """
        return [Path(name) for name in ensure_tuple(data)]

    def get_data(self, img: list[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Array and meta of one path; several paths are stacked as channels.

        Raises:
            FileNotFoundError: no such file.
            ValueError: several files of different shape, or a folder that is not one DICOM series.
            Exception: whatever the format's library raises for a damaged file.
        """
        loaded = [_read(path) for path in img]
        array, meta = loaded[0]
        if len(loaded) > 1:
            arrays = [array for array, _ in loaded]
            if any(other.shape != array.shape for other in arrays):
                msg = f"the files of one case must have one shape, but got {[other.shape for other in arrays]}"
                raise ValueError(msg)
            array = np.stack(arrays, axis=0)
            meta = meta | {MetaKeys.ORIGINAL_CHANNEL_DIM: 0}
        return array, meta


def _read(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    if not path.exists():
        msg = f"{path}: there is no such file"
        raise FileNotFoundError(msg)
    kind = kind_of(path)
    if kind == "nifti":
        return _read_nifti(path)
    if kind == "picture" and not _has_deep_colour(path):
        return _read_picture(path)
    return _read_itk(path)


def _meta(shape: tuple[int, ...], affine: np.ndarray, channel_dim: float, *, source_max: float) -> dict[str, Any]:
    return {
        SOURCE_MAX: source_max,
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPATIAL_SHAPE: np.asarray(shape),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
    }


def _read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    reader = NibabelReader()
    array, header = reader.get_data(reader.read(path))
    shape = tuple(int(size) for size in header[MetaKeys.SPATIAL_SHAPE])
    affine, channel_dim = np.asarray(header[MetaKeys.AFFINE]), header[MetaKeys.ORIGINAL_CHANNEL_DIM]
    return array, _meta(shape, affine, channel_dim, source_max=max_of_dtype(array.dtype))


def _has_deep_colour(path: Path) -> bool:
    """Whether a picture has more than 8 bits per colour, which Pillow would cut without a word.

    Raises:
        ValueError: grey with alpha of more than 8 bits, which neither Pillow nor SimpleITK reads as it is.
    """
    bits = _bits_per_sample(path)
    if len(bits) == 2 and max(bits) > 8:
        msg = f"{path}: grey with alpha of {max(bits)} bits, which is not read in full depth; save it without alpha"
        raise ValueError(msg)
    return len(bits) > 1 and max(bits) > 8


def _bits_per_sample(path: Path) -> tuple[int, ...]:
    """Bit depth of each channel of a PNG or TIFF; of other pictures 8 bits."""
    from PIL import Image

    with path.open("rb") as file:
        head = file.read(26)
    if head.startswith(b"\x89PNG") and len(head) == 26:
        return (head[24],) * _PNG_SAMPLES.get(head[25], 1)  # IHDR: bit depth, colour type
    if not head.startswith((b"II", b"MM")):
        return (8,)
    try:
        with Image.open(path) as picture:
            return tuple(getattr(picture, "tag_v2", {}).get(258, (8,)))  # TIFF BitsPerSample
    except OSError:
        return (16, 16, 16)  # more than Pillow knows: SimpleITK may read it


def _read_picture(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.load()  # np.asarray alone hides that a file is cut off in some versions of Pillow
            array = np.asarray(_plain(picture))
    except Exception as error:  # Pillow raises struct.error, SyntaxError and more on damaged files
        msg = f"the picture is cut off or damaged ({error})"
        raise ValueError(msg) from error
    array = np.swapaxes(array, 0, 1)
    channel_dim = NO_CHANNEL if array.ndim == 2 else -1
    return array, _meta(array.shape[:2], LPS_TO_RAS.copy(), channel_dim, source_max=max_of_dtype(array.dtype))


def _plain(picture: Any) -> Any:
    """Grey or RGB: alpha dropped, colour tables looked up (a grey ramp is its own index), CMYK and YCbCr converted."""
    if picture.mode in ("1", "L", "F", "I", "RGB") or picture.mode.startswith("I;16"):
        return picture
    if picture.mode in ("LA", "La"):
        return picture.convert("L")
    if picture.mode == "P":
        table = np.asarray(picture.getpalette("RGB")).reshape(-1, 3)
        if (table == np.arange(len(table))[:, None]).all():
            return picture.convert("L")
    return picture.convert("RGB")


def _read_itk(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    array, image = read_itk(path)
    dims = image.GetDimension()
    array = np.moveaxis(array, range(dims), range(dims - 1, -1, -1))
    if dims == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
        dims = 2
    if array.ndim > dims and array.shape[-1] == 4:
        array = array[..., :3]  # alpha
    channel_dim = NO_CHANNEL if array.ndim == dims else -1
    meta = _meta(array.shape[:dims], itk_affine(image), channel_dim, source_max=_itk_max(array, image))
    return np.ascontiguousarray(array), meta


def _itk_max(array: np.ndarray, image: Any) -> float:
    """By the sample type, or by DICOM's Bits Stored where they are fewer (those of a colour table are its index's)."""
    full = max_of_dtype(array.dtype)
    tags = {tag: image.GetMetaData(tag) for tag in (_BITS_STORED, _PHOTOMETRIC) if image.HasMetaDataKey(tag)}
    if _BITS_STORED not in tags or tags.get(_PHOTOMETRIC, "").startswith("PALETTE"):
        return full
    return min(full, 2.0 ** int(tags[_BITS_STORED]) - 1)
