"""Small DICOM series, written as scanners and anonymisers write them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def write_slice(path: Path, pixels: np.ndarray, *, packed: bool = False, **tags: Any) -> None:
    """One CT image.

    Args:
        path: file to write.
        pixels: rows x columns of int16 or uint16, as stored.
        packed: compressed without loss (run lengths).
        tags: further elements, or others than the usual; None leaves one out.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    usual: dict[str, Any] = {
        "Modality": "CT",
        "PatientID": "secret-17",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PhotometricInterpretation": "MONOCHROME2",
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anonymisers write what the standard forbids
        for name, value in {**usual, **tags}.items():
            if value is not None:
                setattr(dataset, name, value)
        dataset.PixelData = pixels.tobytes()
        if packed:
            dataset.compress(RLELossless)
        dataset.save_as(path, enforce_file_format=True)


def write_series(
    folder: Path,
    volume: np.ndarray,
    *,
    names: Sequence[str] = (),
    orientation: Sequence[float] = AXIAL,
    origin: Sequence[float] = (-10.0, 20.0, 5.0),
    spacing: tuple[float, float, float] = (0.5, 0.7, 2.5),
    shift: Sequence[float] = (0.0, 0.0, 0.0),
    intercept: float = -1024,
    slope: float = 1,
    **tags: Any,
) -> list[Path]:
    """A series, slice by slice along the normal of the orientation.

    Args:
        folder: to write into.
        volume: slices x rows x columns, as stored.
        names: of the files; by default numbered against the order of the slices.
        orientation: direction cosines of rows and columns, in LPS.
        origin: of the first slice, mm.
        spacing: between columns, rows and slices, mm.
        shift: of each slice against the one before, mm, as a tilted gantry makes it.
        intercept: of the rescaling.
        slope: likewise.
        tags: as in `write_slice`.

    Returns:
        The files, in the order of the slices.
    """
    number = len(volume)
    names = names or [f"IM{number - index:04d}.dcm" for index in range(number)]
    normal = np.cross(orientation[:3], orientation[3:])
    paths = [folder / name for name in names]
    for index, path in enumerate(paths):
        place = np.asarray(origin) + index * (spacing[2] * normal + np.asarray(shift))
        geometry = {
            "ImagePositionPatient": [f"{value:.6f}" for value in place],
            "ImageOrientationPatient": [f"{value:.6f}" for value in orientation],
            "PixelSpacing": [str(spacing[1]), str(spacing[0])],
            "SliceThickness": str(spacing[2]),
            "SliceLocation": f"{float(place @ normal):.4f}",
            "InstanceNumber": number - index,
            "RescaleSlope": str(slope),
            "RescaleIntercept": str(intercept),
        }
        write_slice(path, volume[index], **{**geometry, **tags})
    return paths
