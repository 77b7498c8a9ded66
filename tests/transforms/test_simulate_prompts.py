"""Prompts drawn from reference masks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd
from PIL import Image
from scipy.spatial.distance import cdist
from skimage.measure import regionprops

from fairmedfm_monai.transforms.prompts import SIMULATED_KINDS
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd


def concave() -> np.ndarray:
    """A thin C whose centre of gravity lies outside of it."""
    mask = np.zeros((40, 30), dtype=np.uint8)
    mask[5:35, 4:26] = 1
    mask[9:31, 7:26] = 0
    return mask


def parts() -> np.ndarray:
    mask = np.zeros((30, 30), dtype=np.uint8)
    mask[2:5, 2:5] = 1
    mask[20:29, 18:25] = 1
    return mask


def simulate(mask: np.ndarray, **settings: Any) -> list[dict[str, Any]]:
    """Prompts of a mask (spatial), label value 1 named organ."""
    tensor = MetaTensor(torch.as_tensor(mask.astype(np.float32))[None])
    data = {"image": MetaTensor(torch.zeros_like(tensor)), "label": tensor, "case_id": "case-1"}
    settings.setdefault("labels", {"organ": 1})
    return SimulatePromptsd(**settings)(data)["prompts"]


@pytest.mark.parametrize("mask", [concave(), parts()])
def test_box_is_that_of_skimage_with_inclusive_ends(mask: np.ndarray) -> None:
    (prompt,) = simulate(mask, kinds=["box"])
    low0, low1, high0, high1 = regionprops(mask)[0].bbox  # half open
    assert prompt["coords"] == [[low0, low1], [high0 - 1, high1 - 1]]
    assert prompt["point_labels"] == [2, 3]


@pytest.mark.parametrize("mask", [concave(), parts(), np.ones((7, 9), dtype=np.uint8)])
def test_center_is_the_deepest_pixel(mask: np.ndarray) -> None:
    (prompt,) = simulate(mask, kinds=["center"])
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(padded), np.argwhere(padded == 0)
    depth = cdist(inside, outside).min(axis=1)
    index = np.array(prompt["coords"][0]) + 1
    assert padded[tuple(index)]
    assert cdist(index[None], outside).min() == pytest.approx(depth.max())


def test_ties_of_the_center_go_to_the_middle() -> None:
    mask = np.zeros((9, 41), dtype=np.uint8)
    mask[2:7, 5:36] = 1  # deepest along a whole line
    assert simulate(mask, kinds=["center"])[0]["coords"] == [[4, 20]]
    assert simulate(np.ones((2, 2), dtype=np.uint8), kinds=["center"])[0]["coords"] == [[0, 0]]


@pytest.mark.parametrize("mask", [concave(), parts()])
def test_points_are_distinct_and_inside(mask: np.ndarray) -> None:
    for seed in range(20):
        point, points = simulate(mask, kinds=["point", "points"], seed=seed)
        assert len(point["coords"]) == 1
        assert len({tuple(coords) for coords in points["coords"]}) == 5
        assert all(mask[tuple(coords)] for coords in point["coords"] + points["coords"])
        assert points["point_labels"] == [1] * 5


def test_points_cover_the_whole_object() -> None:
    """A seeded draw that always takes the same corner would pass the tests above."""
    mask = parts()
    seen = {tuple(simulate(mask, kinds=["point"], seed=seed)[0]["coords"][0]) for seed in range(200)}
    assert len(seen) > 50
    assert {coords[0] < 10 for coords in seen} == {True, False}


def test_small_object_gets_fewer_points() -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[3, 2:5] = 1
    (prompt,) = simulate(mask, kinds=["points"])
    assert sorted(prompt["coords"]) == [[3, 2], [3, 3], [3, 4]]


def test_draws_depend_on_nothing_but_their_key() -> None:
    mask = np.stack([concave()] * 4, axis=-1)
    reference = simulate(mask, seed=3)
    assert simulate(mask, seed=3) == reference
    assert simulate(mask, seed=4) != reference
    # Fewer kinds, other labels, other slices: the draws that remain are the same.
    alone = simulate(mask, seed=3, kinds=["point"])
    assert alone == [prompt for prompt in reference if prompt["kind"] == "point"]
    assert len({tuple(prompt["coords"][0][:2]) for prompt in alone}) > 1, "slices must differ"
    shifted = mask.copy()
    shifted[..., 0] = 0
    assert simulate(shifted, seed=3, kinds=["point"]) == alone[1:]


def test_the_draws_are_those_of_every_machine() -> None:
    """Recorded values: a change of hashing would silently change every published number."""
    coords = simulate(concave(), kinds=["point", "points"], seed=0)
    assert [prompt["coords"] for prompt in coords] == RECORDED


RECORDED = [[[34, 7]], [[33, 12], [32, 25], [6, 16], [7, 10], [32, 9]]]


def test_volume_gets_one_prompt_per_slice_kind_and_label() -> None:
    mask = np.zeros((10, 12, 6), dtype=np.uint8)
    mask[2:5, 3:9, 1:3] = 1
    mask[6:9, 2:4, 2:6] = 5
    prompts = simulate(mask, labels={"a": 1, "b": 5}, kinds=["box"])
    assert [(prompt["label"], prompt["coords"]) for prompt in prompts] == [
        *(("a", [[2, 3, k], [4, 8, k]]) for k in (1, 2)),
        *(("b", [[6, 2, k], [8, 3, k]]) for k in (2, 3, 4, 5)),
    ]
    along_first = simulate(mask, labels={"a": 1}, kinds=["box"], axis=0)
    assert [prompt["coords"] for prompt in along_first] == [[[i, 3, 1], [i, 8, 2]] for i in (2, 3, 4)]


def test_absent_label_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        prompts = simulate(concave(), labels={"organ": 1, "tumour": 2}, kinds=["box"])
    assert [prompt["label"] for prompt in prompts] == ["organ"]
    assert "case-1: no prompt for tumour" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert simulate(np.zeros((8, 8))) == []
    assert "case-1: no prompt for organ" in caplog.text


def test_axcodes_follow_the_volume_to_its_new_orientation(tmp_path: Path) -> None:
    """A sagittal file: its first axis runs through the patient's left and right, its last from front to back."""
    affine = np.array([[0, 0, 2.0, 0], [0, -1.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1]])
    mask = np.zeros((12, 10, 8), dtype=np.uint8)
    mask[2:7, 3:5, 1:4] = 1
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    data = {"image": str(tmp_path / "mask.nii.gz"), "label": str(tmp_path / "mask.nii.gz")}
    load = LoadImaged(["image", "label"], ensure_channel_first=True)
    simulate_axial = SimulatePromptsd(labels={"organ": 1}, kinds=["box"], axis=-1, axcodes="LPS")
    prompts = simulate_axial(load(data))["prompts"]
    turned = Compose([load, Orientationd(["image", "label"], axcodes="LPS", labels=None)])(data)["label"][0]
    assert len(prompts) == len(np.unique(np.argwhere(np.asarray(turned))[:, 2])) == 5
    assert [prompt["coords"] for prompt in prompts] == [[[i, 3, 1], [i, 4, 3]] for i in range(2, 7)]


