"""Arrays of npz files come out value for value; damage is named."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage
from PIL import Image

from fairmedfm_monai.data.prepare.makers.npz import float_map, label_map, picture, read_scalars
from fairmedfm_monai.data.prepare.makers.write import write_nifti, write_png
from fairmedfm_monai.transforms import CaseReader

VALUES = ((0, 0), (-1, 1), (-2, 2))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int16, np.int64, ">f4"])
def test_a_map_keeps_every_value(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).uniform(-2, 300, (7, 5)).astype(dtype)
    np.savez(tmp_path / "a.npz", rnflt=values, other=np.zeros(3))
    float_map([tmp_path / "a.npz"], tmp_path / "a.nii.gz", keys=("nothing", "rnflt"))
    read = np.asanyarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)
    assert np.array_equal(read.T, values)
    assert read.dtype.kind == np.dtype(dtype).kind


def test_a_map_is_read_as_a_picture_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (7, 5)).astype(np.float64)
    write_nifti(values.T, tmp_path / "map.nii.gz")
    write_png(values, tmp_path / "picture.png")
    loader = LoadImage(reader=CaseReader, ensure_channel_first=True)
    as_map, as_picture = loader(tmp_path / "map.nii.gz"), loader(tmp_path / "picture.png")
    assert np.array_equal(np.asarray(as_map), np.asarray(as_picture))
    assert np.array_equal(as_map.affine, as_picture.affine)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(35, dtype=np.uint8).reshape(7, 5),
        np.arange(35, dtype=np.float32).reshape(7, 5),
        np.arange(35, dtype=np.uint16).reshape(7, 5) * 1000,
        np.arange(105, dtype=np.int64).reshape(7, 5, 3),
    ],
)
def test_a_picture_keeps_every_value(tmp_path: Path, values: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "a.npz", slo=values)
    picture([tmp_path / "a.npz"], tmp_path / "a.png", keys=("slo",))
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), values)


@pytest.mark.parametrize("values", [np.full((2, 2), 0.5), np.full((2, 2), -1), np.full((2, 2), np.nan), np.zeros(4)])
def test_what_is_no_picture_is_refused(tmp_path: Path, values: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", slo=values)
    with pytest.raises(ValueError, match=r"a\.npz: a picture must"):
        picture([tmp_path / "a.npz"], tmp_path / "a.png", keys=("slo",))


def test_labels_are_renumbered(tmp_path: Path) -> None:
    raw = np.array([[0, -1, -1], [-1, -2, 0]], np.float64)
    np.savez(tmp_path / "a.npz", mask=raw, slo=np.zeros((2, 3, 3), np.uint8))
    label_map([tmp_path / "a.npz"], tmp_path / "a.png", keys=("mask",), values=VALUES, like=("slo",))
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 1], [1, 2, 0]]


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((2, 3)), "background everywhere"),
        (np.array([[0, -3, 127], [0, 0, -1]]), r"holds -3, 127; known are 0, -1, -2"),
        (-np.ones((3, 2)), r"shape \(3, 2\), the picture \(2, 3\)"),
    ],
)
def test_masks_that_cannot_be_used(tmp_path: Path, mask: np.ndarray, reason: str) -> None:
    np.savez(tmp_path / "a.npz", mask=mask, slo=np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match=reason):
        label_map([tmp_path / "a.npz"], tmp_path / "a.png", keys=("mask",), values=VALUES, like=("slo",))


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 9))
    for name in ("first", "second"):
        write_nifti(values, tmp_path / f"{name}.nii.gz")
        write_png(values > 0, tmp_path / f"{name}.png")
    for ending in ("nii.gz", "png"):
        assert (tmp_path / f"first.{ending}").read_bytes() == (tmp_path / f"second.{ending}").read_bytes()
    assert (tmp_path / "first.nii.gz").read_bytes()[3:8] == bytes(5)  # gzip: no name, no time


def test_damage_is_named(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", rnflt=np.random.default_rng(0).normal(size=(50, 50)))
    content = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    np.save(tmp_path / "array.npy", np.zeros(3))
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "page": b"<html>sign in</html>",
        "flipped": bytes(flipped),
        "array": (tmp_path / "array.npy").read_bytes(),
    }
    for name, data in damaged.items():
        file = tmp_path / f"{name}.npz"
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}\.npz: the file is damaged or not what is expected"):
            float_map([file], tmp_path / "out.nii.gz", keys=("rnflt",))
    with pytest.raises(ValueError, match="none of slo, fundus, but rnflt"):
        picture([tmp_path / "whole.npz"], tmp_path / "out.png", keys=("slo", "fundus"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(
        file, race=np.array(["White", None], dtype=object), rnflt=np.array([{}], dtype=object), age=56.56, male=1.0
    )
    keys = {"race": ("race",), "age": ("age",), "gender": ("gender", "male"), "language": ("language",)}
    (tmp_path / "broken.npz").write_bytes(b"PK")
    assert read_scalars([file, tmp_path / "broken.npz"], keys) == [{"age": "56.56", "gender": "1"}, None]
    with pytest.raises(ValueError, match="allow_pickle"):
        float_map([file], tmp_path / "a.nii", keys=("rnflt",))


@pytest.fixture
def switching_threads() -> Iterator[None]:
    """Collections of garbage that come often, and let another thread go on in the middle of an allocation."""

    def yield_to_others(*_: Any) -> None:
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(yield_to_others)
    gc.set_threshold(10)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(yield_to_others)


@pytest.mark.usefixtures("switching_threads")
def test_single_values_are_read_whatever_the_order_of_threads(tmp_path: Path) -> None:
    names = [*"abcdefghij"]
    files = [tmp_path / f"{number}.npz" for number in range(100)]
    for number, file in enumerate(files):
        np.savez(file, **{name: np.array(float(number)) for name in names})
    found = read_scalars(files, {name: (name,) for name in names})
    assert found == [dict.fromkeys(names, str(number)) for number in range(100)]
