"""Image files without MONAI: which kind a file is, its grid from the header, and whether it is whole.

Frames used everywhere: array axes are x, y (, z) as in NIfTI, so a picture of W columns and H rows has the shape
(W, H); affines map indices to RAS millimetres. A 2D image has no place in the patient: its affine is
``diag(-sx, -sy, 1, 1)``, the identity of ITK and DICOM (x to the patient's left, y to the back) written in RAS.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Header:
    """Grid of an image file.

    Attributes:
        shape: spatial shape, x first.
        channels: 1 for grey images.
        affine: 4x4, index to RAS in mm; None where the file holds no geometry (pictures).
    """

    shape: tuple[int, ...]
    channels: int
    affine: np.ndarray | None


def kind_of(path: Path) -> str:
    """``nifti``, ``picture``, ``series`` (a folder of DICOM files) or ``itk`` (DICOM, MHA, NRRD and the like)."""
    name = path.name.lower()
    if name.endswith(NIFTI):
        return "nifti"
    if path.is_dir():
        return "series"
    return "picture" if name.endswith(PICTURES) else "itk"


def series_files(folder: Path) -> list[str]:
    """DICOM files of a folder in the order of their position along the slice normal.

    Raises:
        ValueError: no DICOM series in the folder, or more than one.
    """
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    series = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        found = f"{len(series)} DICOM series" if series else "no DICOM series"
        msg = f"expected one DICOM series in the folder, but found {found}; give each series its own folder"
        raise ValueError(msg)
    return list(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))


def itk_affine(image: Any) -> np.ndarray:
    """Index to RAS affine, 4x4, of a SimpleITK image or of a reader that has read its header."""
    dims = image.GetDimension()
    if dims == 2 or image.GetSize()[2] == 1:
        return LPS_TO_RAS @ np.diag([*image.GetSpacing()[:2], 1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(image.GetDirection()).reshape(dims, dims)[:3, :3] * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    return LPS_TO_RAS @ affine


def read_header(path: str | Path) -> Header:
    """Grid of an image file or DICOM folder, from the header alone.

    Raises:
        Exception: whatever the format's library raises for a file that it cannot read.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "nifti":
        import nibabel

        image: Any = nibabel.load(path)
        return Header(tuple(image.shape[:3]), int(np.prod(image.shape[3:], dtype=int)), image.affine)
    if kind == "picture":
        from PIL import Image

        with Image.open(path) as picture:
            return Header(picture.size, len(picture.getbands()), None)
    return _itk_header(path, kind)


def _itk_header(path: Path, kind: str) -> Header:
    import SimpleITK

    files = series_files(path) if kind == "series" else [str(path)]
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(files[0])
    with _plain_errors():
        reader.ReadImageInformation()
    size = list(reader.GetSize())
    if kind == "series" and len(files) > 1:
        return Header((size[0], size[1], len(files)), reader.GetNumberOfComponents(), None)
    shape = tuple(size[:2]) if len(size) > 2 and size[2] == 1 else tuple(size)
    return Header(shape, reader.GetNumberOfComponents(), itk_affine(reader) if len(shape) == 3 else None)


def check_whole(path: str | Path) -> None:
    """Raise when a file is cut off or damaged; NIfTI by its size, others by decoding them.

    Raises:
        Exception: with the reason, e.g. ``OSError: image file is truncated``.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "nifti":
        _check_nifti_size(path)
    elif kind == "picture":
        from PIL import Image

        with Image.open(path) as picture:
            picture.draft("L", (1, 1))  # JPEG: reads the whole file, decodes an eighth of it
            picture.load()
    else:
        read_itk(path)


def mask_values(path: str | Path) -> set[float]:
    """The distinct values of a mask; empty where it cannot be decoded (`check_whole` tells why)."""
    path = Path(path)
    try:
        if kind_of(path) == "nifti":
            import nibabel

            image: Any = nibabel.load(path)
            array = np.asanyarray(image.dataobj)
        elif kind_of(path) == "picture":
            from PIL import Image

            with Image.open(path) as picture:
                array = np.asarray(picture)
        else:
            array = read_itk(path)[0]
    except Exception:  # libraries raise anything on a damaged file
        return set()
    return {float(value) for value in np.unique(array)}


def read_itk(path: Path) -> tuple[np.ndarray, Any]:
    """Decode a file or a folder of one DICOM series with SimpleITK.

    Returns:
        Array with the axes z, y, x (, channel), and the image. ITK applies the DICOM rescale slope and turns
        MONOCHROME1 round, so high values are bright.

    Raises:
        ValueError: not readable, with SimpleITK's reason.
    """
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    with _plain_errors():
        image = SimpleITK.ReadImage(series_files(path) if path.is_dir() else str(path))
    return SimpleITK.GetArrayFromImage(image), image


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn SimpleITK's report of many lines into its last one, which holds the reason."""
    try:
        yield
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].removeprefix("sitk::ERROR: ") if lines else "unknown error"
        raise ValueError(reason) from None  # the report itself names files of SimpleITK's build machine


def _check_nifti_size(path: Path) -> None:
    """Compare the size that the header announces with the file's, or with the length that gzip stores at the end."""
    import nibabel

    image: Any = nibabel.load(path)
    expected = image.dataobj.offset + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
    if path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            file.seek(-4, 2)
            size = struct.unpack("<I", file.read(4))[0]  # length modulo 2**32 of the last gzip member
        expected %= 2**32
    else:
        size = path.stat().st_size
    if size < expected or (path.name.lower().endswith(".gz") and size != expected):
        msg = f"the header announces {expected} bytes, but the file holds {size}: it is cut off or damaged"
        raise ValueError(msg)
