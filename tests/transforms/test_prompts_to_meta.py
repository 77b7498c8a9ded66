"""The road of prompts into the image's meta data."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose, Flipd, Orientationd, Resized, Rotate90d, Spacingd, SpatialCropd

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
