from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Orientation

from fairmedfm_monai.data.card_checks import MODALITIES
from fairmedfm_monai.transforms import (
    CTWindowd,
    ModalityIntensityd,
    MRIIntensityd,
    PictureIntensityd,
    XRayIntensityd,
    source_values,
)

OF_PICTURES = ("fundus", "dermoscopy", "pathology", "ultrasound", "oct", "slo")
COLOUR = ("fundus", "dermoscopy", "pathology")


def volume(modality: str, shape: tuple[int, ...]) -> MetaTensor:
    """Values that the modality's files hold."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    low, high, known = (-1024, 3071, float("nan")) if modality == "ct" else (0, 255, 255.0)
    affine = torch.tensor([[2.0, 0, 0, 5], [0, 1, 0, 7], [0, 0, 3, -9], [0, 0, 0, 1]])
    return MetaTensor((values * (high - low) + low).round(), affine=affine, meta={"source_max": known})


def scaled(image: torch.Tensor, modality: str, **options: Any) -> torch.Tensor:
    return ModalityIntensityd("image", modality=modality, **options)({"image": image, "label": 1})["image"]


@pytest.mark.parametrize(
    ("modality", "single"),
    [
        ("ct", CTWindowd("image", output_range=(0, 255))),
        ("xray", XRayIntensityd("image", b_max=255)),
        ("mri", MRIIntensityd("image", b_max=255)),
        *[(name, PictureIntensityd("image", b_max=255)) for name in OF_PICTURES],
    ],
)
def test_the_modality_chooses(modality: str, single: Any) -> None:
    image = volume(modality, (1, 12, 10))
    assert torch.equal(scaled(image, modality, b_max=255.0), single({"image": image})["image"])


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("shape", [(1, 14, 10), (1, 14, 10, 6)])
@pytest.mark.parametrize("b_max", [1.0, 255.0])
def test_all_keep_their_range_order_and_geometry(modality: str, shape: tuple[int, ...], b_max: float) -> None:
    image = volume(modality, shape)
    before = image.clone()
    result = scaled(image, modality, b_max=b_max)
    assert (result.shape, result.dtype) == (image.shape, torch.float32)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, image.affine)
    assert torch.equal(image, before)
    assert 0 <= result.min() < result.max() <= b_max
    assert result.max() > 0.9 * b_max
    ordered = result.flatten()[image.flatten().argsort()]
    assert (ordered.diff() >= 0).all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_intensities_and_orientation_do_not_depend_on_each_other(modality: str) -> None:
    turn, image = Orientation(axcodes="PLS", labels=None), volume(modality, (1, 14, 10, 6))
    first, last = turn(scaled(image, modality)), scaled(turn(image), modality)
    torch.testing.assert_close(first.as_tensor(), last.as_tensor(), atol=1e-6, rtol=0)
    assert torch.equal(first.affine, last.affine)
    assert first.shape == (1, 10, 14, 6)


@pytest.mark.parametrize("modality", COLOUR)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_stays_colour_and_grey_passes(modality: str, channels: int) -> None:
    image = volume(modality, (channels, 9, 8))
    result = scaled(image, modality)
    np.testing.assert_array_equal(result.numpy(), image.numpy() / np.float32(255))


def test_a_window_in_the_units_of_the_file_replaces_bit_depth_and_percentiles() -> None:
    image = torch.tensor([[[-2.0, 174.0, 350.0, 400.0]]])
    for modality in set(MODALITIES) - {"ct"}:
        assert scaled(image, modality, window=[174, 352]).flatten().tolist() == [0, 0.5, 1, 1]


def test_stretch_is_for_grey_pictures() -> None:
    image = MetaTensor(volume("slo", (1, 30, 30)) // 3, meta={"source_max": 255.0})
    assert scaled(image, "slo").max() == pytest.approx(1 / 3)
    assert scaled(image, "slo", stretch=[0.5, 99.5]).max() == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"modality": "mr"}, r"`modality` must be one of xray, fundus, .* but got 'mr'"),
        ({"modality": "mri", "window": "lung"}, r"'lung' is a name for CT, but `modality` is 'mri'"),
        ({"modality": "fundus", "window": "brain"}, r"'brain' is a name for CT"),
        ({"modality": "ct", "window": "lungs"}, r"'lungs' is not known"),
        ({"modality": "oct", "window": [0, -1]}, r"width > 0"),
        ({"modality": "ct", "n4": True}, r"`n4` is for `modality` mri, but got 'ct'"),
        ({"modality": "fundus", "stretch": [1, 99]}, r"`stretch` is for `modality` oct, slo, ultrasound"),
        ({"modality": "slo", "stretch": [1, 99], "window": [1, 2]}, r"`stretch` is for .* without `window`"),
    ],
)
def test_options_that_are_not_for_the_modality_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModalityIntensityd("image", **options)


def test_a_picture_under_ct_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_values, "_SAID", set())
    with caplog.at_level(logging.WARNING):
        scaled(volume("ct", (1, 8, 8)), "ct")
        assert not caplog.messages
        for _ in range(2):
            scaled(volume("fundus", (1, 8, 8)), "ct")
    assert len(caplog.messages) == 1
    assert "not HU" in caplog.text


def test_n4_is_switched_on_in_a_configuration() -> None:
    """As ``--preprocessing#transforms#0#n4 true`` on a command line does it."""
    target = "fairmedfm_monai.transforms.ModalityIntensityd"
    transforms = [{"_target_": target, "keys": "image", "modality": "@modality"}]
    parser = ConfigParser({"modality": "mri", "preprocessing": {"_target_": "Compose", "transforms": transforms}})
    parser["preprocessing#transforms#0#n4"] = True
    assert parser.get_parsed_content("preprocessing").transforms[0].transform.n4 is True
