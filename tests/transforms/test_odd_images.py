"""Odd pictures through the preprocessing of a classification bundle, against Pillow and pydicom on their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms as tv

from fairmedfm_monai.catalog import input_spec
from fairmedfm_monai.data.cases import short_reason
from fairmedfm_monai.data.home import home
from fairmedfm_monai.handlers.privacy import hash_id, private_salt
from tests.bundle.runs import BUNDLES, copy_bundle, run, tables
from tests.transforms.test_load import write_dicom

SPEC = input_spec("clip")
SIZE = SPEC["size"]
MEAN, STD = (np.asarray(SPEC[key])[:, None, None] for key in ("mean", "std"))
Array = NDArray[Any]


def preprocess(path: Path, **settings: object) -> Array:
    """What CLIP's linear probe makes of a file."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / "clip_classification_linear_probe" / "configs" / "inference.json"))
    for name, value in {"weights": "tiny", **settings}.items():
        parser[name] = value
    image = parser.get_parsed_content("preprocessing")({"image": str(path)})["image"]
    assert image.dtype == torch.float32
    return image.numpy()


def failure(path: Path) -> str:
    """The reason that a report would give for a file."""
    with pytest.raises(RuntimeError) as caught:
        preprocess(path)
    return short_reason(caught.value)


def resized(picture: Image.Image) -> Array:
    """Short side to SIZE, then the middle, as CLIP's own preprocessing; channels in front."""
    chain = tv.Compose([tv.Resize(SIZE, tv.InterpolationMode.BICUBIC), tv.CenterCrop(SIZE), tv.ToTensor()])
    return chain(picture).numpy()


def radiograph(values: Array) -> Array:
    """A radiograph (rows, columns) as the model shall see it: percentiles to 8 bits, no number is black."""
    low, high = np.nanpercentile(values, (0.5, 99.5))
    unit = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    unit = np.nan_to_num(np.clip(unit, 0, 1))
    return resized(Image.fromarray(np.rint(unit * 255).astype(np.uint8)).convert("RGB"))


def assert_seen(found: Array, unit: Array, *, levels: float = 1.0) -> None:
    """The normalised image is ``unit`` within some of 255 grey levels anywhere, and within 0.05 on average."""
    difference = np.abs(found * STD + MEAN - unit) * 255
    assert difference.max() <= levels + 0.01
    assert difference.mean() < 0.05 * levels


def luma(picture: Image.Image) -> Array:
    """ITU-R BT.601."""
    return np.asarray(picture.convert("RGB"), dtype=float) @ (0.299, 0.587, 0.114)


