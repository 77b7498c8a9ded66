from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.transforms import LoadImaged
from PIL import Image

from fairmedfm_monai.transforms import source_values
from fairmedfm_monai.transforms.source_values import source_max, warn_once


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_values, "_SAID", set())


def load(path: Path) -> MetaTensor:
    reader = "fairmedfm_monai.transforms.CaseReader"
    return LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": str(path)})["image"]


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("a.png", np.uint8, 255),
        ("a.png", np.uint16, 65535),
        ("a.tif", np.uint16, 65535),
        ("a.mha", np.uint8, 255),
        ("a.nii.gz", np.uint8, 255),
        ("a.nii.gz", np.uint16, 65535),
    ],
)
def test_the_reader_tells_the_bit_depth_of_a_dark_file(tmp_path: Path, name: str, dtype: Any, expected: float) -> None:
    dark = np.full((8, 6), 3, dtype=dtype)
    if name.endswith((".mha", ".nii.gz")):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(dark), str(tmp_path / name))
    else:
        Image.fromarray(dark).save(tmp_path / name)
    assert source_max(load(tmp_path / name)) == expected


def test_a_bilevel_picture_is_white_at_one(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    assert source_max(load(tmp_path / "a.png")) == 1


@pytest.mark.parametrize("name", ["a.tif", "a.nii.gz", "a.mha"])
def test_floating_and_signed_files_have_no_bit_depth(tmp_path: Path, name: str) -> None:
    for dtype in (np.float32, np.int16) if name != "a.tif" else (np.float32,):
        picture = np.full((8, 6), 200, dtype=dtype)
        if name == "a.tif":
            Image.fromarray(picture).save(tmp_path / name)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(picture), str(tmp_path / name))
        image = load(tmp_path / name)
        assert np.isnan(image.meta["source_max"])
        assert source_max(image) == 255


def test_the_bit_depth_survives_collation(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    batch = list_data_collate([{"image": load(tmp_path / "a.png")} for _ in range(2)])
    assert batch["image"].meta["source_max"].tolist() == [255, 255]


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (torch.zeros(1, 2, 2, dtype=torch.uint8), 255),
        (torch.zeros(1, 2, 2, dtype=torch.bool), 1),
        (torch.full((1, 2, 2), 0.7), 1),
        (torch.full((1, 2, 2), 70.0), 255),
        (torch.tensor([[[0.5, float("nan"), float("inf")]]]), 1),
        (torch.full((1, 2, 2), float("nan")), 1),
    ],
)
def test_without_a_file_the_type_or_the_values_tell(image: torch.Tensor, expected: float) -> None:
    assert source_max(image) == expected


@pytest.mark.parametrize("values", [[-2.0, 299.1], [0.0, 3000.0], [-1.0, 1.0]])
def test_values_that_are_no_picture_are_refused_with_what_to_do(values: list[float]) -> None:
    image = MetaTensor(torch.tensor([[values]]), meta={"filename_or_obj": "map.nii.gz"})
    with pytest.raises(ValueError, match=r"map.nii.gz: values from .* `window` = \[centre, width\]"):
        source_max(image)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (MetaTensor(torch.full((1, 2, 2), 4000.0), meta={"source_max": 65535.0}), "12 bits"),
        (MetaTensor(torch.full((1, 2, 2), 5000.0), meta={"source_max": 4095.0}), "are cut at 4095"),
        (torch.full((1, 2, 2), 100.0), r"have no bit depth and are taken as [0, 255]"),
    ],
)
def test_a_doubtful_depth_is_told_once(image: torch.Tensor, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        source_max(image)
        source_max(image)
    assert caplog.text.count(text) == 1


def test_kinds_of_warnings_do_not_hide_each_other(caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("one", "other", "one"):
        warn_once(kind, "kind %s", kind)
    assert caplog.messages == ["kind one", "kind other"]
