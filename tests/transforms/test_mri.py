from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor

from fairmedfm_monai.transforms import MRIIntensityd, N4BiasFieldd, source_values
from fairmedfm_monai.transforms.tissue import tissue_threshold


def head(air: int = 8, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    """A ball of two tissues (300, 600) in noisy air; `air` voxels around it."""
    edge = 40 + 2 * air
    grid = np.indices((edge, edge, edge)) - (edge - 1) / 2
    radius = np.sqrt((grid**2).sum(axis=0))
    noise = np.random.default_rng(seed).normal(0, 12, (edge, edge, edge))
    tissue = np.where(radius < 10, 600.0, np.where(radius < 20, 300.0, 0.0))
    return (np.abs(tissue + noise) * scale).astype(np.float32)


def scaled(volume: Any, **options: Any) -> Any:
    image = volume if isinstance(volume, torch.Tensor) else torch.from_numpy(volume)[None]
    return MRIIntensityd("image", **options)({"image": image, "label": 1})["image"]


def test_percentiles_are_those_of_numpy_over_the_tissue_of_simpleitk() -> None:
    volume = head()
    cut = np.clip(volume, *np.percentile(volume, (0.5, 99.5)))
    otsu = SimpleITK.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(SimpleITK.GetImageFromArray(cut))
    tissue = volume[volume > otsu.GetThreshold()]
    low, high = np.percentile(volume, 0.5), np.percentile(tissue, 99.5)
    expected = np.clip((volume - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scaled(volume)[0].numpy(), expected, atol=0.005)


@pytest.mark.parametrize("vessel", [0.0, 600_000.0])
def test_air_lies_below_the_threshold_and_tissue_above(vessel: float) -> None:
    """Also with a vessel a thousand times as bright as the rest."""
    volume = head()
    volume[0, 0, :10] = vessel
    radius = np.sqrt(((np.indices(volume.shape) - 27.5) ** 2).sum(axis=0))
    found = volume > tissue_threshold(volume.ravel())
    assert found[radius < 20].mean() > 0.999
    assert found[radius >= 20].mean() < 0.001


def test_the_scale_of_the_scanner_does_not_matter() -> None:
    torch.testing.assert_close(scaled(head()), scaled(head(scale=37.0)), atol=1e-5, rtol=0)


def test_air_around_the_head_does_not_matter() -> None:
    """A small head in the same field of view must not look brighter than a large one."""
    white = []
    for air in (2, 14):
        core = slice(air + 16, air + 24)
        white.append(600 / scaled(head(air=air), upper=95)[0, core, core, core].mean().item())
    assert white[0] == pytest.approx(white[1], rel=0.02)
    # The same percentile of all values moves five times as much.
    plain = [np.percentile(head(air=air), 95) for air in (2, 14)]
    assert plain[0] > 1.1 * plain[1]


def test_slices_share_one_scale() -> None:
    volume = head()
    volume[:, :, :28] *= 0.25
    result = scaled(volume)[0].numpy()
    ratio = result[24:32, 24:32, 22].mean() / result[24:32, 24:32, 34].mean()
    assert ratio == pytest.approx(0.25, abs=0.02)


def test_sequences_have_their_own_scale_and_meta_stay() -> None:
    affine = torch.diag(torch.tensor([-1.0, 1.0, 3.0, 1.0]))
    both = MetaTensor(np.stack([head(), head(scale=9.0)]), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    result = scaled(both, b_max=255.0)
    torch.testing.assert_close(result[0], result[1], atol=1e-3, rtol=0)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)
    assert result.meta["filename_or_obj"] == "a.nii.gz"
    assert (float(result.min()), float(result.max())) == (0.0, 255.0)


def test_a_slice_is_scaled_too() -> None:
    result = scaled(head()[:, :, 28])
    assert result.shape == (1, 56, 56)
    assert (float(result.min()), float(result.max())) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_zero(value: float) -> None:
    assert scaled(torch.full((1, 6, 6, 6), value)).abs().max() == 0


def test_a_few_bright_voxels_in_nothing() -> None:
    spots = torch.zeros(1, 20, 20, 20)
    spots[0, 3, 3, 3:5] = torch.tensor([50.0, 100.0])
    result = scaled(spots)
    assert result[0, 3, 3, 4] == pytest.approx(1, abs=0.01)
    assert result.sum() < 2


def test_values_that_are_no_numbers() -> None:
    volume = head()
    volume[0, 0, :5] = np.nan
    result = scaled(volume)
    assert torch.isfinite(result).all()
    assert result[0, 0, 0, :5].tolist() == [0] * 5
    with pytest.raises(ValueError, match="no finite value"):
        scaled(torch.full((1, 4, 4), float("nan")))


def test_hounsfield_units_are_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_values, "_SAID", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scaled(torch.linspace(-1024, 2000, 1000).reshape(1, 10, 10, 10))
    assert caplog.text.count("Hounsfield units") == 1


def test_n4_comes_first() -> None:
    x = np.linspace(-1, 1, 56, dtype=np.float32)[:, None]
    biased = torch.from_numpy(head()[:, :, 28] * np.exp(0.5 * x))[None]
    by_hand = scaled(N4BiasFieldd("image")({"image": biased})["image"])
    result = scaled(biased, n4=True)
    assert torch.equal(result, by_hand)
    assert not torch.equal(result, scaled(biased))


@pytest.mark.parametrize("options", [{"lower": 99, "upper": 1}, {"upper": 101}, {"b_max": -1}])
def test_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`(lower|b_max)`"):
        MRIIntensityd("image", **options)


def test_missing_keys() -> None:
    assert MRIIntensityd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
    with pytest.raises(KeyError):
        MRIIntensityd("image")({"label": 1})
