from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fairmedfm_monai.transforms import N4BiasFieldd

SMALL = (24, 24, 16)


def ball(shape: tuple[int, ...] = (48, 48, 32)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One tissue (intensity 500, noise 10) in air, a smooth field of 0.6 to 1.7 or so, and the mask of the tissue."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    mask = sum(axis**2 for axis in axes) < 0.8
    noise = np.random.default_rng(0).normal(0, 10, shape)
    field = np.exp(0.4 * axes[0] - 0.2 * axes[1] ** 2)
    return np.abs(500.0 * mask + noise).astype(np.float32), field.astype(np.float32), mask


def corrected(volume: np.ndarray, **options: int) -> np.ndarray:
    image = torch.from_numpy(volume)[None]
    return N4BiasFieldd("image", **options)({"image": image, "label": 1})["image"][0].numpy()


def variation(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


@pytest.mark.parametrize("shape", [(48, 48, 32), (96, 80)])
def test_a_made_field_is_removed(shape: tuple[int, ...]) -> None:
    clean, field, mask = ball(shape)
    result = corrected(clean * field)
    assert variation((clean * field)[mask]) > 0.1
    # What is left is near the noise (2 %) of the tissue itself.
    assert variation(result[mask]) < 2 * variation(clean[mask])


def test_a_thin_stack_keeps_its_slices() -> None:
    clean, field, mask = ball((64, 64, 6))
    assert variation(corrected(clean * field)[mask]) < 2 * variation(clean[mask])


def test_two_runs_agree_to_the_bit() -> None:
    clean, field, _ = ball(SMALL)
    np.testing.assert_array_equal(corrected(clean * field), corrected(clean * field))


def test_meta_stay_and_channels_are_apart() -> None:
    clean, field, _ = ball(SMALL)
    affine = torch.diag(torch.tensor([-1.0, 1.0, 3.0, 1.0]))
    image = MetaTensor(np.stack([clean * field, clean]), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    before = image.clone()
    result = N4BiasFieldd("image")({"image": image})["image"]
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, affine)
    assert result.meta["filename_or_obj"] == "a.nii.gz"
    assert torch.equal(image, before)
    np.testing.assert_array_equal(result[0].numpy(), corrected(clean * field))
    np.testing.assert_array_equal(result[1].numpy(), corrected(clean))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (1, 12, 12, 1), (1, 12, 12, 3)])
def test_small_images_come_through(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    result = N4BiasFieldd("image")({"image": image})["image"]
    assert result.shape == shape
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("value", [0.0, -3.0, 5.0])
def test_an_image_without_tissue_is_left_alone(value: float) -> None:
    image = torch.full((1, 20, 20, 20), value)
    assert torch.equal(N4BiasFieldd("image")({"image": image})["image"], image)


def test_wrong_shrink_and_missing_keys() -> None:
    with pytest.raises(ValueError, match="`shrink`"):
        N4BiasFieldd("image", shrink=0)
    assert N4BiasFieldd("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}
