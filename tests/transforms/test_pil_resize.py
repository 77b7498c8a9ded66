"""PILResized against torchvision on PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize, ToTensor

from fairmedfm_monai.transforms.pil_resize import PILResized

FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", [(300, 401), (401, 300), (97, 64), (224, 224), (1, 1), (5, 700)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_torchvision(channels: int, shape: tuple[int, int], interpolation: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    expected = Compose([Resize(64, FILTERS[interpolation]), ToTensor()])(picture)
    image = torch.from_numpy(array).permute(2, 0, 1) / 255
    found = PILResized("image", size=64, interpolation=interpolation)({"image": image})["image"]
    assert torch.equal(found, expected)
    squashed = Compose([Resize((64, 64), FILTERS[interpolation]), ToTensor()])(picture)
    transform = PILResized("image", size=64, mode="squash", interpolation=interpolation)
    assert torch.equal(transform({"image": image})["image"], squashed)


@pytest.mark.parametrize("shape", [(300, 401), (97, 65), (71, 64), (64, 71), (64, 64), (9, 700)])
@pytest.mark.parametrize("crop", [56, 57, 64, 80])
def test_the_middle_is_that_of_torchvision(shape: tuple[int, int], crop: int) -> None:
    array = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = Compose([Resize(64, FILTERS["bicubic"]), CenterCrop(crop), ToTensor()])(Image.fromarray(array))
    image = torch.from_numpy(array).permute(2, 0, 1) / 255
    assert torch.equal(PILResized("image", size=64, crop=crop)({"image": image})["image"], expected)


def test_the_long_side_fills_the_size() -> None:
    image = torch.rand(3, 50, 201)
    assert PILResized("image", size=100, mode="longest")({"image": image})["image"].shape == (3, 24, 100)


def test_padding_goes_to_the_middle_or_to_the_end() -> None:
    image = torch.ones(1, 10, 20)
    centre = PILResized("image", size=20, mode="longest", crop=20)({"image": image})["image"]
    end = PILResized("image", size=20, mode="longest", crop=20, pad="end")({"image": image})["image"]
    assert centre[0, :, 0].tolist() == [0.0] * 5 + [1.0] * 10 + [0.0] * 5
    assert end[0, :, 0].tolist() == [1.0] * 10 + [0.0] * 10


def test_box_averages_areas() -> None:
    array = np.random.default_rng(2).integers(0, 256, (40, 60), dtype=np.uint8)
    image = torch.from_numpy(array)[None] / 255
    found = PILResized("image", size=10, interpolation="box")({"image": image})["image"][0] * 255
    expected = array.reshape(10, 4, 15, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found, expected, atol=1.0)  # PIL rounds to 8 bit after each of both axes


def test_volumes_go_slice_by_slice() -> None:
    volume = torch.rand(1, 40, 60, 3)
    transform = PILResized("image", size=20)
    found = transform({"image": volume})["image"]
    for index in range(3):
        assert torch.equal(found[..., index], transform({"image": volume[..., index]})["image"])


@pytest.mark.parametrize("wrong", [{"size": 0}, {"size": 8, "mode": "crop"}, {"size": 8, "interpolation": "nearest"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="`mode` one of shortest, longest, squash"):
        PILResized("image", **wrong)


def test_four_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 or 3, H, W"):
        PILResized("image", size=8)({"image": torch.rand(4, 9, 9)})
