"""Image files of one case: grids, damage, masks."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from fairmedfm_monai.data.case_files import Rules, check_case
from fairmedfm_monai.data.headers import check_whole, mask_values, read_header

TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])  # an oblique rotation
AFFINE = np.block([[TURN * [1.2, 1.5, 3.0], np.array([[10.0], [-20.0], [5.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


RULES = Rules(3, (1.0, 2.0))


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> np.ndarray:
    array = np.random.default_rng(0).integers(-1000, 1000, (7, 6, 5)).astype(np.int16)
    save_nifti(tmp_path / "image.nii.gz", array)
    save_nifti(tmp_path / "mask.nii.gz", (array > 0).astype(np.uint8))
    return array


def found(root: Path, image: str, mask: str) -> dict[str, str]:
    return dict(check_case(root, image, mask, RULES))


def test_good_volume(tmp_path: Path, volume: np.ndarray) -> None:
    assert found(tmp_path, "image.nii.gz", "mask.nii.gz") == {}


def test_other_shape(tmp_path: Path, volume: np.ndarray) -> None:
    save_nifti(tmp_path / "m.nii.gz", np.ones((7, 6, 4), np.uint8))
    assert "7 x 6 x 5 and 7 x 6 x 4" in found(tmp_path, "image.nii.gz", "m.nii.gz")["geometry"]


@pytest.mark.parametrize(
    "change", [np.diag([-1.0, 1, 1, 1]), np.array([[1, 0, 0, 2.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])]
)
def test_other_place(tmp_path: Path, volume: np.ndarray, change: np.ndarray) -> None:
    save_nifti(tmp_path / "m.nii.gz", np.ones(volume.shape, np.uint8), change @ AFFINE)
    assert "mm apart" in found(tmp_path, "image.nii.gz", "m.nii.gz")["geometry"]


def test_rounding_of_an_affine_is_no_other_place(tmp_path: Path, volume: np.ndarray) -> None:
    save_nifti(tmp_path / "m.nii.gz", np.ones(volume.shape, np.uint8), AFFINE + 1e-4)
    assert found(tmp_path, "image.nii.gz", "m.nii.gz") == {}


def test_formats_agree_on_one_grid(tmp_path: Path, volume: np.ndarray) -> None:
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "image.nii.gz")), str(tmp_path / "image.mha"))
    mha, nifti = read_header(tmp_path / "image.mha"), read_header(tmp_path / "image.nii.gz")
    assert mha.shape == nifti.shape == (7, 6, 5)
    np.testing.assert_allclose(mha.affine, nifti.affine, atol=1e-4)  # type: ignore[arg-type]
    assert found(tmp_path, "image.mha", "mask.nii.gz") == {}


def test_values_and_channels_of_masks(tmp_path: Path, volume: np.ndarray) -> None:
    save_nifti(tmp_path / "m.nii.gz", np.full(volume.shape, 7, np.uint8))
    assert found(tmp_path, "image.nii.gz", "m.nii.gz")["mask_value"] == "m.nii.gz (7)"
    save_nifti(tmp_path / "m.nii.gz", np.ones((*volume.shape, 2), np.uint8))
    assert "m.nii.gz (2)" in found(tmp_path, "image.nii.gz", "m.nii.gz")["mask_channels"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_cut_off_nifti(tmp_path: Path, volume: np.ndarray, suffix: str) -> None:
    whole = save_nifti(tmp_path / f"a{suffix}", np.arange(5000).reshape(10, 25, 20).astype(np.int16)).read_bytes()
    check_whole(tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").write_bytes(whole[: len(whole) - 200])
    assert "cut off or damaged" in found(tmp_path, f"a{suffix}", "")["unreadable"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_cut_off_picture(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48), dtype=np.uint8)).save(file)
    check_whole(file)
    assert read_header(file).shape == (48, 64)
    file.write_bytes(file.read_bytes()[:-800])
    with pytest.raises(Exception, match=r"."):
        check_whole(file)


def test_things_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_text("hello")
    (tmp_path / "folder").mkdir()
    text, folder = check_case(tmp_path, "a.mha", "folder", RULES)
    assert text[0] == folder[0] == "unreadable"
    assert "no image of a known kind" in text[1]
    assert "no DICOM series" in folder[1]


def test_dimensions_against_the_card(tmp_path: Path) -> None:
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    assert "a.png (4 x 3)" in found(tmp_path, "a.png", "")["dims"]


def test_mask_values_of_a_damaged_file_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert mask_values(tmp_path / "a.png") == set()


def test_damage_inside_a_packed_nifti(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    whole = save_nifti(tmp_path / "a.nii.gz", noise).read_bytes()
    for place, words in ((-30, "it is cut off or damaged"), (2, "damaged from the start")):
        data = bytearray(whole)
        data[place] ^= 0xFF
        (tmp_path / "a.nii.gz").write_bytes(data)
        assert words in found(tmp_path, "a.nii.gz", "")["unreadable"]


def test_scaled_masks_of_many_planes(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).choice([0, 1, 4], (5, 6, 7)).astype(np.uint8)
    stored[:, :, 3] = 0
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, 0)
    nibabel.save(image, tmp_path / "m.nii.gz")
    assert mask_values(tmp_path / "m.nii.gz") == {0.0, 0.5, 2.0}
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(stored * np.float32(0.5)), str(tmp_path / "m.mha"))
    assert mask_values(tmp_path / "m.mha") == {0.0, 0.5, 2.0}


def save_series(folder: Path, image: SimpleITK.Image) -> None:
    """One DICOM file per slice, written by SimpleITK."""
    folder.mkdir()
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    turn = image.GetDirection()
    for index in range(image.GetDepth()):
        part = image[:, :, index]
        part.SetMetaData("0008|0060", "CT")
        part.SetMetaData("0020|000e", "1.2.3.4")
        part.SetMetaData("0020|000d", "1.2.3")
        part.SetMetaData("0008|0018", f"1.2.3.4.{index + 1}")
        part.SetMetaData("0020|0032", "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, index)))))
        part.SetMetaData("0020|0037", "\\".join(map(str, (*turn[0::3], *turn[1::3]))))
        writer.SetFileName(str(folder / f"{image.GetDepth() - index}.dcm"))  # names tell nothing of the place
        writer.Execute(part)


def test_folders_of_a_dicom_series(tmp_path: Path, volume: np.ndarray) -> None:
    image = SimpleITK.ReadImage(str(tmp_path / "image.nii.gz"))
    save_series(tmp_path / "series", image)
    header = read_header(tmp_path / "series")
    assert header.shape == (7, 6, 5)
    np.testing.assert_allclose(header.affine, AFFINE, atol=1e-3)  # type: ignore[arg-type]
    assert found(tmp_path, "series", "mask.nii.gz") == {}
    save_nifti(tmp_path / "m.nii.gz", (volume > 0).astype(np.uint8), np.diag([1.0, 1, 1, 1]) @ AFFINE + 1)
    assert "mm apart" in found(tmp_path, "series", "m.nii.gz")["geometry"]
    save_series(tmp_path / "other", image + 1)
    for file in (tmp_path / "other").iterdir():
        file.rename(tmp_path / "series" / f"other{file.name}")
    assert set(found(tmp_path, "series", "")) <= {"dims", "unreadable"}


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_formats_of_volumes_cut_off(tmp_path: Path, volume: np.ndarray, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "image.nii.gz")), str(file))
    assert found(tmp_path, file.name, "mask.nii.gz") == {}
    file.write_bytes(file.read_bytes()[:-60])
    assert list(found(tmp_path, file.name, "mask.nii.gz")) == ["unreadable"]
