from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fairmedfm_monai.transforms.intensity import XRayIntensityd
from fairmedfm_monai.transforms.load import CaseReader

READER = "fairmedfm_monai.transforms.CaseReader"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load(path: Path) -> Any:
    return LoadImaged("image", reader=READER, ensure_channel_first=True)({"image": str(path)})["image"]


def write_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "secret-17"
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def grey() -> np.ndarray:
    """Rows x columns, as a picture file holds it."""
    return np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_survive(tmp_path: Path, grey: np.ndarray, suffix: str) -> None:
    Image.fromarray(grey).save(tmp_path / f"a{suffix}")
    image = load(tmp_path / f"a{suffix}")
    assert image.shape == (1, 30, 20)
    np.testing.assert_array_equal(image[0].numpy().T, grey)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("1", 1)])
def test_colours_become_channels(tmp_path: Path, mode: str, channels: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 2, (20, 30, 3), dtype=np.uint8) * 255
    picture = Image.fromarray(rgb).convert(mode)
    picture.save(tmp_path / "a.png")
    image = load(tmp_path / "a.png")
    assert image.shape == (channels, 30, 20)
    if mode in ("RGB", "RGBA", "P"):
        np.testing.assert_array_equal(image.numpy().transpose(2, 1, 0), rgb)


