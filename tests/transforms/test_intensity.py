from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRanged, ScaleIntensityRangePercentiles

from fairmedfm_monai.transforms.intensity import CTWindowd, XRayIntensityd, window_bounds


def image(shape: tuple[int, ...] = (1, 40, 30), scale: float = 1000.0, **meta: Any) -> MetaTensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * scale
    return MetaTensor(values, affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])), meta=meta)


@pytest.mark.parametrize("shape", [(1, 40, 30), (1, 12, 10, 8), (2, 5, 5, 5)])
@pytest.mark.parametrize("window", ["lung", (-600, 1500), [-600.0, 1500.0]])
def test_window_agrees_with_monai(shape: tuple[int, ...], window: Any) -> None:
    ct = image(shape)
    ours = CTWindowd("image", window=window)({"image": ct, "label": 1})
    theirs = ScaleIntensityRanged("image", a_min=-1350, a_max=150, b_min=0, b_max=1, clip=True)({"image": ct})
    torch.testing.assert_close(ours["image"], theirs["image"], atol=1e-6, rtol=0)
    assert ours["label"] == 1


def test_window_keeps_meta_and_input() -> None:
    ct = image()
    before = ct.clone()
    result = CTWindowd("image", output_range=(0, 255))({"image": ct})["image"]
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, ct.affine)
    assert torch.equal(ct, before)
    assert result.dtype == torch.float32
    assert (result.min(), result.max()) == (0, 255)


def test_window_of_padding_and_infinities() -> None:
    ct = torch.tensor([[[float("nan"), float("inf"), -float("inf"), 50.0]]])
    assert CTWindowd("image", window=(50, 400))({"image": ct})["image"].flatten().tolist() == [0, 1, 0, 0.5]


def test_window_of_integers() -> None:
    assert CTWindowd("image", window=[0, 2])({"image": np.array([[[-1, 0, 1]]])})["image"].flatten().tolist() == [
        0,
        0.5,
        1,
    ]


def test_default_window() -> None:
    assert window_bounds(None) == window_bounds("soft_tissue") == (-150, 250)


@pytest.mark.parametrize("window", ["lungs", (40, 0), (40, -5), (1, 2, 3)])
def test_wrong_windows(window: Any) -> None:
    with pytest.raises(ValueError, match="`window`"):
        CTWindowd("image", window=window)


def test_wrong_output_range() -> None:
    with pytest.raises(ValueError, match="`output_range`"):
        CTWindowd("image", output_range=(1, 0))


@pytest.mark.parametrize("shape", [(1, 40, 30), (1, 12, 10, 8)])
def test_percentiles_agree_with_monai(shape: tuple[int, ...]) -> None:
    film = image(shape)
    ours = XRayIntensityd("image", lower=2, upper=95)({"image": film})["image"]
    theirs = ScaleIntensityRangePercentiles(2, 95, 0, 1, clip=True)(film)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert torch.equal(ours.affine, film.affine)


def test_scale_of_the_file_does_not_matter() -> None:
    film = image()
    one, other = (XRayIntensityd("image")({"image": picture})["image"] for picture in (film, film * 16 + 500))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_monochrome1_comes_out_as_monochrome2() -> None:
    film = image(**{"00280004": {"vr": "CS", "Value": ["MONOCHROME2"]}})
    negative = MetaTensor(4095 - film.as_tensor(), meta={"00280004": {"vr": "CS", "Value": ["MONOCHROME1"]}})
    scale = XRayIntensityd("image")
    torch.testing.assert_close(scale({"image": film})["image"], scale({"image": negative})["image"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("invert", "meta"), [(True, ""), (False, "MONOCHROME1")])
def test_inversion_can_be_forced(invert: bool, meta: str) -> None:
    film = image(**{"00280004": {"vr": "CS", "Value": [meta]}})
    plain = XRayIntensityd("image", invert="auto")({"image": film.as_tensor()})["image"]
    forced = XRayIntensityd("image", invert=invert)({"image": film})["image"].as_tensor()
    torch.testing.assert_close(forced, 1 - plain if invert else plain)


def test_colour_becomes_grey() -> None:
    grey = image().as_tensor()
    result = XRayIntensityd("image")({"image": grey.repeat(3, 1, 1)})["image"]
    torch.testing.assert_close(result, XRayIntensityd("image")({"image": grey})["image"], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="1 or 3"):
        XRayIntensityd("image")({"image": grey.repeat(2, 1, 1)})


def test_large_images_are_sampled() -> None:
    film = image((1, 1500, 1500))
    ours = XRayIntensityd("image")({"image": film})["image"]
    low, high = np.percentile(film.numpy(), (0.5, 99.5))
    expected = ((film - low) / (high - low)).clamp(0, 1)
    assert (ours - expected).abs().max() < 0.01


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_zero(value: float) -> None:
    assert XRayIntensityd("image")({"image": torch.full((1, 4, 4), value)})["image"].abs().max() == 0


def test_values_that_are_no_numbers() -> None:
    film = image().as_tensor()
    film[0, 0, 0] = float("nan")
    assert torch.isfinite(XRayIntensityd("image")({"image": film})["image"]).all()
    with pytest.raises(ValueError, match="no finite value"):
        XRayIntensityd("image")({"image": torch.full((1, 4, 4), float("nan"))})


@pytest.mark.parametrize("options", [{"lower": 99, "upper": 1}, {"lower": -1}, {"invert": "yes"}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`(lower|invert)`"):
        XRayIntensityd("image", **options)


def test_missing_keys() -> None:
    assert CTWindowd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError):
        XRayIntensityd("image")({"label": 1})
