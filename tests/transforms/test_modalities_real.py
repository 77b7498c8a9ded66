"""Intensity and geometry on real images out of published packages."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
import torchvision
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, LoadImaged, Orientationd
from PIL import Image

from fairmedfm_monai.transforms import CropFundusd, ModalityIntensityd, N4BiasFieldd, PILResized
from tests.real_data import CT, DICOM, HEAD, MNI, fetch_or_skip, packaged_or_skip


def load(path: Path) -> MetaTensor:
    reader = "fairmedfm_monai.transforms.CaseReader"
    return LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": str(path)})["image"]


def scaled(image: torch.Tensor, modality: str, **options: object) -> MetaTensor:
    return ModalityIntensityd("image", modality=modality, **options)({"image": image})["image"]  # type: ignore[arg-type]


def check_geometry(image: MetaTensor, result: MetaTensor, affine: np.ndarray) -> None:
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine.numpy(), affine, atol=1e-6)
    assert nibabel.aff2axcodes(result.affine.numpy()) == nibabel.aff2axcodes(affine)


def otsu(values: np.ndarray) -> float:
    """SimpleITK's threshold of values cut at percentiles 0.5 and 99.5."""
    cut = np.clip(values, *np.percentile(values, (0.5, 99.5)))
    method = SimpleITK.OtsuThresholdImageFilter()
    method.SetNumberOfHistogramBins(256)
    method.Execute(SimpleITK.GetImageFromArray(cut))
    return float(method.GetThreshold())


@pytest.mark.network
def test_mri_percentiles_of_a_brain() -> None:
    path = fetch_or_skip(MNI) / "mni_t1.nii.gz"
    file = nibabel.load(path)
    values = np.asarray(file.dataobj).astype(np.float32)
    image = load(path)
    result = scaled(image, "mri", b_max=255.0)
    check_geometry(image, result, file.affine)
    low, high = np.percentile(values, 0.5), np.percentile(values[values > otsu(values)], 99.5)
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    # Ours come from every ninth voxel and from another Otsu: one grey level of 255.
    assert np.abs(result[0].numpy() - expected).max() < 1.5


@pytest.mark.network
def test_mri_tissues_keep_their_order() -> None:
    folder = fetch_or_skip(MNI)
    result = scaled(load(folder / "mni_t1.nii.gz"), "mri")[0].numpy()
    white, grey = (np.asarray(nibabel.load(folder / f"mni_{name}.nii.gz").dataobj) > 230 for name in ("wm", "gm"))
    assert result[0, 0].max() == 0  # air
    assert 0.2 < np.median(result[grey]) < np.median(result[white]) - 0.1 < 0.9


@pytest.mark.network
def test_mri_does_not_depend_on_the_air_around_a_real_head() -> None:
    """A third more field of view on each axis, with the noise that the air of this head has."""
    head = np.asarray(nibabel.load(fetch_or_skip(HEAD) / "head_t1.nii.gz").dataobj).astype(np.float32)[::2, ::2, ::2]
    noise = np.random.default_rng(0).normal(0, 5, [size * 4 // 3 for size in head.shape])
    wide = np.abs(noise).astype(np.float32)
    inside = tuple(slice(5, 5 + size) for size in head.shape)
    wide[inside] = head
    near, far = scaled(torch.from_numpy(head)[None], "mri")[0], scaled(torch.from_numpy(wide)[None], "mri")[0][inside]
    assert (near - far).abs().max() < 0.01
    above_zero = [np.percentile(volume[volume > 0], 99.5) for volume in (head, wide)]
    assert above_zero[0] > 1.05 * above_zero[1]


@pytest.mark.network
def test_n4_takes_a_made_field_off_a_real_brain() -> None:
    folder = fetch_or_skip(MNI)
    clean, white = (
        np.asarray(nibabel.load(folder / f"mni_{name}.nii.gz").dataobj)[::3, ::3, ::3].astype(np.float32)
        for name in ("t1", "wm")
    )
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in clean.shape], indexing="ij")
    field = np.exp(0.4 * x + 0.3 * y**2 - 0.25 * z).astype(np.float32)
    result = N4BiasFieldd("image")({"image": torch.from_numpy(clean * field)[None]})["image"][0].numpy()
    inner = white > 230
    variation = {
        name: volume[inner].std() / volume[inner].mean()
        for name, volume in (("clean", clean), ("biased", clean * field), ("corrected", result))
    }
    assert variation["biased"] > 4 * variation["clean"]
    assert variation["corrected"] < 1.5 * variation["clean"]
    brain = clean > 100
    estimated = np.log((clean * field)[brain] / result[brain])
    assert np.corrcoef(estimated, np.log(field[brain]))[0, 1] > 0.9


@pytest.mark.network
def test_mr_slice_with_a_rescale_slope() -> None:
    path = fetch_or_skip(DICOM) / "shoulder_mr.dcm"
    header = pydicom.dcmread(path)
    values = (header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)).T
    image = load(path)
    result = scaled(image, "mri")
    low, high = np.percentile(values, 0.5), np.percentile(values[values > otsu(values)], 99.5)
    np.testing.assert_allclose(result[0].numpy(), np.clip((values - low) / (high - low), 0, 1), atol=0.01)
    assert np.isnan(image.meta["source_max"])