@pytest.fixture
def grey() -> Array:
    """90 rows, 130 columns, 8 bits: a ramp and noise."""
    ramp = np.add.outer(np.linspace(0, 130, 90), np.linspace(0, 90, 130))
    return np.clip(ramp + np.random.default_rng(0).normal(0, 8, ramp.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def colours(grey: Array) -> Array:
    """Three different channels."""
    return np.dstack([grey, grey[::-1], grey[:, ::-1]])


def save_rgba(colours: Array, path: Path) -> None:
    Image.fromarray(np.dstack([colours, colours[::-1, :, 0]])).save(path)


def save_cmyk(colours: Array, path: Path) -> None:
    Image.fromarray(colours).convert("CMYK").save(path)


def save_palette(colours: Array, path: Path) -> None:
    Image.fromarray(colours).quantize(64).save(path, transparency=3)


COLOURED: dict[str, Callable[[Array, Path], None]] = {
    "rgba.png": save_rgba,
    "cmyk.tif": save_cmyk,
    "cmyk.jpg": save_cmyk,
    "palette.png": save_palette,
}


@pytest.mark.parametrize("name", COLOURED)
def test_four_channels_and_palettes_are_colours(name: str, colours: Array, tmp_path: Path) -> None:
    COLOURED[name](colours, tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.mode == name.partition(".")[0].upper().replace("PALETTE", "P")
        plain = picture.convert("RGB")
        assert_seen(preprocess(tmp_path / name), radiograph(luma(picture)))
    assert_seen(preprocess(tmp_path / name, modality="dermoscopy"), resized(plain))


def test_sixteen_bits_of_grey(grey: Array, tmp_path: Path) -> None:
    values = grey.astype(np.uint16) * 40 + np.random.default_rng(1).integers(0, 40, grey.shape).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode.startswith("I;16")
        assert_seen(preprocess(tmp_path / "a.png"), radiograph(np.asarray(picture).astype(float)))


def test_sixteen_bits_of_colour(colours: Array, tmp_path: Path) -> None:
    deep = colours.astype(np.uint16) * 257
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(deep, isVector=True), str(tmp_path / "a.png"))
    seen = resized(Image.fromarray(colours))
    assert_seen(preprocess(tmp_path / "a.png", modality="dermoscopy"), seen)


def test_sixteen_bits_of_grey_with_alpha_are_told_and_not_cut(tmp_path: Path) -> None:
    Image.new("LA", (4, 3)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[24] = 16  # bit depth in the header
    (tmp_path / "a.png").write_bytes(data)
    assert "grey with alpha of 16 bits, which is not read in full depth; save it without" in failure(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [12, 16])
def test_monochrome1(bits: int, grey: Array, tmp_path: Path) -> None:
    white = 2**bits - 1
    negative = white - grey.astype(np.uint16) * 16
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": "MONOCHROME1"}
    write_dicom(tmp_path / "a.dcm", negative, **tags)
    read = pydicom.dcmread(tmp_path / "a.dcm")
    assert read.PhotometricInterpretation == "MONOCHROME1"
    assert_seen(preprocess(tmp_path / "a.dcm"), radiograph(white - read.pixel_array.astype(float)))


def test_values_that_are_no_number(grey: Array, tmp_path: Path) -> None:
    values = grey.astype(np.float32)
    values[3:9, 40:60] = np.nan
    nibabel.save(nibabel.Nifti1Image(values.T, np.diag([-1.0, -1, 1, 1])), tmp_path / "a.nii")
    assert_seen(preprocess(tmp_path / "a.nii"), radiograph(values.astype(float)))


def test_values_that_are_no_number_in_a_volume(grey: Array, tmp_path: Path) -> None:
    volume = np.repeat(grey.T[..., None].astype(np.float32), 32, axis=2) + np.arange(32, dtype=np.float32)
    volume[10:20, 30:40] = np.nan
    volume[50:60, 30:40] = -np.inf
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1.0, -1, 2, 1])), tmp_path / "a.nii.gz")
    found = preprocess(tmp_path / "a.nii.gz", modality="ct", window=[100, 200])
    assert found.shape == (3, SIZE, SIZE, 32)
    for index in (0, 31):
        unit = np.clip(np.nan_to_num(volume[..., index].T, nan=0, neginf=0) / 200, 0, 1)
        seen = resized(Image.fromarray(np.rint(unit * 255).astype(np.uint8)).convert("RGB"))
        assert_seen(found[..., index], seen)


def test_no_number_at_all(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((8, 9), np.nan, np.float32), np.eye(4)), tmp_path / "a.nii")
    assert "a.nii: the image has no finite value" in failure(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (20, 1000)])
def test_tiny_and_thin_pictures(shape: tuple[int, int], tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert_seen(preprocess(tmp_path / "a.png"), radiograph(values.astype(float)))


@pytest.mark.parametrize("shape", [(3, 2000), (2000, 3)])
def test_extremely_elongated_pictures_are_the_middle_of_the_whole(shape: tuple[int, int], tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    # Here the whole, 224 x 149,333 pixels, still fits into memory; the transform makes the middle of it only.
    assert_seen(preprocess(tmp_path / "a.png"), radiograph(values.astype(float)))


def test_an_elongated_picture_is_never_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.arange(60_000, dtype=np.uint16)[None].astype(np.uint8)).save(tmp_path / "a.png")
    edges: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def record(self: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        edges.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)
    assert preprocess(tmp_path / "a.png").shape == (3, SIZE, SIZE)
    assert edges == [(SIZE, SIZE)]  # the whole would have 3 thousand million pixels


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_constant_radiograph_is_black(value: int, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 50), value, np.uint8)).save(tmp_path / "a.png")
    assert_seen(preprocess(tmp_path / "a.png"), np.zeros((3, SIZE, SIZE)))
    photo = preprocess(tmp_path / "a.png", modality="dermoscopy")
    assert_seen(photo, np.full((3, SIZE, SIZE), value / 255))


