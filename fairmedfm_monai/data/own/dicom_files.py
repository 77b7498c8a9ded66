"""DICOM files of a folder and all below it: which hold images, and the few header values that are asked for."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairmedfm_monai.data.card_checks import MODALITIES as CARD_MODALITIES
from fairmedfm_monai.data.problems import DatasetError, Problem

MODALITIES: Mapping[str, str] = {
    **dict.fromkeys(("CR", "DX", "DR", "RF", "MG"), "xray"),
    "CT": "ct",
    "MR": "mri",
    "US": "ultrasound",
    **dict.fromkeys(("OPT", "OCT"), "oct"),
    "SM": "pathology",
}
_CAPTURE_CLASS = "1.2.840.10008.5.1.4.1.1.7"  # and its multi-frame children .1 to .4
SECONDARY_CAPTURE = "secondary capture"  # reason to skip a file
_IDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "AccessionNumber")
_PATIENT = ("PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "EthnicGroup", "PatientName")
_IMAGE = ("SOPClassUID", "Modality", "Rows", "NumberOfFrames", "ImageType", "ImagePositionPatient")
SUFFIXES = (".dcm", ".dicom", ".ima")  # files of these names must be DICOM; others may be anything


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """One image file.

    Attributes:
        path: relative to the source.
        ids: identifier keyword -> text; empty where the header has none.
        patient: likewise, of what is said of the patient.
        modality: as in the header, e.g. ``CT``.
        is_placed: whether it says where in space it lies.
        is_localizer: whether it is a scout view.
    """

    path: str
    ids: Mapping[str, str]
    patient: Mapping[str, str]
    modality: str
    is_placed: bool
    is_localizer: bool

    @property
    def folder(self) -> str:
        """Folder that the file lies in, relative to the source."""
        return os.path.dirname(self.path)


@dataclass(frozen=True)
class DicomCase:
    """A case of the dataset.

    Attributes:
        files: the picture, or all files of a series.
    """

    files: tuple[DicomFile, ...]

    @property
    def first(self) -> DicomFile:
        """The file whose header speaks for the case."""
        return self.files[0]


@dataclass
class Scan:
    """What a folder holds.

    Attributes:
        files: the image files, in the order of their paths.
        skipped: why a file is no image for our purposes -> number of files.
        damaged: named as DICOM, but not readable.
    """

    files: list[DicomFile] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)


def scan_folder(root: Path, *, secondary_captures: bool = False, progress: bool = True) -> Scan:
    """Read the headers of all DICOM files.

    Args:
        root: absolute folder; dataset folders in it that were prepared here are passed over.
        secondary_captures: take images that were made from others (screenshots, conversions) too.
        progress: show a bar on stderr.
    """
    scan = Scan()
    seen: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # de-identified files hold values that the standard does not allow
        for path in tqdm(list(_walk(root)), desc="reading headers", unit="file", disable=not progress):
            header = _header(root / path, scan, path)
            reason = "" if header is None else _why_not(header, secondary_captures=secondary_captures)
            if header is None:
                continue
            uid = str(header.get("SOPInstanceUID", "") or "")
            if not reason and uid and uid in seen:
                reason = "the same image once more"
            if reason:
                scan.skipped[reason] += 1
                continue
            seen.add(uid)
            scan.files.append(_file(path, header))
    return scan


def modality_of(scan: Scan, root: Path) -> str:
    """The card's modality, where all images are of one that is known.

    Raises:
        DatasetError: they are of several, or of none that is known.
    """
    codes = Counter(file.modality for file in scan.files)
    found = {MODALITIES.get(code, "") for code in codes} or {""}
    if len(found) > 1 or "" in found:
        listed = ", ".join(f"{code or 'none'} ({number})" for code, number in codes.most_common()) or "no image"
        message = f"say which `--modality` this is ({', '.join(CARD_MODALITIES)}); the headers have {listed}"
        raise DatasetError(root, [Problem("modality", message)])
    return found.pop()


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not os.path.isdir(os.path.join(folder, name, ".prepare")))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(os.path.relpath(os.path.join(folder, name), root)).as_posix()


def _header(path: Path, scan: Scan, name: str) -> Any:
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_IDS, *_PATIENT, *_IMAGE])
    except InvalidDicomError:
        if not name.lower().endswith(SUFFIXES):
            scan.skipped["no DICOM"] += 1
            return None
    except Exception:  # noqa: S110 (pydicom raises many kinds on damaged files; counted below)
        pass
    scan.damaged.append(name)
    return None


def _why_not(header: Any, *, secondary_captures: bool) -> str:
    sop_class = str(header.get("SOPClassUID", "") or "")
    if "Rows" not in header:
        return f"no pixels ({_class_name(sop_class)})"
    if sop_class.startswith(_CAPTURE_CLASS) and not secondary_captures:
        return SECONDARY_CAPTURE
    if int(header.get("NumberOfFrames") or 1) > 1:
        return "several frames in one file"
    return ""


def _class_name(sop_class: str) -> str:
    from pydicom.uid import UID

    return UID(sop_class).name if sop_class else "DICOMDIR or unnamed"


def _file(path: str, header: Any) -> DicomFile:
    def text(tag: str) -> str:
        value = header.get(tag, "")
        return "" if value is None else str(value).strip()

    return DicomFile(
        path=path,
        ids={tag: text(tag) for tag in _IDS},
        patient={tag: text(tag) for tag in _PATIENT},
        modality=text("Modality"),
        is_placed=bool(header.get("ImagePositionPatient")),
        is_localizer="LOCALIZER" in (header.get("ImageType") or ()),
    )
