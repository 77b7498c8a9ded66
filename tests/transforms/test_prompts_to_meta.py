"""The road of prompts into the image's meta data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Flipd, Orientationd, Resized, Rotate90d, Spacingd, SpatialCropd

from fairmedfm_monai.transforms.prompt_masks import decode_mask, encode_block
from fairmedfm_monai.transforms.prompts_to_meta import PromptsToMetad
from fairmedfm_monai.transforms.simulate_prompts import SimulatePromptsd

OBLIQUE = np.array([[-0.8, 0.1, 0.2, 90], [0.1, 0.8, 0.3, -70], [-0.1, -0.2, 2.5, 33], [0, 0, 0, 1]])


def marked(shape: tuple[int, ...], point: tuple[int, ...], affine: np.ndarray) -> dict[str, Any]:
    """A volume with one bright voxel and a prompt on it."""
    array = torch.zeros(1, *shape)
    array[(0, *point)] = 1000
    image = MetaTensor(array, affine=torch.as_tensor(affine), meta={"original_affine": affine})
    prompt = {"kind": "user", "label": "organ", "coords": [list(point)], "point_labels": [1]}
    return {"image": image, "prompts": [prompt]}


@pytest.mark.parametrize(
    "transform",
    [
        Orientationd("image", axcodes="RAS", labels=None),
        Orientationd("image", axcodes="SPL", labels=None),
        Flipd("image", spatial_axis=(0, 2)),
        Rotate90d("image", k=1),
        SpatialCropd("image", roi_start=(2, 3, 1), roi_end=(30, 30, 9)),
        Compose(
            [
                Orientationd("image", axcodes="LPS", labels=None),
                SpatialCropd("image", roi_start=(4, 5, 1), roi_end=(39, 39, 9)),
            ]
        ),
    ],
)
def test_prompt_stays_on_its_voxel(transform: Any) -> None:
    """Where MONAI moves the bright voxel, the prompt goes."""
    data = PromptsToMetad()(transform(marked((40, 36, 10), (14, 9, 4), OBLIQUE)))
    (prompt,) = json.loads(data["image"].meta["prompts"])
    assert prompt["coords"] == [np.argwhere(np.asarray(data["image"][0]) > 500)[0].tolist()]


@pytest.mark.parametrize(
    "transform",
    [Resized("image", spatial_size=(80, 54, 10)), Spacingd("image", pixdim=(0.4, 0.6, 1.5), mode="bilinear")],
)
def test_prompt_stays_within_half_a_voxel_under_resampling(transform: Any) -> None:
    data = PromptsToMetad()(transform(marked((40, 36, 10), (14, 9, 4), OBLIQUE)))
    (prompt,) = json.loads(data["image"].meta["prompts"])
    weights = np.asarray(data["image"][0], dtype=float)
    centre = (np.indices(weights.shape) * weights).sum(axis=(1, 2, 3)) / weights.sum()
    np.testing.assert_allclose(prompt["coords"][0], centre, atol=0.5)


def with_mask(affine: np.ndarray) -> dict[str, Any]:
    """A volume that is its own reference mask, an ellipsoid, and a prompt that carries it."""
    grid = np.indices((24, 22, 14))
    mask = ((grid[0] - 10) / 7) ** 2 + ((grid[1] - 12) / 8) ** 2 + ((grid[2] - 6) / 4) ** 2 <= 1
    tensor = torch.as_tensor(mask.astype(np.float32))[None]
    image = MetaTensor(tensor, affine=torch.as_tensor(affine), meta={"original_affine": affine})
    return {"image": image, "label": image.clone(), "case_id": "a"}


@pytest.mark.parametrize(
    "transform",
    [
        Orientationd("image", axcodes="SPL", labels=None),
        Flipd("image", spatial_axis=(0, 2)),
        Compose([Rotate90d("image", k=1), SpatialCropd("image", roi_start=(2, 5, 3), roi_end=(19, 20, 12))]),
        Resized("image", spatial_size=(48, 11, 14), mode="nearest-exact"),
        Spacingd("image", pixdim=(0.5, 1.1, 1.0), mode="nearest"),
    ],
)
def test_masks_go_where_monai_moves_them(transform: Any) -> None:
    chain = Compose([SimulatePromptsd(labels=["organ"], kinds=["mask-k1"], per="volume"), transform, PromptsToMetad()])
    image = chain(with_mask(OBLIQUE))["image"]
    (prompt,) = json.loads(image.meta["prompts"])
    expected = np.asarray(image[0]) > 0.5
    found = decode_mask(prompt["mask"])
    assert found.shape == expected.shape
    # Where a new centre lies between two old ones, MONAI may choose the other.
    allowed = 0 if not isinstance(transform, Spacingd) else 0.02 * expected.sum()
    assert (found != expected).sum() <= allowed
    np.testing.assert_array_equal(decode_mask(prompt["target"]), found)


def test_a_mask_and_its_axis_reach_the_inferer_of_a_sliced_volume() -> None:
    data = with_mask(np.diag([1.0, 1, 3, 1]))
    chain = Compose(
        [SimulatePromptsd(labels=["organ"], kinds=["mask"], axis="vote", per="key_slice"), PromptsToMetad()]
    )
    prompts = json.loads(chain(data)["image"].meta["prompts"])
    array = np.asarray(data["label"][0]) > 0
    assert [prompt["axis"] for prompt in prompts] == [0, 1, 2]
    for prompt in prompts:
        index = (10, 12, 6)[prompt["axis"]]
        mask = decode_mask(prompt["mask"])
        assert mask.sum() == array.take(index, axis=prompt["axis"]).sum()
        assert (mask <= array).all()


def test_block_masks_of_pictures_follow_a_resize() -> None:
    block = np.ones((5, 6), bool)
    image = MetaTensor(torch.zeros(1, 20, 30))
    image.meta["original_affine"] = image.affine.clone()
    prompt = {
        "kind": "user",
        "label": "a",
        "coords": [],
        "point_labels": [],
        "mask": encode_block(block, (3, 4), (20, 30)),
    }
    data = PromptsToMetad()(Resized("image", spatial_size=(40, 90))({"image": image, "prompts": [prompt]}))
    (mapped,) = json.loads(data["image"].meta["prompts"])
    expected = np.zeros((40, 90), bool)
    expected[6:16, 12:30] = True
    np.testing.assert_array_equal(decode_mask(mapped["mask"]), expected)


def test_boxes_follow_flips_of_a_picture() -> None:
    mask = MetaTensor(torch.zeros(1, 48, 30))
    mask[:, 16:25, 5:12] = 1
    image = MetaTensor(torch.zeros(1, 48, 30))
    chain = Compose(
        [SimulatePromptsd(labels=["organ"], kinds=["box"]), Flipd("image", spatial_axis=0), PromptsToMetad()]
    )
    (prompt,) = json.loads(chain({"image": image, "label": mask})["image"].meta["prompts"])
    assert prompt["coords"] == [[23, 5], [31, 11]]


def test_the_text_survives_a_loader_and_the_list_does_not_reach_it() -> None:
    cases = [marked((12, 12, 4), (3, 3, 1), np.eye(4)), marked((12, 12, 4), (4, 3, 2), np.eye(4))]
    cases[1]["prompts"] *= 3  # lists of unequal length break collation
    direct = [PromptsToMetad()(case) for case in cases]
    assert all("prompts" not in case for case in direct)
    batch = next(iter(DataLoader(Dataset(cases, PromptsToMetad()), batch_size=2)))
    texts = [image.meta["prompts"] for image in decollate_batch(batch["image"])]
    assert texts == [case["image"].meta["prompts"] for case in direct]
    assert [len(json.loads(text)) for text in texts] == [1, 3]


def test_without_prompts_nothing_happens() -> None:
    data = marked((12, 12, 4), (3, 3, 1), np.eye(4))
    del data["prompts"]
    assert "prompts" not in PromptsToMetad()(data)["image"].meta


def test_affine_without_inverse() -> None:
    data = marked((12, 12, 4), (3, 3, 1), np.eye(4))
    data["image"].affine = torch.diag(torch.tensor([1.0, 0, 1, 1]))
    with pytest.raises(ValueError, match="spacing of zero"):
        PromptsToMetad()(data)


def test_the_prompts_as_they_were_made_stay_beside_without_the_reference() -> None:
    image = MetaTensor(torch.zeros(1, 4, 5), affine=torch.eye(4), meta={"original_affine": torch.eye(4)})
    target = {"shape": [4, 5], "counts": [20]}
    prompt = {"kind": "point-k1", "label": "liver", "coords": [[1, 2]], "point_labels": [1], "target": target}
    flipped = Flipd("image", spatial_axis=0)({"image": image, "prompts": [prompt]})
    meta = PromptsToMetad()(flipped)["image"].meta
    assert json.loads(meta["source_prompts"]) == [{key: prompt[key] for key in prompt if key != "target"}]
    assert json.loads(meta["prompts"])[0]["coords"] == [[2.0, 2.0]]
