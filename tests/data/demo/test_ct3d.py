from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.dataset import load_dataset
from fairmedfm_monai.data.demo.ct3d import LABELS, make_ct3d
from fairmedfm_monai.data.demo.scan import ORGAN_GROUPS, Scan

SIZES = {"n_val": 2, "n_test": 6}
Digests = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, phantom: Scan) -> Path:
    return make_ct3d(tmp_path_factory.mktemp("ct3d") / "set", scan=phantom, **SIZES)


def test_the_folder_loads_without_a_warning(volumes: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_dataset(volumes)
    assert (info.name, info.spatial_dims, info.labels) == ("demo-ct3d", 3, LABELS)
    assert len(info.table) == 17
    scan = info.table.set_index("case_id").loc["scan-0"]
    assert [scan["sex"], scan["age"], scan["race"]] == ["unknown"] * 3
    assert "agree pairwise with Dice" in (info.notice or "")


def test_orientations_and_spacings_vary(volumes: Path) -> None:
    details = pd.read_csv(volumes / "details.csv")
    assert set(details["orientation"]) == {"RAS", "LPS", "LAS", "oblique"}
    assert len(details[["spacing_i_mm", "spacing_k_mm"]].drop_duplicates()) >= 3
    for row in pd.read_csv(volumes / "manifest.csv").merge(details, on="case_id").itertuples():
        image, mask = nib.load(volumes / row.image), nib.load(volumes / row.mask)
        assert image.shape == mask.shape == (row.size_i, row.size_j, row.size_k)
        np.testing.assert_array_equal(image.affine, mask.affine)
        oblique = np.count_nonzero(np.abs(image.affine[:3, :3]) > 0.05) > 3
        assert oblique == (row.orientation == "oblique")
        if not oblique:
            assert "".join(nib.aff2axcodes(image.affine)) == row.orientation
        assert np.asarray(mask.dataobj).any()


def test_the_scan_itself_is_one_case_on_its_own_voxels(volumes: Path, phantom: Scan) -> None:
    image, mask = nib.load(volumes / "images/scan-0.nii.gz"), nib.load(volumes / "masks/scan-0.nii.gz")
    offset = np.rint(np.linalg.inv(phantom.affine) @ image.affine[:, 3]).astype(int)[:3]
    window = tuple(slice(first, first + size) for first, size in zip(offset, image.shape, strict=True))
    assert image.shape[2] == phantom.hu.shape[2]
    assert np.array_equal(np.asarray(image.dataobj), phantom.hu[window])
    labels = np.asarray(mask.dataobj)
    assert np.array_equal(labels == LABELS["nodule"], phantom.nodule[window])
    assert (labels == LABELS["nodule"]).sum() == phantom.nodule.sum()
    organs = phantom.large_organs()
    assert all((labels == value).sum() == ((organs == value) & ~phantom.nodule).sum() for value in range(1, 9))


def test_readers_are_measured_against_each_other(volumes: Path, phantom: Scan) -> None:
    readers = json.loads((volumes / "readers.json").read_text(encoding="utf-8"))
    assert readers["case_id"] == "scan-0"
    np.testing.assert_allclose(readers["pairwise_dice"], phantom.reader_dice(), atol=1e-6)
    assert readers["consensus_voxels"] == phantom.nodule.sum()
    assert all(value > readers["pairwise_dice_min"] for value in readers["dice_with_consensus"])


def test_the_same_seed_gives_the_same_bytes_and_the_rule_touches_one_sex(
    volumes: Path, tmp_path: Path, phantom: Scan, digests: Digests
) -> None:
    assert digests(make_ct3d(tmp_path / "again", scan=phantom, **SIZES)) == digests(volumes)
    before, after = digests(make_ct3d(tmp_path / "control", scan=phantom, strength=0, **SIZES)), digests(volumes)
    rows = pd.read_csv(volumes / "manifest.csv")
    assert np.array_equal([before[path] != after[path] for path in rows["image"]], rows["sex"] == "female")


def test_every_large_organ_is_shown_in_the_default_set(tmp_path: Path, phantom: Scan) -> None:
    folder = make_ct3d(tmp_path / "set", scan=phantom)
    shown = np.zeros(len(LABELS) + 1, dtype=int)
    masks = sorted((folder / "masks").glob("p*.nii.gz"))
    for mask in masks:
        shown += np.bincount(np.asarray(nib.load(mask).dataobj).ravel(), minlength=len(shown)) >= 20
    assert len(masks) == 24
    assert shown[1 : len(ORGAN_GROUPS) + 1].min() >= 2
