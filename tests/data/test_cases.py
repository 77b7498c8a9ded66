from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from monai.data import DataLoader
from monai.transforms import Compose, LoadImaged

from fairmedfm_monai.data.cases import CaseDataset
from fairmedfm_monai.data.dataset import load_dataset

Make = Callable[..., Path]
LOAD = Compose([LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True)])


@pytest.fixture
def root(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> Path:
    return make_folder(rows, card_dict)


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def test_readable_cases_pass_unchanged(root: Path) -> None:
    items = list(CaseDataset(load_dataset(root).cases("test"), LOAD))
    assert [item["case_id"] for item in items] == ["c08", "c09", "c10", "c11"]
    assert {item["failed"] for item in items} == {""}
    assert items[0]["image"].shape == (1, 24, 16)


def test_a_cut_off_image_gets_a_stand_in(root: Path) -> None:
    cut(root / "images/c09.png")
    cut(root / "images/c10.png")
    items = list(CaseDataset(load_dataset(root).cases("test"), LOAD))
    assert [item["case_id"] for item in items] == ["c08", "c11", "c11", "c11"]
    assert [item["failed"].split(":")[0] for item in items] == ["", "c09", "c10", ""]
    assert items[1]["failed"].startswith("c09: ValueError: the picture is cut off or damaged (")


def test_the_last_case_wraps_round(root: Path) -> None:
    cut(root / "images/c11.png")
    item = CaseDataset(load_dataset(root).cases("test"), LOAD)[3]
    assert item["case_id"] == "c08"
    assert item["failed"].startswith("c11: ")


def test_cut_off_nifti(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    for name in "ab":
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / f"{name}.nii.gz")
    cut(tmp_path / "a.nii.gz")
    items = list(CaseDataset([{"image": str(tmp_path / f"{name}.nii.gz")} for name in "ab"], LOAD))
    assert items[0]["failed"].startswith("a.nii.gz: ")
    assert items[1]["failed"] == ""
    np.testing.assert_array_equal(items[0]["image"][0], volume)


def test_batches_collate(root: Path) -> None:
    cut(root / "images/c09.png")
    batch = next(iter(DataLoader(CaseDataset(load_dataset(root).cases("test"), LOAD), batch_size=4)))
    assert batch["image"].shape == (4, 1, 24, 16)
    assert batch["attributes"]["sex"] == ["unknown", "male", "male", "male"]
    assert batch["label"].tolist() == [1, 1, 1, 0]


def test_nothing_readable_is_an_error(root: Path) -> None:
    for file in (root / "images").iterdir():
        cut(file)
    with pytest.raises(RuntimeError, match="none of 4 cases can be read; the first: c08: "):
        CaseDataset(load_dataset(root).cases("test"), LOAD)[0]


def test_cases_of_other_tools(root: Path) -> None:
    item = CaseDataset([{"image": str(root / "images/c00.png")}], LOAD)[0]
    assert item["failed"] == ""


def test_a_volume_among_pictures_gets_a_stand_in(root: Path) -> None:
    cases = load_dataset(root).cases("test")
    nibabel.save(nibabel.Nifti1Image(np.zeros((24, 16, 1), np.float32), np.eye(4)), root / "volume.nii.gz")
    cases[1] = {**cases[1], "image": str(root / "volume.nii.gz")}
    items = list(CaseDataset(cases, LOAD, spatial_dims=2))
    assert [bool(item["failed"]) for item in items] == [False, True, False, False]
    assert "3 spatial axes, but `spatial_dims` of the card is 2" in items[1]["failed"]
