"""Prompts of volumes: whole, per slice, per key slice, along all axes; what they depend on and what they refuse."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Flipd, Orientationd
from skimage.measure import label as components_of
from skimage.measure import regionprops

from fairmedfm_monai.transforms import prompts as prompts_module
from fairmedfm_monai.transforms.prompt_masks import decode_mask, planes_of
from fairmedfm_monai.transforms.prompts_to_meta import PromptsToMetad
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd, box_prompt, center_prompt, point_prompt

ALL_KINDS = (
    "box",
    "box-j15",
    "box-neg2",
    "center",
    "point",
    "point-d40",
    "points",
    "points-n3-spread-neg2",
    "mask",
    "mask-j20",
    "box-cc",
    "center-cc-k3",
)
LABELS = {"liver": 3, "left_kidney": 1}


def volume() -> np.ndarray:
    """Label 3 in two parts and a speck, label 1 in one."""
    mask = np.zeros((20, 22, 12), dtype=np.uint8)
    mask[2:9, 3:12, 1:8] = 3
    mask[4:7, 5:8, 8:10] = 3
    mask[12:17, 14:20, 4:11] = 3
    mask[18, 1, 1] = 3
    mask[12:18, 2:9, 3:9] = 1
    return mask


def simulate(mask: np.ndarray, affine: np.ndarray | None = None, **settings: Any) -> list[dict[str, Any]]:
    meta = None if affine is None else {"original_affine": affine}
    tensor = MetaTensor(torch.as_tensor(mask.astype(np.float32))[None], affine=affine, meta=meta)
    settings = {"labels": LABELS, **settings}
    return SimulatePromptsd(**settings)({"label": tensor, "case_id": "case-1"})["prompts"]


def of(prompts: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [prompt for prompt in prompts if all(prompt[name] == value for name, value in wanted.items())]


def test_volume_gets_one_prompt_per_label_and_kind() -> None:
    mask = volume()
    prompts = simulate(mask, kinds=["box", "center", "points-n3", "mask"], per="volume")
    assert len(prompts) == 4 * len(LABELS)
    for name, value in LABELS.items():
        inside = np.argwhere(mask == value)
        (box,) = of(prompts, label=name, kind="box")
        assert box["coords"] == [inside.min(axis=0).tolist(), inside.max(axis=0).tolist()]
        for kind in ("center", "points-n3"):
            for point in of(prompts, label=name, kind=kind)[0]["coords"]:
                assert mask[tuple(point)] == value
        (masked,) = of(prompts, label=name, kind="mask")
        np.testing.assert_array_equal(decode_mask(masked["mask"]), mask == value)
        assert masked["coords"] == masked["point_labels"] == []


def test_key_slice_is_the_slice_prompt_of_the_largest_area() -> None:
    mask = volume()
    kinds = [kind for kind in ALL_KINDS if "cc" not in kind]
    for axis in range(3):
        each = simulate(mask, kinds=kinds, axis=axis)
        key = simulate(mask, kinds=kinds, axis=axis, per="key_slice")
        assert len(key) == len(kinds) * len(LABELS)
        assert all(prompt in each for prompt in key)
        for name, value in LABELS.items():
            areas = (mask == value).sum(axis=tuple(other for other in range(3) if other != axis))
            (box,) = of(key, label=name, kind="box")
            assert areas[box["coords"][0][axis]] == areas.max()


def test_vote_makes_the_prompts_of_all_three_axes() -> None:
    mask = volume()
    for per in ("slice", "key_slice"):
        together = simulate(mask, kinds=ALL_KINDS, axis="vote", per=per)
        for axis in range(3):
            alone = simulate(mask, kinds=ALL_KINDS, axis=axis, per=per)
            assert all("axis" not in prompt for prompt in alone)
            assert [{**prompt, "axis": axis} for prompt in alone] == of(together, axis=axis)
    points = [simulate(np.ones((9, 9, 9)), labels=["a"], kinds=["point"], axis=axis) for axis in range(3)]
    in_plane = [[np.delete(prompt["coords"][0], axis).tolist() for prompt in points[axis]] for axis in range(3)]
    assert in_plane[0] != in_plane[1] != in_plane[2], "axes are drawn apart"
    assert all("axis" not in prompt for prompt in simulate(mask, kinds=["box"], axis="vote", per="volume"))
    assert all("axis" not in prompt for prompt in simulate(mask[..., 5], kinds=["box"], axis="vote"))


def test_axis_of_a_vote_counts_in_the_preprocessed_image() -> None:
    """A sagittal file turned to LPS: its first axis becomes the last."""
    affine = np.array([[0, 0, 2.0, 0], [0, -1.0, 0, 0], [-1.0, 0, 0, 0], [0, 0, 0, 1]])
    mask = volume()
    tensor = MetaTensor(torch.as_tensor(mask)[None], affine=affine, meta={"original_affine": affine})
    data = {"image": tensor, "label": tensor, "case_id": "a"}
    chain = Compose(
        [
            SimulatePromptsd(labels=LABELS, kinds=["box", "mask"], axis="vote", axcodes="LPS"),
            Orientationd(["image", "label"], axcodes="LPS", labels=None),
            PromptsToMetad(),
        ]
    )
    result = chain(data)
    turned = np.asarray(result["label"][0])
    prompts = json.loads(result["image"].meta["prompts"])
    for axis in range(3):
        for prompt in of(prompts, axis=axis, kind="box"):
            index = prompt["coords"][0][axis]
            assert prompt["coords"][1][axis] == index
            inside = np.argwhere(turned.take(int(index), axis=axis) == LABELS[prompt["label"]])
            corners = [np.delete(corner, axis).tolist() for corner in prompt["coords"]]
            assert corners == [inside.min(axis=0).tolist(), inside.max(axis=0).tolist()]
        for prompt in of(prompts, axis=axis, kind="mask"):
            (index,) = planes_of(prompt["mask"], axis=axis)
            expected = turned.take(index, axis=axis) == LABELS[prompt["label"]]
            np.testing.assert_array_equal(decode_mask(prompt["mask"]).take(index, axis=axis), expected)


def test_components_get_a_prompt_each_largest_first(caplog: pytest.LogCaptureFixture) -> None:
    mask = volume()
    with caplog.at_level(logging.INFO):
        prompts = of(simulate(mask, kinds=["box-cc"], per="volume"), label="liver")
    regions = sorted(regionprops(components_of(mask == 3)), key=lambda region: -region.area)
    expected = [[list(region.bbox[:3]), [end - 1 for end in region.bbox[3:]]] for region in regions[:2]]
    assert [prompt["coords"] for prompt in prompts] == expected
    assert "case-1, liver: 1 components of fewer than 10 voxels got no prompt" in caplog.text
    assert len(of(simulate(mask, kinds=["box-cc"], per="volume", min_component=1), label="liver")) == 3
    # In a slice, the parts of the slice; with key slices, one per part of the volume.
    in_slices = of(simulate(mask, kinds=["box-cc"]), label="liver")
    assert len([prompt for prompt in in_slices if prompt["coords"][0][2] == 5]) == 2
    assert len(of(simulate(mask, kinds=["box-cc"], per="key_slice"), label="liver")) == 2


def test_a_speck_alone_in_its_slice_is_prompted() -> None:
    mask = np.zeros((9, 9, 3), np.uint8)
    mask[4, 4, 1] = 3
    assert len(simulate(mask, kinds=["box-cc"])) == 1


@pytest.mark.parametrize("per", ["slice", "volume", "key_slice"])
@pytest.mark.parametrize("kind", ["box-k2", "center-k1", "points-n2-k3", "box-cc-k2", "mask-j10-k4", "text-k2"])
def test_clicks_bring_the_mask_of_their_object(per: str, kind: str) -> None:
    mask = volume()
    for prompt in simulate(mask, kinds=[kind], per=per):
        target = decode_mask(prompt["target"])
        value = mask == LABELS[prompt["label"]]
        assert not (target & ~value).any()
        slices = np.flatnonzero(target.any(axis=(0, 1)))
        expected = components_of(value, connectivity=3) if "cc" in kind else value.astype(int)
        if per != "volume" and not kind.startswith("text"):
            assert len(slices) == 1
            plane = value[..., slices[0]]
            expected = components_of(plane, connectivity=2) if "cc" in kind else plane.astype(int)
            expected, target = np.atleast_3d(expected), target[..., slices]
        # A component's key slice shows what that component has there, here always a component of the slice.
        assert any((target == (expected == number)).all() for number in range(1, expected.max() + 1))
        if prompt["coords"] and kind.startswith("box"):
            inside = np.argwhere(decode_mask(prompt["target"]))
            assert prompt["coords"] == [inside.min(axis=0).tolist(), inside.max(axis=0).tolist()]
    assert all("target" not in prompt for prompt in simulate(mask, kinds=["box"], per=per))


def test_text_is_the_name_once_per_case() -> None:
    for per in ("slice", "volume", "key_slice"):
        prompts = simulate(volume(), kinds=["text"], per=per, axis="vote")
        assert prompts == [
            {"kind": "text", "label": "liver", "coords": [], "point_labels": [], "text": "liver"},
            {"kind": "text", "label": "left_kidney", "coords": [], "point_labels": [], "text": "left kidney"},
        ]
    assert simulate(volume(), kinds=["text"], texts={"liver": "hepar"})[0]["text"] == "hepar"
    assert simulate(np.where(volume() == 3, 0, volume()), kinds=["text"])[0]["label"] == "left_kidney"


@pytest.mark.parametrize("per", ["slice", "volume", "key_slice"])
def test_other_labels_and_kinds_change_nothing(per: str) -> None:
    mask = volume()
    reference = simulate(mask, kinds=ALL_KINDS, per=per)
    swapped = simulate(mask, kinds=ALL_KINDS[::-1], per=per, labels=dict(reversed(LABELS.items())))

    def key(prompt: dict[str, Any]) -> str:
        return json.dumps(prompt, sort_keys=True)

    assert sorted(map(key, swapped)) == sorted(map(key, reference))
    renumbered = np.select([mask == 3, mask == 1], [200, 7], 0)
    assert simulate(renumbered, kinds=ALL_KINDS, per=per, labels={"liver": 200, "left_kidney": 7}) == reference
    renamed = simulate(mask, kinds=ALL_KINDS, per=per, labels={"liver": 3, "other": 1})
    assert of(renamed, label="liver") == of(reference, label="liver")
    without = simulate(np.where(mask == 1, 0, mask), kinds=ALL_KINDS, per=per)
    assert without == of(reference, label="liver")
    for kind in ALL_KINDS:
        assert simulate(mask, kinds=[kind], per=per) == of(reference, kind=kind)
    assert simulate(mask, kinds=ALL_KINDS, per=per, seed=1) != reference


@pytest.mark.parametrize("per", ["slice", "volume", "key_slice"])
def test_prompts_without_draws_commute_with_flips(per: str) -> None:
    """Drawn on the flipped mask, or drawn and then flipped: the same boxes and masks."""
    mask = volume()
    mask[..., 8][mask[..., 8] == 1] = 0  # an odd number of slices, so that one is in the middle
    tensor = MetaTensor(torch.as_tensor(mask)[None])
    draw = SimulatePromptsd(labels=LABELS, kinds=["box", "mask", "box-cc-k2"], per=per)
    flip = Flipd(["image", "label"], spatial_axis=(0, 2))
    data = {"image": tensor, "label": tensor, "case_id": "a"}
    drawn_first = json.loads(PromptsToMetad()(flip(draw(data)))["image"].meta["prompts"])
    flipped = torch.as_tensor(np.ascontiguousarray(mask[::-1, :, ::-1]))[None]
    flipped_first = draw({"label": MetaTensor(flipped), "case_id": "a"})["prompts"]

    def key(prompt: dict[str, Any]) -> str:
        masks = {name: decode_mask(prompt[name]).tolist() for name in ("mask", "target") if name in prompt}
        coords = np.array(prompt["coords"], dtype=float).tolist()
        return json.dumps([prompt["kind"], prompt["label"], coords, masks], sort_keys=True)

    assert sorted(map(key, drawn_first)) == sorted(map(key, flipped_first))


def test_one_slice_volume() -> None:
    flat = volume()[..., 5]
    for per in ("slice", "volume", "key_slice"):
        for kind in (*ALL_KINDS, "text"):
            for prompt in simulate(flat[..., None], kinds=[kind], per=per):
                assert all(point[2] == 0 for point in prompt["coords"])
    (volume_centre,) = simulate(flat[..., None], labels={"a": 1}, kinds=["center"], per="volume")
    (picture_centre,) = simulate(flat, labels={"a": 1}, kinds=["center"])
    assert volume_centre["coords"][0][:2] == picture_centre["coords"][0]


def test_depth_of_a_volume_is_in_millimetres() -> None:
    """In voxels the long thick part is deepest, in millimetres the other."""
    mask = np.zeros((40, 40, 20), np.uint8)
    mask[2:9, 2:9, 2:9] = 1  # 7 voxels to each side
    mask[15:36, 15:36, 12:17] = 1  # 21 x 21 x 5
    (isotropic,) = simulate(mask, labels=["a"], kinds=["center"], per="volume")
    (thick,) = simulate(mask, np.diag([1.0, 1, 5, 1]), labels=["a"], kinds=["center"], per="volume")
    assert isotropic["coords"] == [[5, 5, 5]]
    assert thick["coords"] == [[25, 25, 14]]


def test_values_that_are_no_labels_are_background() -> None:
    """Neither 256 + 3 nor a fraction or NaN may pass for label 3 or 1 when the mask becomes small integers."""
    mask = volume().astype(np.float32)
    noisy = mask.copy()
    noisy[19, 20:22, 0:3] = np.array([[259, 257, 256], [np.nan, -253, np.inf]])
    noisy[0, 0, :2] = 0.3, 2
    noisy[mask == 3] += 1e-3
    assert simulate(noisy, kinds=["box", "point"]) == simulate(mask, kinds=["box", "point"])
    large = simulate(np.where(mask == 3, 70000, 0), labels={"liver": 70000}, kinds=["box"], per="volume")
    assert large == of(simulate(mask, kinds=["box"], per="volume"), label="liver")


def test_functions_for_bare_masks() -> None:
    mask = volume() == 1
    rng = np.random.default_rng(0)
    assert box_prompt(mask, rng).tolist() == [[12, 2, 3], [17, 8, 8]]
    assert center_prompt(mask[..., 5], rng).tolist() == [[14, 5]]
    points = point_prompt(mask, rng, 4)
    assert points.shape == (4, 3)
    assert mask[tuple(points.T)].all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["box-q7"]}, "kinds must be a list of box, center, .*unknown option 'q7'"),
        ({"kinds": ["user"]}, "prompts of users are not simulated"),
        ({"kinds": "box"}, "kinds must be a list"),
        ({"kinds": []}, "kinds must be a list"),
        ({"per": "case"}, "per must be one of slice, volume, key_slice"),
        ({"axis": 3}, r"axis -3\.\.2 or 'vote', got 'slice' and 3"),
        ({"axis": "all"}, "or 'vote'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatePromptsd(labels=LABELS, **settings)


def test_bad_masks() -> None:
    zero = np.diag([1.0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"case-1: its affine cannot be used \(a voxel spacing of zero"):
        simulate(volume(), zero)
    with pytest.raises(ValueError, match=r"case-1: its affine .* not finite"):
        simulate(volume(), np.diag([1.0, np.nan, 1, 1]))
    with pytest.raises(ValueError, match=r"one channel of integers, .* got \(1, 20\)"):
        SimulatePromptsd(labels=LABELS)({"label": MetaTensor(torch.zeros(1, 20))})
    image = MetaTensor(torch.zeros(1, 20, 22, 12), affine=np.diag([1.0, 1, 2, 1]))
    with pytest.raises(ValueError, match="mask and image must share one grid"):
        SimulatePromptsd(labels=LABELS)({"image": image, "label": MetaTensor(torch.zeros(1, 20, 22, 12))})


def test_a_volume_without_affine_is_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts_module, "_WITHOUT_AFFINE", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            simulate(volume(), kinds=["box"])
            simulate(volume()[..., 5], kinds=["box"])  # pictures never have one
    assert caplog.text.count("brings no affine, so the identity is assumed") == 1