def test_a_grey_table_is_its_own_index(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
    picture.putpalette([value for value in range(256) for _ in range(3)])
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(load(tmp_path / "mask.png")[0].numpy().T, np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_colour_is_not_cut(tmp_path: Path, suffix: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(np.uint16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(rgb, isVector=True), str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(load(tmp_path / f"a{suffix}").numpy().transpose(2, 1, 0), rgb)


def test_agrees_with_monais_readers(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    theirs = LoadImaged("image", ensure_channel_first=True)({"image": str(tmp_path / "a.png")})["image"]
    np.testing.assert_array_equal(load(tmp_path / "a.png"), theirs)


def test_monochrome1_is_turned_round(tmp_path: Path, grey: np.ndarray) -> None:
    write_dicom(tmp_path / "a.dcm", grey, PhotometricInterpretation="MONOCHROME1", PixelSpacing=[0.2, 0.1])
    image = load(tmp_path / "a.dcm")
    assert image.shape == (1, 30, 20)
    np.testing.assert_array_equal(image[0].numpy().T, 65535 - grey)
    np.testing.assert_allclose(image.affine, LPS @ np.diag([0.1, 0.2, 1, 1]), atol=1e-6)


def test_monochrome1_is_turned_round_once_whatever_the_reader(tmp_path: Path, grey: np.ndarray) -> None:
    write_dicom(tmp_path / "negative.dcm", 65535 - grey, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "positive.dcm", grey)
    results = []
    for name in ("negative.dcm", "positive.dcm"):
        for reader in ({"reader": READER}, {"reader": "PydicomReader", "prune_metadata": False}):
            loader = LoadImaged("image", ensure_channel_first=True, **reader)
            results.append(XRayIntensityd("image")(loader({"image": str(tmp_path / name)}))["image"])
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-5)


def test_rescale_slope(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    write_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=2, RescaleIntercept=-1024)
    np.testing.assert_array_equal(load(tmp_path / "a.dcm")[0].numpy().T, pixels * 2.0 - 1024)


def test_no_header_is_carried_over(tmp_path: Path, grey: np.ndarray) -> None:
    write_dicom(tmp_path / "a.dcm", grey)
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "a.nii")
    for name in ("a.dcm", "a.nii"):
        meta = load(tmp_path / name).meta
        assert "Doe" not in str(meta)
        assert "secret" not in str(meta)
        assert len(meta) == 7


@pytest.fixture
def series(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """An oblique CT series of five slices in shuffled files, among files that are no DICOM."""
    folder = tmp_path / "series"
    folder.mkdir()
    volume = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)  # z, y, x
    row, column = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    study, uid = generate_uid(), generate_uid()
    for index in range(5):
        position = np.array([-10.0, 20.0, 5.0]) + 2.5 * index * normal
        tags = {
            "SeriesInstanceUID": uid,
            "StudyInstanceUID": study,
            "InstanceNumber": 9 - index,
            "ImagePositionPatient": [f"{value:.6f}" for value in position],
            "ImageOrientationPatient": [*map(str, row), *map(str, column)],
            "PixelSpacing": [0.7, 0.5],
            "SliceThickness": "2.5",
        }
        write_dicom(folder / f"{(index * 3) % 5}.dcm", volume[index], **tags)
    (folder / "notes.txt").write_text("not DICOM")
    return folder, volume


def test_series_in_order_of_position(series: tuple[Path, np.ndarray]) -> None:
    folder, volume = series
    image = load(folder)
    np.testing.assert_array_equal(image[0].numpy(), volume.transpose(2, 1, 0))
    spacing = np.linalg.norm(image.affine[:3, :3].numpy(), axis=0)
    np.testing.assert_allclose(spacing, [0.5, 0.7, 2.5], atol=1e-4)
    # Voxel (1, 0, 0) lies one column further along the row direction, in RAS.
    np.testing.assert_allclose(image.affine[:3, 0].numpy(), [-0.4, -0.3, 0.0], atol=1e-5)
    np.testing.assert_allclose(image.affine[:3, 3].numpy(), [10.0, -20.0, 5.0], atol=1e-4)


def test_two_series_in_a_folder(series: tuple[Path, np.ndarray]) -> None:
    folder, volume = series
    write_dicom(folder / "other.dcm", volume[0], SeriesInstanceUID=generate_uid())
    with pytest.raises(ValueError, match="found 2 DICOM series; give each series its own folder"):
        load(folder)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_volumes_of_all_formats_are_equal(tmp_path: Path, suffix: str) -> None:
    volume = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    image = SimpleITK.GetImageFromArray(volume)
    image.SetSpacing((0.5, 0.7, 2.0))
    image.SetOrigin((10, 20, 30))
    image.SetDirection((0, -0.8, 0.6, 1, 0, 0, 0, 0.6, 0.8))
    SimpleITK.WriteImage(image, str(tmp_path / f"a{suffix}"))
    SimpleITK.WriteImage(image, str(tmp_path / "reference.nii.gz"))
    expected = nibabel.load(tmp_path / "reference.nii.gz")
    loaded = load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(loaded[0].numpy(), np.asarray(expected.dataobj))
    np.testing.assert_allclose(loaded.affine, expected.affine, atol=1e-5)


def test_several_files_are_channels(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(grey[::-1]).save(tmp_path / "b.png")
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    image = LoadImaged("image", reader=READER, ensure_channel_first=True)({"image": files})["image"]
    np.testing.assert_array_equal(image.numpy().transpose(0, 2, 1), [grey, grey[::-1]])
    Image.fromarray(grey[:5]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match="must have one shape"):
        LoadImaged("image", reader=READER)({"image": files})


def test_screen_orientation_of_pictures_and_volumes(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    volume = np.random.default_rng(0).normal(size=(5, 20, 30)).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), str(tmp_path / "a.mha"))
    chain = Compose(
        [
            LoadImaged("image", reader=READER, ensure_channel_first=True),
            Orientationd("image", axcodes="PLS", labels=None),
        ]
    )
    picture, scan = chain({"image": str(tmp_path / "a.png")}), chain({"image": str(tmp_path / "a.mha")})
    np.testing.assert_array_equal(picture["image"][0], grey)
    np.testing.assert_array_equal(scan["image"][0], volume.transpose(1, 2, 0))
    back = Invertd("image", transform=chain)(picture)["image"]
    np.testing.assert_array_equal(back[0].T, grey)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"\x89PNG\r\n", "cut off or damaged"),
        ("a.mha", b"hello", "Unable to determine ImageIO reader"),
        ("a.nii", b"hello", "."),
    ],
)
def test_the_reason_is_the_files_own(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Exception, match=reason) as caught:
        load(tmp_path / name)
    assert "cannot find a suitable reader" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        load(tmp_path / "a.png")


def test_it_is_a_monai_reader(tmp_path: Path, grey: np.ndarray) -> None:
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert CaseReader().verify_suffix("anything")
    assert isinstance(load(tmp_path / "a.png"), MetaTensor)
