"""The currency of prompts and its geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Flip
from skimage.measure import regionprops

from fairmedfm_monai.transforms.prompt_checks import check_box, check_prompt
from fairmedfm_monai.transforms.prompt_masks import decode_mask, encode_mask
from fairmedfm_monai.transforms.prompts import (
    Prompt,
    file_affine,
    invert_affine,
    label_values,
    map_prompt,
    voxel_spacing,
)


def box(lower: list[float], upper: list[float]) -> Prompt:
    return Prompt(kind="box", label="organ", coords=[lower, upper], point_labels=[2, 3])


def test_flipped_box_keeps_inclusive_corners() -> None:
    """Half-open ends would land one voxel off: indices 16..24 of 48 are 23..31 seen from the other end."""
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = 47
    mapped = map_prompt(box([16, 5, 2], [24, 9, 2]), flip)
    assert mapped["coords"] == [[23, 5, 2], [31, 9, 2]]
    assert mapped["point_labels"] == [2, 3]


def test_oblique_map_keeps_every_voxel_of_the_box() -> None:
    """All voxels of a turned box, taken as squares, lie in the new box, and it touches them on every side."""
    angle = np.pi / 6
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    lower, upper = np.array(map_prompt(box([0, 0, 0], [10, 4, 0]), turn)["coords"])
    corners = np.array([[-0.5, -0.5], [10.5, -0.5], [-0.5, 4.5], [10.5, 4.5]]) @ turn[:2, :2].T
    np.testing.assert_allclose(lower[:2] - 0.5, corners.min(axis=0), atol=1e-4)
    np.testing.assert_allclose(upper[:2] + 0.5, corners.max(axis=0), atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_tight_box_stays_tight_when_voxels_are_divided(factor: int) -> None:
    """The mask, repeated voxel by voxel, has the mapped box as its own tight box; and back."""
    mask = np.zeros((12, 10), dtype=np.uint8)
    mask[3:9, 4:5] = 1
    finer = regionprops(mask.repeat(factor, axis=0).repeat(factor, axis=1))[0].bbox
    matrix = np.diag([factor, factor, 1.0, 1.0])
    matrix[:2, 3] = (factor - 1) / 2
    mapped = map_prompt(box([3, 4], [8, 4]), matrix)
    assert mapped["coords"] == [[finer[0], finer[1]], [finer[2] - 1, finer[3] - 1]]
    assert map_prompt(mapped, np.linalg.inv(matrix))["coords"] == [[3, 4], [8, 4]]


def test_a_box_thinner_than_a_new_voxel_keeps_its_place() -> None:
    matrix = np.diag([1.0, 0.25, 1.0, 1.0])
    assert map_prompt(box([3, 8], [5, 8]), matrix)["coords"] == [[3, 2], [5, 2]]


def test_permutation_with_anisotropic_spacing_is_exact() -> None:
    """Affine of a sagittal file and its inverse in another order: rounding errors must not remain in whole indices."""
    source = np.array([[0, 0, -3.3, 90.1], [-0.7, 0, 0, 33.3], [0, 0.7, 0, -12.7], [0, 0, 0, 1]])
    target = np.array([[3.3, 0, 0, 90.1 - 3.3 * 19], [0, -0.7, 0, 33.3], [0, 0, 0.7, -12.7], [0, 0, 0, 1]])
    mapped = map_prompt(box([7, 11, 4], [9, 13, 6]), np.linalg.inv(target) @ source)
    assert mapped["coords"] == [[13, 7, 11], [15, 9, 13]]


def test_points_of_a_picture_use_the_upper_left_of_the_matrix() -> None:
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:2, 3] = [[0, 2], [1, 0]], [0.5, 0]
    prompt = Prompt(kind="point", label="organ", coords=[[3, 4]], point_labels=[1])
    assert map_prompt(prompt, matrix)["coords"] == [[8.5, 3]]


def test_label_values() -> None:
    assert label_values(["kidney", "tumour"]) == {"kidney": 1, "tumour": 2}
    assert label_values({"a": 7, "b": 3}) == {"a": 7, "b": 3}
    for wrong in ({"a": 0}, {"a": 1, "b": 1}, [], "kidney"):
        with pytest.raises(ValueError, match="labels must"):
            label_values(wrong)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            Prompt(kind="user", label="liver", coords=[[1, 1]], point_labels=[1]),
            "'liver' is unknown, expected one of organ",
        ),
        (Prompt(kind="user", label="organ", coords=[[1, 1, 1]], point_labels=[1]), "points of 2 coordinates each"),
        (Prompt(kind="user", label="organ", coords=[[1, float("nan")]], point_labels=[1]), "finite"),
        (Prompt(kind="user", label="organ", coords=[], point_labels=[]), "at least 1"),
        (Prompt(kind="user", label="organ", coords=[[1, 1]], point_labels=[5]), "point_labels must be"),
        (Prompt(kind="user", label="organ", coords=[[1, 1]], point_labels=[2]), "a pair 2, 3"),
        (Prompt(kind="user", label="organ", coords=[[1, 12]], point_labels=[1]), r"\[1.0, 12.0\].*outside.*\(20, 10\)"),
        (box([25, 0], [30, 5]), r"box .*outside the image"),
        (
            Prompt(kind="mask", label="organ", coords=[], point_labels=[], mask={"shape": [10, 20], "counts": [200]}),
            r"mask \(10, 20\) and image \(20, 10\) must share one grid",
        ),
        (
            Prompt(kind="user", label="organ", coords=[], point_labels=[], target={"shape": [20, 10], "counts": [200]}),
            "at least 1",
        ),
        (Prompt(kind="text", label="organ", coords=[[1, 40]], point_labels=[1], text="a"), "outside the image"),
    ],
)
def test_check_names_what_is_wrong(prompt: Prompt, message: str) -> None:
    with pytest.raises(ValueError, match=r"file\.json, entry 3: .*" + message):
        check_prompt(prompt, where="file.json, entry 3", labels=["organ"], shape=(20, 10))


def test_check_allows_a_box_that_reaches_over_the_edge() -> None:
    check_prompt(box([15, -3], [25, 4]), where="", labels=None, shape=(20, 10))


def test_a_picture_gets_its_file_affine_before_spatial_transforms_only() -> None:
    """MONAI's PIL reader leaves no original_affine."""
    picture = MetaTensor(torch.zeros(1, 8, 6))
    np.testing.assert_array_equal(file_affine(picture), np.eye(4))
    flipped = Flip(0)(picture)
    np.testing.assert_array_equal(file_affine(flipped), np.eye(4))
    with pytest.raises(ValueError, match="right after loading"):
        file_affine(Flip(0)(MetaTensor(torch.zeros(1, 8, 6))))


