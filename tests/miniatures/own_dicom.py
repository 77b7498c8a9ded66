"""A PACS export: CT series of a few slices, radiographs, a scout, a screenshot, a presentation state, other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

HIDDEN = "ZZSECRETZZ"  # in every header field that nobody asked for
PATIENTS = 12
SLICES = 4
CT, XRAY, CAPTURE, STATE = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "1.1", "7", "11.1"))


def uid(*parts: object) -> str:
    """The same for the same parts."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


def patient_tags(patient: int) -> dict[str, str]:
    """Sex, age (of every third only as dates) and ethnic group."""
    dates = patient % 3 == 2
    return {
        "PatientID": f"MRN{patient:05d}",
        "PatientName": f"{HIDDEN}^Name{patient}",
        "PatientSex": ("F", "M", "F", "O")[patient % 4],
        "PatientAge": "" if dates else f"{40 + 3 * patient:03d}Y",
        "PatientBirthDate": f"19{50 + patient}0615" if dates else "",
        "StudyDate": "20200614",
        "EthnicGroup": ("A", "B", "")[patient % 3],
        "StudyInstanceUID": uid("study", patient),
        "AccessionNumber": f"ACC{patient}",
    }


def write(path: Path, sop_class: str, pixels: np.ndarray | None, **tags: Any) -> None:
    """One DICOM file; every free text field holds `HIDDEN`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = uid("file", path)
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    for name in (
        "InstitutionName",
        "StudyDescription",
        "SeriesDescription",
        "PatientComments",
        "ReferringPhysicianName",
    ):
        setattr(data, name, HIDDEN)
    data.add_new(0x00091010, "LO", HIDDEN)
    for name, value in tags.items():
        setattr(data, name, value)
    if pixels is not None:
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = pixels.astype(np.int16).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def volume(patient: int) -> np.ndarray:
    """Values of a patient's CT, slices x rows x columns, brighter with every other patient."""
    return np.random.default_rng(patient).integers(-200, 0, (SLICES, 16, 16)) + 150 * (patient % 2)


def write_ct(folder: Path, patient: int) -> None:
    """A series whose file names do not follow the slices."""
    for index, pixels in enumerate(volume(patient)):
        place = {
            "ImagePositionPatient": [-8.0, -8.0, 2.5 * index],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [1.0, 1.0],
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            "SeriesInstanceUID": uid("series", patient),
            "Modality": "CT",
        }
        write(folder / f"case{patient:02d}" / f"im{SLICES - index}.dcm", CT, pixels, **place, **patient_tags(patient))


def make_ct(folder: Path) -> Path:
    """Twelve CT series, and what else lies in such a folder."""
    for patient in range(PATIENTS):
        write_ct(folder, patient)
    tags = patient_tags(0) | {"SeriesInstanceUID": uid("other")}
    small = np.zeros((16, 16))
    write(folder / "case00" / "shot.dcm", CAPTURE, small, Modality="CT", **tags)
    write(folder / "case00" / "state", STATE, None, Modality="PR", **tags)
    scout = {"ImagePositionPatient": [0, 0, 0], "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    write(folder / "case00" / "scout.dcm", CT, small, Modality="CT", **scout, **tags)
    (folder / "readme.txt").write_text("no DICOM")
    lines = ["StudyInstanceUID,finding,site"]
    lines += [
        f"{uid('study', patient)},{('no', 'yes')[patient % 2]},{'AB'[patient // 2 % 2]}" for patient in range(PATIENTS)
    ]
    (folder / "labels.csv").write_text("\n".join([*lines, "1.2.3,no,A"]) + "\n")
    return folder


def make_xray(folder: Path) -> Path:
    """Two radiographs of each of twelve patients, without file endings, and a table by file name."""
    lines = ["file,finding"]
    for patient in range(PATIENTS):
        for view in range(2):
            name = f"p{patient:02d}v{view}"
            pixels = np.random.default_rng(patient).integers(0, 900, (32, 32)) + 600 * (patient % 2)
            tags = patient_tags(patient) | {"SeriesInstanceUID": uid("series", patient), "Modality": "DX"}
            write(folder / "files" / name, XRAY, pixels, **tags)
            lines.append(f"{name},{('clear', 'effusion')[patient % 2]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def header_texts(folder: Path) -> set[bytes]:
    """Every text of every header below a folder, as it stands in the files, and parts of names."""
    found: set[bytes] = set()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except pydicom.errors.InvalidDicomError:
            continue
        for element in (*header, *header.file_meta):
            if element.VR in {"LO", "SH", "PN", "UI", "DA", "TM", "LT", "ST"}:
                found |= {part.encode() for part in str(element.value).split("^")}
    return found
