from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Invertd

from fairmedfm_monai.transforms import CropFundusd
from fairmedfm_monai.transforms.fundus import field_of_view


def photograph(height: int = 60, width: int = 80, radius: float = 20.0) -> MetaTensor:
    """A round field of view around (32, 45) in black with noise, and letters in a corner."""
    row, column = np.indices((height, width))
    disc = (row - 32) ** 2 + (column - 45) ** 2 <= radius**2
    colours = np.random.default_rng(0).uniform(0, 4, (3, height, width))
    colours[:, disc] = np.array([180, 90, 30])[:, None]
    colours[:, 2:5, 2:9] = 255
    return MetaTensor(colours.astype(np.float32), affine=torch.eye(4))


def test_the_box_is_that_of_the_disc_and_the_mask_goes_with_it() -> None:
    image = photograph()
    mask = MetaTensor((image[:1] > 100).float(), affine=torch.eye(4))
    result = CropFundusd(["image", "label"])({"image": image, "label": mask})
    assert result["image"].shape == (3, 41, 41)
    assert torch.equal(result["image"].as_tensor(), image.as_tensor()[:, 12:53, 25:66])
    assert result["label"].shape == (1, 41, 41)
    assert result["image"].affine[:2, 3].tolist() == [12, 25]


def test_the_crop_is_undone() -> None:
    crop = CropFundusd("image")
    cropped = crop({"image": photograph()})
    cropped["pred"] = cropped["image"].clone()
    back = Invertd("pred", transform=crop, orig_keys="image")(cropped)["pred"]
    assert back.shape == (3, 60, 80)
    assert torch.equal(back[:, 12:53, 25:66].as_tensor(), photograph().as_tensor()[:, 12:53, 25:66])


def test_a_field_of_view_cut_off_by_the_sensor_stays() -> None:
    assert CropFundusd("image")({"image": photograph(radius=200)})["image"].shape == (3, 60, 80)


def test_the_margin() -> None:
    assert CropFundusd("image", margin=3)({"image": photograph()})["image"].shape == (3, 47, 47)


def test_black_photographs_and_wrong_thresholds() -> None:
    with pytest.raises(ValueError, match="black all over"):
        field_of_view(torch.zeros(3, 5, 5))
    with pytest.raises(ValueError, match="`threshold`"):
        CropFundusd("image", threshold=1.0)
