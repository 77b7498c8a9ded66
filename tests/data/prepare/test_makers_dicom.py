"""DICOM series come out value for value, on the grid that SimpleITK finds; whatever is no volume is refused by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from fairmedfm_monai.data.headers import itk_affine
from fairmedfm_monai.data.prepare.makers.dicom import choose_series, find_series, grid_of, series_to_nifti
from tests.miniatures.dicom_series import write_series, write_slice

OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture
def volume() -> np.ndarray:
    """Slices x rows x columns, as stored."""
    return np.random.default_rng(0).integers(0, 4096, (6, 9, 8)).astype(np.uint16)


def converted(folder: Path, **options: Any) -> Any:
    series_to_nifti([folder], folder.parent / "a.nii.gz", **options)
    return nibabel.load(folder.parent / "a.nii.gz")


def values(image: Any) -> np.ndarray:
    """Slices x rows x columns."""
    return np.asanyarray(image.dataobj).T


def test_values_and_grid(tmp_path: Path, volume: np.ndarray) -> None:
    paths = write_series(tmp_path / "series", volume, orientation=OBLIQUE)
    (tmp_path / "series" / "notes.txt").write_text("not DICOM")
    (tmp_path / "series" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    image = converted(tmp_path / "series")
    stored = np.stack([pydicom.dcmread(path).pixel_array for path in paths]).astype(int)
    np.testing.assert_array_equal(values(image), stored - 1024)
    assert image.get_data_dtype() == np.int16
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    theirs = reader.Execute()
    np.testing.assert_allclose(image.affine, itk_affine(theirs), atol=1e-5)
    np.testing.assert_array_equal(values(image), SimpleITK.GetArrayFromImage(theirs))
    assert b"secret" not in image.to_bytes()


def test_bytes_are_the_same_every_time(tmp_path: Path, volume: np.ndarray) -> None:
    write_series(tmp_path / "series", volume)
    series_to_nifti([tmp_path / "series"], tmp_path / "a.nii.gz")
    series_to_nifti([tmp_path / "series"], tmp_path / "another.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "another.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, np.int16), (1, 40000, np.uint16), (20, -1024, np.int32), (0.5, -100, np.float32), (0.1, 0.3, np.float64)],
)
def test_every_rescaling_keeps_every_value(
    tmp_path: Path, volume: np.ndarray, slope: float, intercept: float, dtype: type
) -> None:
    write_series(tmp_path / "series", volume, slope=slope, intercept=intercept)
    image = converted(tmp_path / "series")
    np.testing.assert_array_equal(values(image), volume.astype(float) * slope + intercept)
    assert image.get_data_dtype() == dtype


def test_slices_with_rescalings_of_their_own(tmp_path: Path, volume: np.ndarray) -> None:
    for index, path in enumerate(write_series(tmp_path / "series", volume)):
        header = pydicom.dcmread(path)
        header.RescaleSlope, header.RescaleIntercept = str(1 + 0.25 * index), "0"
        header.save_as(path)
    factors = 1 + 0.25 * np.arange(6)
    np.testing.assert_array_equal(values(converted(tmp_path / "series")), volume * factors[:, None, None])


def test_signed_packed_and_oddly_named(tmp_path: Path) -> None:
    signed = np.random.default_rng(0).integers(-2048, 2048, (6, 16, 20)).astype(np.int16)
    names = [f"98C14734-ASSH_{(index * 5) % 6}" for index in range(6)]  # no ending, and not in order
    uid = "09bc8aea-ff9c-4106-8514-294cbcf9a082"  # no UID by the standard; anonymisers write such
    write_series(tmp_path / "series", signed, names=names, intercept=0, packed=True, SeriesInstanceUID=uid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = converted(tmp_path / "series", uid=uid)
    np.testing.assert_array_equal(values(image), signed)


def test_one_of_several_series(tmp_path: Path, volume: np.ndarray) -> None:
    write_series(tmp_path / "series", volume)
    other = [f"other{index}.dcm" for index in range(6)]
    write_series(
        tmp_path / "series", volume[::-1], names=other, SeriesInstanceUID="1.2.9", SeriesDescription="late phase"
    )
    assert [series.uid for series in find_series(tmp_path / "series")] == ["1.2.3", "1.2.9"]
    with pytest.raises(ValueError, match=r"found 2; choose one by `uid`: 1\.2\.3 .*1\.2\.9 \(6 x CT late phase\)"):
        converted(tmp_path / "series")
    with pytest.raises(ValueError, match=r"`uid` must be a series of the folder, but got 1\.7"):
        choose_series(tmp_path / "series", uid="1.7")
    np.testing.assert_array_equal(values(converted(tmp_path / "series", uid="1.2.9")), volume[::-1].astype(int) - 1024)


def test_rounded_positions_are_no_fault(tmp_path: Path, volume: np.ndarray) -> None:
    paths = write_series(tmp_path / "series", volume, spacing=(0.5, 0.7, 0.625))
    for index, path in enumerate(paths):
        header = pydicom.dcmread(path)
        header.ImagePositionPatient = ["-10", "20", f"{0.625 * index:.2f}"]  # 0.62, 1.25, 1.88, ...
        header.save_as(path)
    assert converted(tmp_path / "series").header.get_zooms()[2] == pytest.approx(0.625, abs=0.002)


def _remove(paths: list[Path]) -> None:
    paths[2].unlink()


def _move(paths: list[Path]) -> None:
    header = pydicom.dcmread(paths[3])
    header.ImagePositionPatient = ["-10", "20", "11.5"]  # the even place would be 12.5
    header.save_as(paths[3])


def _double(paths: list[Path]) -> None:
    (paths[0].parent / "copy.dcm").write_bytes(paths[4].read_bytes())


def _scout(paths: list[Path]) -> None:
    write_slice(paths[0].parent / "scout.dcm", np.zeros((9, 8), np.uint16))


def _turn(paths: list[Path]) -> None:
    header = pydicom.dcmread(paths[1])
    header.ImageOrientationPatient = ["1", "0", "0", "0", "0.9", "0.436"]
    header.save_as(paths[1])


def _crop(paths: list[Path]) -> None:
    header = pydicom.dcmread(paths[5])
    header.Rows = 8
    header.save_as(paths[5])


def _frames(paths: list[Path]) -> None:
    header = pydicom.dcmread(paths[0])
    header.NumberOfFrames = 2
    header.save_as(paths[0])


def _truncate(paths: list[Path]) -> None:
    paths[3].write_bytes(paths[3].read_bytes()[:-60])


def _replace_by_a_page(paths: list[Path]) -> None:
    paths[3].write_text("<!DOCTYPE html><html>Please log in</html>")


def _empty(paths: list[Path]) -> None:
    paths[3].write_bytes(b"")


def _all_but_one(paths: list[Path]) -> None:
    for path in paths[1:]:
        path.unlink()


def _all(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_remove, r"1 slices are missing, e\.g\. 1 between IM0005\.dcm and IM0003\.dcm"),
        (_move, r"unevenly spaced, 1\.5 to 3\.5 mm"),
        (_double, r"1 slices lie where another lies, e\.g\. .*copy\.dcm"),
        (_scout, r"1 of 7 files have no ImagePositionPatient.*: scout\.dcm"),
        (_turn, r"ImageOrientationPatient differs within the series"),
        (_crop, r"Rows differs within the series: IM0001\.dcm has 8, IM0002\.dcm has 9"),
        (_frames, r"IM0006\.dcm holds several frames"),
        (_truncate, r"IM0003\.dcm cannot be decoded: .*cut off"),
        (_replace_by_a_page, r"IM0003\.dcm cannot be read as DICOM: it is a web page"),
        (_empty, r"IM0003\.dcm cannot be read as DICOM: the file is empty"),
        (_all_but_one, r"IM0006\.dcm is the only slice"),
        (_all, r"series: there is no DICOM image in the folder"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path: Path, volume: np.ndarray, harm: Any, told: str) -> None:
    harm(write_series(tmp_path / "series", volume))
    with pytest.raises(ValueError, match=told):
        converted(tmp_path / "series")
    assert not (tmp_path / "a.nii.gz").exists()


def test_tilted_gantry(tmp_path: Path, volume: np.ndarray) -> None:
    write_series(tmp_path / "series", volume, shift=(0.0, 0.5, 0.0))
    with pytest.raises(ValueError, match=r"shifted against each other by up to 2\.5 mm.*gantry tilt of 11\.3 degrees"):
        grid_of(choose_series(tmp_path / "series"))