@pytest.mark.network
def test_a_chest_radiograph_with_bright_air_comes_upright() -> None:
    path = fetch_or_skip(DICOM) / "chest_cr.dcm"
    header = pydicom.dcmread(path)
    assert header.PhotometricInterpretation == "MONOCHROME1"
    values = -header.pixel_array.astype(np.float64).T
    low, high = np.percentile(values, (0.5, 99.5))
    image = load(path)
    assert image.meta["source_max"] == 2**15 - 1
    result = scaled(image, "xray", b_max=255.0)
    np.testing.assert_allclose(result[0].numpy(), np.clip((values - low) / (high - low), 0, 1) * 255, atol=1)
    check_geometry(image, result, np.diag([-1, -1, 1, 1]))  # this file has no pixel spacing


@pytest.mark.network
def test_ct_window_on_a_real_scan() -> None:
    folder = fetch_or_skip(CT)
    file, organs = nibabel.load(folder / CT.members[0].name), nibabel.load(folder / CT.members[1].name)
    part = (slice(None, None, 4), slice(None, None, 4), slice(None, None, 4))
    hu, organ = np.asarray(file.dataobj)[part].astype(np.float32), np.asarray(organs.dataobj)[part]
    image = MetaTensor(torch.from_numpy(hu)[None], affine=file.affine)
    result = scaled(image, "ct")
    np.testing.assert_allclose(result[0].numpy(), np.clip((hu + 150) / 400, 0, 1), atol=1e-6)
    check_geometry(image, result, file.affine)
    lung, liver = np.isin(organ, (10, 11, 12, 13, 14)), organ == 5
    assert np.median(result[0].numpy()[lung]) == 0
    assert 0.5 < np.median(result[0].numpy()[liver]) < 0.8
    assert 0.2 < np.median(scaled(image, "ct", window="lung")[0].numpy()[lung]) < 0.5


@pytest.mark.network
def test_an_ultrasound_picture_keeps_its_values() -> None:
    path = fetch_or_skip(DICOM) / "ultrasound.dcm"
    pixels = pydicom.dcmread(path).pixel_array
    image = load(path)
    result = scaled(image, "ultrasound")
    np.testing.assert_array_equal(result.numpy().transpose(2, 1, 0), pixels / np.float32(255))
    assert image.meta["source_max"] == 255


@pytest.mark.parametrize(("name", "modality"), [("retina.jpg", "fundus"), ("ihc.png", "pathology")])
def test_photographs_keep_their_colours(name: str, modality: str) -> None:
    path = packaged_or_skip(name)
    with Image.open(path) as picture:
        expected = torchvision.transforms.functional.to_tensor(picture.convert("RGB"))
    image = load(path)
    result = scaled(image, modality)
    assert torch.equal(result.as_tensor().transpose(1, 2), expected)
    check_geometry(image, result, np.diag([-1, -1, 1, 1]))
    assert torch.equal(scaled(image, modality, b_max=255.0).as_tensor(), image.as_tensor())
    assert (result[0] - result[2]).abs().mean() > 0.05


@pytest.mark.parametrize(("name", "modality"), [("retina.jpg", "fundus"), ("ihc.png", "pathology")])
def test_photographs_reach_a_model_as_torchvision_would_bring_them(name: str, modality: str) -> None:
    """CLIP's own preprocessing, so that published numbers can be matched."""
    path = packaged_or_skip(name)
    steps = Compose(
        [
            LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True),
            Orientationd("image", axcodes="PLS", labels=None),
            ModalityIntensityd("image", modality=modality),
            PILResized("image", size=224, interpolation="bicubic", crop=224),
        ]
    )
    result = steps({"image": str(path)})["image"]
    bicubic = torchvision.transforms.InterpolationMode.BICUBIC
    theirs = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize(224, interpolation=bicubic),
            torchvision.transforms.CenterCrop(224),
            torchvision.transforms.ToTensor(),
        ]
    )
    with Image.open(path) as picture:
        assert torch.equal(result.as_tensor(), theirs(picture.convert("RGB")))


def test_the_field_of_view_of_a_real_fundus_photograph() -> None:
    path = packaged_or_skip("retina.jpg")
    image = load(path)
    # The disc touches all four edges of this photograph; black is put around it.
    wide = MetaTensor(torch.nn.functional.pad(image.as_tensor(), (40, 60, 120, 80)), affine=image.affine)
    crop = CropFundusd("image")
    result = crop({"image": wide})
    with Image.open(path) as picture:
        bright = np.asarray(picture.convert("RGB")).mean(axis=2) > 0.03 * 255
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    expected = (np.ptp(columns) + 1, np.ptp(rows) + 1)
    assert np.abs(np.subtract(result["image"].shape[1:], expected)).max() <= 4
    result["pred"] = result["image"]
    back = Invertd("pred", transform=crop, orig_keys="image")(result)["pred"]
    assert back.shape == wide.shape
    assert (back - wide).abs().mean() < 0.2  # only black with its noise was cut off
