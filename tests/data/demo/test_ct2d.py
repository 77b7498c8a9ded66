from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.dataset import load_dataset
from fairmedfm_monai.data.demo.ct2d import HELD_OUT, is_training_slice, make_ct2d
from fairmedfm_monai.data.demo.scan import ORGAN_GROUPS, Scan

SIZES = {"n_train": 8, "n_val": 6, "n_test": 12}
Digests = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def slices(tmp_path_factory: pytest.TempPathFactory, phantom: Scan) -> Path:
    return make_ct2d(tmp_path_factory.mktemp("ct2d") / "set", scan=phantom, **SIZES)


def test_the_folder_loads_without_a_warning(slices: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_dataset(slices)
    assert (info.name, info.task, info.modality, info.spatial_dims) == ("demo-ct2d", "segmentation", "ct", 2)
    assert info.labels == {name: value for value, name in enumerate(ORGAN_GROUPS, start=1)}
    assert info.window == [50, 400]
    assert info.table["split"].value_counts().to_dict() == {"train": 8, "val": 6, "test": 12}
    assert "phantom" in (info.notice or "")


def test_slices_and_masks_share_a_grid_in_millimetres(slices: Path) -> None:
    rows, details = pd.read_csv(slices / "manifest.csv"), pd.read_csv(slices / "details.csv")
    for row, spacing in zip(rows.itertuples(), details["spacing_mm"], strict=True):
        image, mask = nib.load(slices / row.image), nib.load(slices / row.mask)
        assert image.shape == mask.shape == (256, 256)
        np.testing.assert_array_equal(image.affine, mask.affine)
        np.testing.assert_allclose(image.header.get_zooms(), [spacing, spacing], rtol=1e-3)
        assert "".join(nib.aff2axcodes(image.affine)) == "LPS"
        counts = np.bincount(np.asarray(mask.dataobj).ravel(), minlength=9)[1:]
        assert (counts >= 100).sum() >= 2


def test_val_and_test_come_from_heights_that_training_never_sees(slices: Path, phantom: Scan) -> None:
    rows = pd.read_csv(slices / "manifest.csv").merge(pd.read_csv(slices / "details.csv"), on="case_id")
    n_slices = phantom.hu.shape[2]
    training = {index for index in range(n_slices) if is_training_slice(index, n_slices)}
    assert set(rows[rows["split"] == "train"]["slice"]) <= training
    held = set(rows[rows["split"] != "train"]["slice"])
    gap_mm = min(abs(a - b) for a in held for b in training) * phantom.spacing[2]
    assert gap_mm >= 7.5
    assert all(not is_training_slice(index) for first, last in HELD_OUT for index in range(first - 3, last + 4))
    assert sum(is_training_slice(index) for index in range(133)) == 69


def test_the_same_seed_gives_the_same_bytes(slices: Path, tmp_path: Path, phantom: Scan, digests: Digests) -> None:
    assert digests(make_ct2d(tmp_path / "again", scan=phantom, **SIZES)) == digests(slices)


def test_degrading_touches_the_images_of_one_sex(slices: Path, tmp_path: Path, phantom: Scan, digests: Digests) -> None:
    before = digests(make_ct2d(tmp_path / "control", scan=phantom, bias="none", **SIZES))
    after = digests(slices)
    rows = pd.read_csv(slices / "manifest.csv")
    assert np.array_equal([before[path] != after[path] for path in rows["image"]], rows["sex"] == "female")
    assert all(before[path] == after[path] for path in rows["mask"])


def test_the_shortcut_needs_a_finding(tmp_path: Path, phantom: Scan) -> None:
    with pytest.raises(ValueError, match="shortcut"):
        make_ct2d(tmp_path / "set", scan=phantom, bias="shortcut")
