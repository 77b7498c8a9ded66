from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

from fairmedfm_monai.transforms import PictureIntensityd

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))


def picture(shape: tuple[int, ...] = (3, 20, 15), seed: int = 0) -> MetaTensor:
    values = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).float()
    return MetaTensor(values, affine=AFFINE, meta={"source_max": 255.0})


def scaled(image: Any, **options: Any) -> Any:
    return PictureIntensityd("image", **options)({"image": image, "label": 1})["image"]


@pytest.mark.parametrize("shape", [(3, 20, 15), (1, 20, 15), (1, 12, 10, 8), (3, 6, 6, 4)])
def test_eight_bits_are_divided_by_255_and_stay_what_they_are(shape: tuple[int, ...]) -> None:
    image = picture(shape)
    before = image.clone()
    result = scaled(image)
    expected = image.numpy().astype(np.uint8) / np.float32(255)
    np.testing.assert_array_equal(result.numpy(), expected)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, AFFINE)
    assert torch.equal(image, before)
    # Models of the SAM family take 0..255: exactly the numbers of the file.
    np.testing.assert_array_equal(scaled(image, b_max=255.0).numpy(), before.numpy())


def test_sixteen_bits_give_what_eight_bits_give(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (20, 15, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "eight.png")
    deep = SimpleITK.GetImageFromArray(colours.astype(np.uint16) * 257, isVector=True)
    SimpleITK.WriteImage(deep, str(tmp_path / "sixteen.png"))
    load = LoadImaged("image", reader="fairmedfm_monai.transforms.CaseReader", ensure_channel_first=True)
    eight, sixteen = (scaled(load({"image": str(tmp_path / f"{name}.png")})["image"]) for name in ("eight", "sixteen"))
    assert sixteen.shape == (3, 15, 20)
    torch.testing.assert_close(eight.as_tensor(), sixteen.as_tensor(), atol=1e-7, rtol=0)


def test_float_files_in_0_1_and_0_255_give_the_same() -> None:
    values = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 1.0
    torch.testing.assert_close(scaled(values), values)
    torch.testing.assert_close(scaled(values * 255), values)


def test_a_dark_picture_stays_dark() -> None:
    """FairVLMed's SLO pictures reach 86 of 255."""
    image = picture()
    dark = MetaTensor(torch.div(image.as_tensor(), 3, rounding_mode="floor"), meta=image.meta)
    assert scaled(dark).max() == pytest.approx(85 / 255)
    assert scaled(dark, stretch=(0, 100)).max() == 1


def test_stretch_keeps_hues_and_takes_all_slices_together() -> None:
    image = picture((3, 12, 10, 4))
    image[1] *= 0.5
    image[..., 2] *= 0.1
    result = scaled(image, stretch=(2, 98), b_max=255.0).numpy()
    low, high = np.percentile(image.numpy(), (2, 98))
    np.testing.assert_allclose(result, np.clip((image.numpy() - low) / (high - low), 0, 1) * 255, atol=1e-3)


def test_a_range_in_the_units_of_the_file() -> None:
    """Thickness of the nerve fibre layer in micrometres, -2 where there is none, as 8-bit pictures of it were made."""
    thickness = torch.tensor([[[-2.0, 0.0, 174.0, 350.0, 400.0, float("nan")]]])
    expected = [0.0, 2 / 352, 0.5, 1.0, 1.0, 0.0]
    assert scaled(thickness, value_range=(-2, 350)).flatten().tolist() == pytest.approx(expected)


def test_values_that_are_no_numbers_are_black() -> None:
    image = torch.tensor([[[0.5, float("nan"), float("inf"), -float("inf")]]])
    assert scaled(image).flatten().tolist() == [0.5, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"stretch": (1, 99)}])
def test_a_constant_picture(options: dict[str, Any]) -> None:
    image = torch.full((3, 4, 4), 51, dtype=torch.uint8)
    expected = 0.0 if options else np.float32(0.2)
    assert torch.equal(scaled(image, **options), torch.full((3, 4, 4), float(expected)))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"value_range": (1, 0)}, "value_range"),
        ({"value_range": (0, 1, 2)}, "value_range"),
        ({"value_range": (0, 1), "stretch": (1, 99)}, "not both"),
        ({"stretch": (99, 1)}, "percentiles"),
        ({"stretch": (1,)}, "stretch"),
        ({"b_max": 0}, "b_max"),
    ],
)
def test_wrong_options(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        PictureIntensityd("image", **options)


def test_missing_keys() -> None:
    assert PictureIntensityd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError):
        PictureIntensityd("image")({"label": 1})
