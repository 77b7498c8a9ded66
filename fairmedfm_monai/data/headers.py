"""Image files without MONAI: which kind a file is, its grid from the header, and whether it is whole.

Frames used everywhere: array axes are x, y (, z) as in NIfTI, so a picture of W columns and H rows has the shape
(W, H); affines map indices to RAS millimetres. A 2D image has no place in the patient: its affine is
``diag(-sx, -sy, 1, 1)``, the identity of ITK and DICOM (x to the patient's left, y to the back) written in RAS.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI = (".nii", ".nii.gz")
FORMATS = "PNG, JPEG, BMP, TIFF, DICOM (a file, or a folder of one series), NIfTI, MHA and NRRD"
# What people have in their folders and no reader here opens; anything else is tried.
_ARRAYS = (".npz", ".npy", ".h5", ".hdf5", ".mat", ".pkl", ".pt", ".pth", ".mgz", ".mgh")
_OTHER_PICTURES = (".gif", ".webp", ".svg", ".pdf", ".svs", ".mp4", ".avi", ".mov")
_TEXTS = (".csv", ".tsv", ".txt", ".json", ".xml", ".xlsx")
_PACKED = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".gz")
_FOREIGN = frozenset({*_ARRAYS, *_OTHER_PICTURES, *_TEXTS, *_PACKED})
_BLOCK = 1 << 20  # bytes unpacked at a time
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


def foreign_suffix(name: str) -> str:
    """Suffix of a file that no reader here opens, e.g. ``.npz``; empty for all others."""
    name = name.lower()
    if name.endswith(".nii.gz"):
        return ""
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in _FOREIGN else ""


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
        shape = (size[0], size[1], len(files))
        return Header(shape, reader.GetNumberOfComponents(), _series_affine(reader, files[-1], len(files)))
    shape = tuple(size[:2]) if len(size) > 2 and size[2] == 1 else tuple(size)
    return Header(shape, reader.GetNumberOfComponents(), itk_affine(reader) if len(shape) == 3 else None)


def _series_affine(first: Any, last_file: str, count: int) -> np.ndarray:
    """Index to RAS affine of a series, from the headers of its first and its last file."""
    import SimpleITK

    last = SimpleITK.ImageFileReader()
    last.SetFileName(last_file)
    with _plain_errors():
        last.ReadImageInformation()
    affine = np.eye(4)
    affine[:3, :2] = np.asarray(first.GetDirection()).reshape(3, 3)[:, :2] * first.GetSpacing()[:2]
    affine[:3, 2] = (np.asarray(last.GetOrigin()) - first.GetOrigin()) / (count - 1)
    affine[:3, 3] = first.GetOrigin()
    return LPS_TO_RAS @ affine


def check_whole(path: str | Path) -> None:
    """Raise when a file is cut off or damaged: by decoding it, or by its size where it is not packed (``.nii``).

    Raises:
        Exception: with the reason, e.g. ``OSError: image file is truncated``.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "nifti":
        _check_nifti(path)
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
    slope, intercept = 1.0, 0.0
    try:
        if kind_of(path) == "nifti":
            import nibabel

            image: Any = nibabel.load(path)
            array = np.asanyarray(image.dataobj.get_unscaled())  # scaling would make eight bytes of each voxel
            slope, intercept = image.dataobj.slope, image.dataobj.inter
        elif kind_of(path) == "picture":
            from PIL import Image

            with Image.open(path) as picture:
                array = np.asarray(picture)
        else:
            array = read_itk(path)[0]
    except Exception:  # libraries raise anything on a damaged file
        return set()
    return {float(value * slope + intercept) for value in _distinct(array)}


def _distinct(array: np.ndarray) -> set[Any]:
    """Distinct values, plane by plane in the order of memory: less to sort, and no copy of a volume."""
    if array.ndim < 3:
        return set(np.unique(array).tolist())
    found: set[Any] = set()
    for plane in array.T if array.flags.f_contiguous else array:
        found.update(np.unique(plane).tolist() if plane.any() else [0])
    return found


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


def _check_nifti(path: Path) -> None:
    """Compare the size that the header announces with the file's; a packed one is unpacked, and its checksum tested."""
    import nibabel

    image: Any = nibabel.load(path)
    expected = image.dataobj.offset + int(np.prod(image.shape, dtype=np.int64)) * image.get_data_dtype().itemsize
    try:
        size = _unpacked_size(path) if path.name.lower().endswith(".gz") else path.stat().st_size
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = f"it is cut off or damaged ({error})"
        raise ValueError(msg) from error
    if size < expected:
        msg = f"the header announces {expected} bytes, but the file holds {size}: it is cut off or damaged"
        raise ValueError(msg)


def _unpacked_size(path: Path) -> int:
    size = 0
    with gzip.open(path) as stream:
        while block := stream.read(_BLOCK):
            size += len(block)
    return size