def _as_sixteen_bits(values: Array, path: Path) -> None:
    Image.fromarray(values.astype(np.uint16) * 257).save(path.with_suffix(".png"))


def _as_rgba(values: Array, path: Path) -> None:
    Image.fromarray(np.dstack([values] * 3 + [values[::-1]])).save(path.with_suffix(".png"))


def _as_cmyk(values: Array, path: Path) -> None:
    Image.fromarray(values).convert("RGB").convert("CMYK").save(path.with_suffix(".tif"))


def _as_palette(values: Array, path: Path) -> None:
    picture = Image.fromarray(255 - values).convert("P")
    picture.putpalette([255 - value for value in range(256) for _ in range(3)])
    picture.save(path.with_suffix(".png"))


def _as_monochrome1(values: Array, path: Path) -> None:
    write_dicom(path.with_suffix(".dcm"), 65535 - values.astype(np.uint16), PhotometricInterpretation="MONOCHROME1")


SAME = (_as_sixteen_bits, _as_rgba, _as_cmyk, _as_palette, _as_monochrome1)


def test_a_run_over_odd_images(xray_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other encodings of a picture get its score, odd shapes get some score, and what is no image is a failed case."""
    options = {"weights": "tiny", "tracking_uri": "off", "n_bootstrap": 0, "split": ["test"]}
    bundle = copy_bundle("demo_clip_classification_zero_shot", tmp_path)
    run(bundle, "evaluate", dataset_dir=str(xray_dir), output_dir=str(tmp_path / "plain"), **options)
    data = Path(shutil.copytree(xray_dir, tmp_path / "data"))
    table = pd.read_csv(data / "manifest.csv", dtype=str)
    rows = table.index[table["split"] == "test"]
    for row, save in zip(rows, SAME, strict=False):
        with Image.open(data / table.loc[row, "image"]) as picture:
            save(np.asarray(picture), data / f"odd{row}")
    Image.new("L", (1, 1), 7).save(data / f"odd{rows[5]}.png")
    Image.fromarray(np.arange(5000, dtype=np.uint16)[None].astype(np.uint8)).save(data / f"odd{rows[6]}.png")
    nibabel.save(nibabel.Nifti1Image(np.full((8, 9), np.nan, np.float32), np.eye(4)), data / f"odd{rows[7]}.nii")
    for row in rows[:8]:
        (table.loc[row, "image"],) = [path.name for path in data.glob(f"odd{row}.*")]
    table.to_csv(data / "manifest.csv", index=False)
    with pytest.raises(SystemExit) as ended:
        run(bundle, "evaluate", dataset_dir=str(data), output_dir=str(tmp_path / "odd"), **options)
    assert ended.value.code == 4
    plain, odd = (tables(tmp_path / name)[0].set_index("case_id") for name in ("plain", "odd"))
    cases = [hash_id(name, private_salt(home())) for name in table.loc[rows, "case_id"]]
    np.testing.assert_allclose(odd.loc[cases[:5], "score"], plain.loc[cases[:5], "score"], atol=1e-3)
    assert odd.loc[cases[5:7], "score"].between(0, 1).all()
    assert list(odd.index[odd["failed"] != ""]) == [cases[7]]
    assert f"{table.loc[rows[7], 'case_id']}: ValueError" in capsys.readouterr().out
    assert odd.loc[cases[8:], "score"].equals(plain.loc[cases[8:], "score"])