def test_check_allows_prompts_without_points_that_say_it_in_another_way() -> None:
    bare = {"kind": "user", "label": "organ", "coords": [], "point_labels": []}
    for more in ({"text": "liver"}, {"mask": {"shape": [20, 10], "counts": [3, 4, 193]}}):
        check_prompt(Prompt(**bare, **more), where="", labels=["organ"], shape=(20, 10))


def test_boxes_without_size() -> None:
    for lower, upper in (([3, 4], [3, 4]), ([3, 4], [3, 9]), ([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [1, 2, 8])):
        with pytest.raises(ValueError, match=r"entry 2: the box .* has no size"):
            check_box(np.array([lower, upper]), where="entry 2")
    for lower, upper in (([3, 4], [4, 5]), ([1, 2, 3], [1, 5, 8]), ([1, 2, 3], [4, 5, 8])):
        check_box(np.array([lower, upper]), where="")


def test_all_parts_of_a_prompt_move_together() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:4, 2:7] = True
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = 5
    prompt = Prompt(
        kind="box-k2",
        label="organ",
        coords=[[2, 3], [1, 2], [3, 6]],
        point_labels=[0, 2, 3],
        text="liver",
        mask=encode_mask(mask),
        target=encode_mask(mask[:, ::-1]),
        axis=1,
    )
    mapped = map_prompt(prompt, flip, shape=(6, 8))
    assert mapped["coords"] == [[3, 3], [2, 2], [4, 6]]
    assert (mapped["text"], mapped["axis"], mapped["point_labels"]) == ("liver", 1, [0, 2, 3])
    np.testing.assert_array_equal(decode_mask(mapped["mask"]), mask[::-1])
    np.testing.assert_array_equal(decode_mask(mapped["target"]), mask[::-1, ::-1])
    assert prompt["coords"] == [[2, 3], [1, 2], [3, 6]], "the original stays"
    text = Prompt(kind="text", label="organ", coords=[], point_labels=[], text="liver")
    assert map_prompt(text, flip) == text
    with pytest.raises(ValueError, match="needs the shape of the new grid"):
        map_prompt(prompt, flip)


def test_spacing_and_its_errors() -> None:
    oblique = np.array([[-0.8, 0.1, 0.2, 90], [0.1, 0.8, 0.3, -70], [-0.1, -0.2, 2.5, 33], [0, 0, 0, 1]])
    np.testing.assert_allclose(voxel_spacing(oblique, where=""), [0.66**0.5, 0.69**0.5, 6.38**0.5])
    parallel = oblique.copy()
    parallel[:, 1] = parallel[:, 0]
    for wrong in (np.diag([1.0, 1, 0, 1]), np.diag([1.0, 1e-9, 1, 1]), np.diag([1, np.inf, 1, 1]), parallel):
        for function in (voxel_spacing, invert_affine):
            with pytest.raises(ValueError, match=r"scan\.nii: its affine cannot be used \(a voxel spacing of zero"):
                function(wrong, where="scan.nii")
    np.testing.assert_allclose(invert_affine(oblique, where="") @ oblique, np.eye(4), atol=1e-12)