def test_picture_coordinates_are_column_and_row(tmp_path: Path) -> None:
    array = np.zeros((20, 30), dtype=np.uint8)
    array[4:9, 11:26] = 1
    Image.fromarray(array).save(tmp_path / "mask.png")
    data = {"image": str(tmp_path / "mask.png"), "label": str(tmp_path / "mask.png")}
    data = LoadImaged(["image", "label"], ensure_channel_first=True)(data)
    (prompt,) = SimulatePromptsd(labels={"organ": 1}, kinds=["box"])(data)["prompts"]
    assert prompt["coords"] == [[11, 4], [25, 8]]


def test_bad_input() -> None:
    image = MetaTensor(torch.zeros(1, 8, 8))
    transform = SimulatePromptsd(labels={"organ": 1})
    with pytest.raises(ValueError, match=r"share one grid.*\(7, 8\)"):
        transform({"image": image, "label": MetaTensor(torch.zeros(1, 7, 8))})
    with pytest.raises(ValueError, match="share one grid"):
        transform(
            {"image": image, "label": MetaTensor(torch.zeros(1, 8, 8), affine=torch.diag(torch.tensor([2.0, 1, 1, 1])))}
        )
    with pytest.raises(ValueError, match="one channel"):
        transform({"image": image, "label": MetaTensor(torch.zeros(3, 8, 8))})
    with pytest.raises(TypeError, match="put LoadImaged first"):
        transform({"image": image, "label": "mask.png"})
    with pytest.raises(ValueError, match="kinds must be a list of box, center"):
        SimulatePromptsd(labels={"organ": 1}, kinds=["boxes"])
    assert set(SIMULATED_KINDS) == {"box", "center", "point", "points"}
    transform = SimulatePromptsd(labels={"organ": 1}, allow_missing_keys=True)
    assert "prompts" not in transform({"image": image})
