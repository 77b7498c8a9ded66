from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from fairmedfm_monai.data.case_files import Rules, check_case
from fairmedfm_monai.data.file_reasons import why_unreadable


def save_dicom(path: Path, *, pixels: bool = True) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientName = "Doe^Jane"
    if pixels:
        data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 64, 48, 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.PixelData = np.zeros((64, 48), np.uint16).tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def reason(path: Path) -> str:
    ((kind, text),) = check_case(path.parent, path.name, "", Rules(2))
    assert kind == "unreadable"
    return text.removeprefix(f"{path.name} (").removesuffix(")")


def test_dicom_files(tmp_path: Path) -> None:
    save_dicom(tmp_path / "good.dcm")
    assert check_case(tmp_path, "good.dcm", "", Rules(2)) == []
    save_dicom(tmp_path / "none.dcm", pixels=False)
    assert reason(tmp_path / "none.dcm") == (
        "a DICOM file without pixels, or cut off before them (Computed Radiography Image Storage)"
    )
    (tmp_path / "cut.dcm").write_bytes((tmp_path / "good.dcm").read_bytes()[:-2000])
    assert reason(tmp_path / "cut.dcm") == (
        "a DICOM file that is cut off: its header announces 6144 bytes of pixels, it holds 4144"
    )
    (tmp_path / "head.dcm").write_bytes((tmp_path / "good.dcm").read_bytes()[:200])
    assert reason(tmp_path / "head.dcm").startswith("a DICOM file")
    assert "Jane" not in "".join(reason(tmp_path / name) for name in ("none.dcm", "cut.dcm", "head.dcm"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.nii.gz", b"", "the file is empty"),
        ("a.dcm", b"<!DOCTYPE html><html>Sign in", "a web page"),
        ("a.png", b"  <HTML>", "a web page"),
        ("a.jpg", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        ("a.png", bytes(300), "begins with zeros"),
        ("a.dcm", b"PK\x03\x04....", "a ZIP archive"),
        ("a.dcm", b"some words", "no image of a known kind"),
    ],
)
def test_other_things(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert words in reason(tmp_path / name)


def test_the_last_line_of_a_long_report(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x")
    assert why_unreadable(tmp_path / "a.bin", ValueError("much\nthe reason")) == "the reason"
    assert why_unreadable(tmp_path / "a.bin", ValueError()) == "ValueError"
