"""Folders of DICOM files: which series they hold, on what grid these lie, and a series as one NIfTI volume.

Of the headers only geometry and rescaling are used; none of it but the grid gets into the NIfTI file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.data.file_reasons import why_unreadable
from fairmedfm_monai.data.headers import LPS_TO_RAS, read_itk
from fairmedfm_monai.data.prepare.makers.write import write_nifti
from fairmedfm_monai.data.problems import examples

_SUFFIXES = (".dcm", ".dicom", ".ima")  # files of these names must be DICOM; others may be anything
_TAGS = ("SeriesInstanceUID", "SeriesDescription", "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_WHOLE = (np.int16, np.uint16, np.int32, np.uint32)
_VOXEL = 0.1  # part of a voxel that positions may be off the grid: scanners round them


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of a folder.

    Attributes:
        uid: its SeriesInstanceUID.
        modality: as in the headers, e.g. ``CT``; empty where they have none.
        description: likewise.
        files: its images, in the order of their names.
        headers: the header of each, as pydicom reads it; those that `find_series` needs.
    """

    uid: str
    modality: str
    description: str
    files: tuple[Path, ...]
    headers: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the slices of a series lie.

    Attributes:
        files: in the order of their position along the slice normal (row direction x column direction).
        affine: 4x4, index (column, row, slice) to RAS in mm.
    """

    files: tuple[Path, ...]
    affine: NDArray[np.float64]


def series_to_nifti(inputs: Sequence[Path], target: Path, *, uid: str = "") -> None:
    """Maker: a DICOM series as NIfTI, every value after the rescale slope as it is, with the grid of its headers.

    Whole numbers become the first of int16, uint16, int32, uint32 that holds them; others float32 where that holds
    every value exactly, else float64. As everywhere here, GDCM decodes, and MONOCHROME1 is turned round.

    Args:
        inputs: the one folder of DICOM files; subfolders are not looked at.
        target: ``.nii`` or ``.nii.gz``.
        uid: SeriesInstanceUID of the series, where the folder holds several.

    Raises:
        ValueError: see `find_series`, `choose_series` and `grid_of`; or pixels that cannot be decoded.
    """
    grid = grid_of(choose_series(inputs[0], uid=uid))
    slices = [_decode(path) for path in grid.files]
    write_nifti(_narrowed(slices).transpose(2, 1, 0), target, affine=grid.affine)


def find_series(folder: Path) -> list[Series]:
    """The image series in a folder, by UID; files that are no DICOM, and DICOM without image, are passed over.

    Raises:
        ValueError: a file that is named ``.dcm`` and cannot be read.
        OSError: no such folder.
    """
    found: dict[str, list[tuple[Path, Any]]] = {}
    with _unchecked_values():
        for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
            header = _header(path)
            if header is not None and "Rows" in header:
                found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    return [_series(uid, found[uid]) for uid in sorted(found)]


def choose_series(folder: Path, *, uid: str = "") -> Series:
    """The series of a folder that has this UID, or the only one.

    Raises:
        ValueError: no series, several and no `uid`, or none of this `uid`.
    """
    found = find_series(folder)
    chosen = [series for series in found if series.uid == uid] if uid else found
    if len(chosen) == 1:
        return chosen[0]
    listed = examples(
        f"{series.uid} ({len(series.files)} x {series.modality} {series.description})" for series in found
    )
    if not found:
        msg = f"{folder.name}: there is no DICOM image in the folder"
    elif uid:
        msg = f"{folder.name}: `uid` must be a series of the folder, but got {uid}; there are {listed}"
    else:
        msg = f"{folder.name}: expected one DICOM series, but found {len(found)}; choose one by `uid`: {listed}"
    raise ValueError(msg)


def grid_of(series: Series) -> Grid:
    """Sort the slices by position, and check that they make a straight, gapless stack.

    A position may be off the grid by a tenth of a voxel. Slices that are missing at either end of a stack cannot be
    noticed.

    Raises:
        ValueError: with the files: several frames or colours in a file, no position, sizes or orientations that differ,
            two slices at one position, missing slices, uneven spacing, slices shifted against each other (gantry tilt),
            or fewer than two slices.
    """
    _check_alike(series)
    first = series.headers[0]
    directions = np.asarray(first.ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(*directions)
    places = np.asarray([header.ImagePositionPatient for header in series.headers], np.float64)
    order = np.argsort(places @ normal, kind="stable")
    files, places = [series.files[index] for index in order], places[order]
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    spacing = _spacing(files, places @ normal)
    _check_straight(files, places, normal, tolerance=_VOXEL * min(row_spacing, column_spacing))
    affine = np.eye(4)
    # PixelSpacing is between rows, then between columns; the first direction is that of a row, along its columns.
    affine[:3, 0], affine[:3, 1] = directions[0] * column_spacing, directions[1] * row_spacing
    affine[:3, 2], affine[:3, 3] = normal * spacing, places[0]
    return Grid(files=tuple(files), affine=LPS_TO_RAS @ affine)


def _header(path: Path) -> Any:
    """Header of a DICOM file; None of other files."""
    import pydicom

    named = path.name.lower().endswith(_SUFFIXES)
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS, *_PLACE])
    except Exception as error:  # pydicom raises many kinds on damaged files
        if not named:
            return None
        msg = f"{path.name} cannot be read as DICOM: {why_unreadable(path, error)}"
        raise ValueError(msg) from error


@contextmanager
def _unchecked_values() -> Iterator[None]:
    """De-identified files hold UIDs and numbers that the standard does not allow; they matter nothing here."""
    from pydicom import config

    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    try:
        yield
    finally:
        config.settings.reading_validation_mode = before


def _series(uid: str, members: list[tuple[Path, Any]]) -> Series:
    files, headers = zip(*members, strict=True)
    texts = (str(headers[0].get(name, "") or "") for name in ("Modality", "SeriesDescription"))
    modality, description = texts
    return Series(uid=uid, modality=modality, description=description, files=files, headers=headers)


def _check_alike(series: Series) -> None:
    headers = dict(zip((path.name for path in series.files), series.headers, strict=True))
    for name, header in headers.items():
        if int(header.get("NumberOfFrames") or 1) > 1 or int(header.get("SamplesPerPixel") or 1) > 1:
            msg = f"{name} holds several frames or colours; only series of one grey slice per file are converted"
            raise ValueError(msg)
    for tag in _PLACE:
        without = [name for name, header in headers.items() if not header.get(tag)]
        if without:
            msg = (
                f"{len(without)} of {len(headers)} files have no {tag}, so that their place is unknown (scout views?): "
                f"{examples(without)}; move them out of the folder if they are no part of the volume"
            )
            raise ValueError(msg)
    for tag in ("Rows", "Columns", "ImageOrientationPatient", "PixelSpacing"):
        (first, wanted), *others = ((name, header[tag].value) for name, header in headers.items())
        for name, value in others:
            if not np.allclose(np.float64(value), np.float64(wanted), rtol=1e-4, atol=1e-4):
                msg = f"{tag} differs within the series: {first} has {wanted}, {name} has {value}"
                raise ValueError(msg)


def _spacing(files: Sequence[Path], depths: NDArray[np.float64]) -> float:
    """Distance of neighbouring slices in mm.

    Args:
        files: in order of depth, for messages.
        depths: ascending, in mm.
    """
    if len(files) < 2:
        msg = f"{files[0].name} is the only slice of its series, and one slice is no volume"
        raise ValueError(msg)
    gaps = np.diff(depths)
    usual = float(np.median(gaps))
    same = np.flatnonzero(gaps <= _VOXEL * usual)
    if len(same):
        one, other = files[same[0]].name, files[same[0] + 1].name
        msg = (
            f"{len(same)} slices lie where another lies, e.g. {one} and {other}: the folder holds slices twice, or "
            "several phases of one scan"
        )
        raise ValueError(msg)
    even = np.linspace(depths[0], depths[-1], len(depths))
    if np.abs(depths - even).max() <= _VOXEL * usual:
        return float((depths[-1] - depths[0]) / (len(depths) - 1))
    widest = int(np.argmax(gaps))
    missing = np.rint(gaps / usual) - 1
    where = f"between {files[widest].name} and {files[widest + 1].name}"
    if missing.sum() and np.abs(gaps / usual - 1 - missing).max() <= _VOXEL:
        msg = f"{int(missing.sum())} slices are missing, e.g. {int(missing[widest])} {where}: fetch the series again"
    else:
        msg = f"the slices are unevenly spaced, {gaps.min():g} to {gaps.max():g} mm, widest {where}"
    raise ValueError(msg)


def _check_straight(
    files: Sequence[Path], places: NDArray[np.float64], normal: NDArray[np.float64], *, tolerance: float
) -> None:
    shifts = places - places[0]
    shifts -= np.outer(shifts @ normal, normal)
    furthest = float(np.linalg.norm(shifts, axis=1).max())
    if furthest <= tolerance:
        return
    along = abs(float((places[-1] - places[0]) @ normal))
    angle = np.degrees(np.arctan2(np.linalg.norm(shifts[-1]), along))
    msg = (
        f"the slices are shifted against each other by up to {furthest:.3g} mm, from {files[0].name} to "
        f"{files[-1].name} (gantry tilt of {angle:.3g} degrees?); resample the series to a straight grid first"
    )
    raise ValueError(msg)


def _decode(path: Path) -> NDArray[Any]:
    """Pixels of one file, rows x columns, after rescaling.

    Raises:
        ValueError: with the file and the reason.
    """
    try:
        array = read_itk(path)[0]
    except ValueError as error:
        msg = f"{path.name} cannot be decoded: {why_unreadable(path, error)}"
        raise ValueError(msg) from error
    return array[0] if array.ndim > 2 else array


def _narrowed(slices: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Slices as one array in the smallest type that holds every value exactly."""
    volume = np.stack(slices)
    if volume.dtype.kind in "iu" or (np.isfinite(volume).all() and not (volume % 1).any()):
        low, high = volume.min(), volume.max()
        for dtype in _WHOLE:
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return volume.astype(dtype)
    narrow = volume.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(volume.dtype), volume, equal_nan=True) else volume
