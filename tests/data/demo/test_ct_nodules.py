from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.dataset import load_dataset
from fairmedfm_monai.data.demo.ct_nodules import (
    DEPTH_MM,
    NODULE_HU,
    PROMPTS,
    RADIUS_MM,
    LungNodule,
    draw_nodule,
    lung_labels,
    make_ct_nodules,
    without_nodule,
)
from fairmedfm_monai.data.demo.deform import rotation
from fairmedfm_monai.data.demo.scan import Scan

SIZES = {"n_train": 8, "n_val": 4, "n_test": 12}
Make = Callable[..., Path]
Digests = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, phantom: Scan) -> Make:
    def of(**options: object) -> Path:
        folder = tmp_path_factory.mktemp("ct-nodules") / "set"
        return make_ct_nodules(folder, scan=phantom, **{**SIZES, **options})  # type: ignore[arg-type]

    return of


@pytest.fixture(scope="module")
def degraded(make: Make) -> Path:
    return make()


@pytest.fixture(scope="module")
def control(make: Make) -> Path:
    return make(bias="none")


def cases(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "manifest.csv").merge(pd.read_csv(folder / "details.csv"), on="case_id")


def volume(folder: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(folder / path)
    return np.asarray(image.dataobj), image.affine


def sphere(radius: float, centre: tuple[float, float, float] = (3.0, -2.0, 1.0)) -> LungNodule:
    return LungNodule(np.array(centre), np.full(3, radius), np.zeros((0, 2)), 50.0, "left")


def test_the_folder_loads_without_a_warning(degraded: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_dataset(degraded)
    found = (info.name, info.task, info.modality, info.spatial_dims, info.window)
    assert found == ("demo-ct-nodules", "classification", "ct", 3, "lung")
    assert (info.classes, info.positive_class) == (["no_nodule", "nodule"], "nodule")
    assert info.table["split"].value_counts().to_dict() == {"train": 8, "val": 4, "test": 12}
    assert info.table["patient_id"].is_unique
    counts = info.table.groupby(["split", "sex"])["label"].agg(["size", "sum"])
    assert (counts["sum"] * 2 == counts["size"]).all()
    assert len(counts) == 6


def test_the_card_says_what_the_volumes_are(degraded: Path) -> None:
    card = json.loads((degraded / "dataset.json").read_text(encoding="utf-8"))
    assert "semi-synthetic, one anatomy: measures plumbing, not generalisation" in card["notice"]
    assert "phantom" in card["notice"]
    assert card["classes"] == PROMPTS
    assert all(len(prompts) > 1 for prompts in PROMPTS.values())


def test_orientations_and_spacings_vary(degraded: Path) -> None:
    table = cases(degraded)
    assert set(table["orientation"]) == {"RAS", "LPS", "LAS", "oblique"}
    assert len(table[["spacing_i_mm", "spacing_k_mm"]].drop_duplicates()) == 3
    for row in table.itertuples():
        image, affine = volume(degraded, row.image)
        assert image.shape == (row.size_i, row.size_j, row.size_k)
        if row.orientation != "oblique":
            assert "".join(nib.aff2axcodes(affine)) == row.orientation


def test_the_same_seed_gives_the_same_bytes_and_the_rule_touches_one_sex(
    degraded: Path, control: Path, make: Make, digests: Digests
) -> None:
    before, after = digests(control), digests(degraded)
    assert digests(make()) == after
    rows = cases(degraded)
    changed = np.array([before[path] != after[path] for path in rows["image"]])
    assert np.array_equal(changed, rows["sex"] == "female")
    assert np.array_equal(rows["degraded"] == 1, rows["sex"] == "female")
    other = digests(make(seed=1, n_train=0, n_val=0, n_test=4))
    assert not {other[name] for name in other if name.endswith("gz")} & set(after.values())


def test_a_nodule_is_all_that_differs_and_lies_where_the_details_say(
    control: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LungNodule, "insert", lambda self, hu, affine: hu)
    without = make(bias="none")
    table = cases(control)
    assert np.array_equal(table["radius_mm"].notna(), table["label"] == "nodule")
    for row in table.itertuples():
        (shown, affine), (hidden, _) = volume(control, row.image), volume(without, row.image)
        if row.label == "no_nodule":
            assert np.array_equal(shown, hidden)
            continue
        assert RADIUS_MM[0] * 0.85 <= row.radius_mm <= RADIUS_MM[1] * 1.15
        centre = np.array([row.nodule_x_mm, row.nodule_y_mm, row.nodule_z_mm])
        voxel = tuple(np.rint(np.linalg.inv(affine) @ [*centre, 1.0]).astype(int)[:3])
        assert hidden[voxel] < -500
        assert shown[voxel] == pytest.approx(row.nodule_hu, abs=1)
        changed = nib.affines.apply_affine(affine, np.argwhere(shown != hidden))
        # Semi-axes are up to 15 % longer than drawn, lobes add up to 27 %.
        assert np.linalg.norm(changed - centre, axis=1).max() <= 1.6 * row.radius_mm + 1


def test_nodules_lie_in_the_lungs_and_are_shown_whole(phantom: Scan) -> None:
    lungs, affine = lung_labels(phantom), phantom.affine
    inside = nib.affines.apply_affine(affine, np.argwhere(lungs > 0))
    outside = nib.affines.apply_affine(affine, np.argwhere(lungs == 0))
    sides = set()
    for seed in range(12):
        nodule = draw_nodule(seed, lungs, affine)
        sides.add(nodule.side)
        assert np.linalg.norm(inside - nodule.centre, axis=1).min() < 1e-6
        # In plane, depths are known to one of the phantom's voxels only.
        assert np.linalg.norm(outside - nodule.centre, axis=1).min() >= DEPTH_MM - max(phantom.spacing)
        assert (nodule.side == "left") == (nodule.centre[0] < 0)
        assert NODULE_HU[0] <= nodule.hu <= NODULE_HU[1]
        corner = nib.affines.apply_affine(np.linalg.inv(affine), nodule.centre)
        edge = np.minimum(corner, np.array(lungs.shape) - 1 - corner) * phantom.spacing
        assert (edge >= RADIUS_MM[1]).all()
    assert sides == {"left", "right"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_sphere_fills_its_volume_and_takes_its_hounsfield_units(*, turned: bool) -> None:
    affine, shape, radius = np.diag([1.0, 1.5, 2.0, 1.0]), (50, 34, 26), 9.0
    affine[:3, :3] = (rotation((10.0, -7.0, 12.0)) if turned else np.eye(3)) @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    share = sphere(radius).share(affine, shape)
    assert share.sum() * 3.0 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    centre = nib.affines.apply_affine(affine, np.argwhere(share > 0))
    weights = share[share > 0] / share.sum()
    np.testing.assert_allclose(weights @ centre, (3.0, -2.0, 1.0), atol=0.1)
    lung = np.full(shape, -800, dtype=np.int16)
    filled = sphere(radius).insert(lung, affine)
    np.testing.assert_allclose(filled, np.round(-800 + share * 850), atol=1)
    assert (lung == -800).all()


def test_the_scans_own_nodule_is_taken_out_and_nothing_else(phantom: Scan) -> None:
    cleaned = without_nodule(phantom)
    assert phantom.hu[phantom.nodule].mean() > -50
    assert cleaned.hu[phantom.nodule].mean() < -600
    assert not cleaned.nodule.any()
    changed = np.argwhere(cleaned.hu != phantom.hu) * phantom.spacing
    middle = (np.argwhere(phantom.nodule) * phantom.spacing).mean(axis=0)
    assert 12 <= np.linalg.norm(changed - middle, axis=1).max() <= 12 * 1.05 + 4 + max(phantom.spacing)
    assert without_nodule(cleaned) is cleaned


def test_a_scan_without_lungs_is_refused(phantom: Scan, tmp_path: Path) -> None:
    nothing = np.zeros_like(phantom.organs)
    with pytest.raises(ValueError, match="no lung lies 6 mm deep"):
        draw_nodule(0, nothing, phantom.affine)
    with pytest.raises(ValueError, match="the scan has no lung labels"):
        make_ct_nodules(tmp_path / "set", scan=dataclasses.replace(phantom, organs=nothing), **SIZES)
    assert not list(tmp_path.iterdir())
