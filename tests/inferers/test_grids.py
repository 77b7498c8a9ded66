"""Grids of volumes and models: against torch's, scipy's and nibabel's geometry."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from scipy import ndimage
from torch.nn import functional as F

from fairmedfm_monai.inferers.crops import MaskCrop
from fairmedfm_monai.inferers.grids import Grid

SHAPE = (23, 19, 14)
SPACINGS = [(1.5, 1.5, 1.5), (0.7, 0.7, 5.0), (3.0, 1.0, 1.0), (0.31, 1.9, 1.5), (4.0, 2.7, 0.9)]


def noise(shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand((1, *shape), generator=torch.Generator().manual_seed(0)) * 2000 - 1000


def whole(grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (0, 0, 0), grid.size


def test_equal_spacing_copies() -> None:
    volume = noise()
    grid = Grid.between(SHAPE, (1.5,) * 3, 1.5)
    window = grid.image(volume, (-3, 4, 10), (8, 8, 8))
    expected = F.pad(volume, (0, 4, 0, 0, 3, 0))[:, :8, 4:12, 10:18][None]
    torch.testing.assert_close(window, expected, rtol=0, atol=0)
    assert grid.region((-3, 4, 10), (8, 8, 8)) == (slice(0, 5), slice(4, 12), slice(10, 14))
    back = grid.back(window[0, 0], (-3, 4, 10))
    torch.testing.assert_close(back, volume[0, :5, 4:12, 10:14], rtol=0, atol=0)
    np.testing.assert_array_equal(grid.matrix, np.eye(4))
    assert Grid.between(SHAPE, (0.7, 1, 5), None) == Grid(SHAPE, (1.0, 1.0, 1.0))


def test_finer_is_torchs_trilinear() -> None:
    grid = Grid.between(SHAPE, (3.0, 4.5, 1.5), 1.5)
    assert grid.size == (46, 57, 14)
    expected = F.interpolate(noise()[None], scale_factor=(2, 3, 1), mode="trilinear", align_corners=False)
    torch.testing.assert_close(grid.image(noise(), *whole(grid)), expected, rtol=1e-5, atol=1e-2)
    # A window is a part of the whole.
    torch.testing.assert_close(
        grid.image(noise(), (7, 30, 2), (9, 9, 9)), expected[:, :, 7:16, 30:39, 2:11], rtol=1e-5, atol=1e-2
    )


def test_coarser_is_torchs_antialiased_filter() -> None:
    volume = noise((25, 40, 6))
    grid = Grid.between((25, 40, 6), (0.6, 0.375, 1.5), 1.5)
    assert grid.size == (10, 10, 6)
    planes = volume.movedim(-1, 1)  # torch knows the filter in two dimensions only
    expected = F.interpolate(planes, size=(10, 10), mode="bilinear", antialias=True, align_corners=False)
    result = grid.image(volume, *whole(grid))[0, 0].movedim(-1, 0)
    torch.testing.assert_close(result, expected[0], rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_back_is_linear_in_space(spacing: tuple[float, ...]) -> None:
    """Against scipy, at the places that two affines with a common outer face give; oblique makes no difference."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    face = np.array([-30.0, 12.0, 7.0])
    affines = []
    for voxel in (np.array(spacing), np.full(3, 1.5)):
        affines.append(nib.affines.from_matvec(turn @ np.diag(voxel), face + turn @ (voxel / 2)))
    grid, start, window = Grid.between(SHAPE, spacing, 1.5), (3, -2, 1), (12, 10, 11)
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=window)).float()
    region = grid.region(start, window)
    indices = np.stack(np.meshgrid(*(np.arange(p.start, p.stop) for p in region), indexing="ij"), axis=-1)
    places = apply_affine(np.linalg.inv(affines[1]) @ affines[0], indices) - start
    assert (places >= -0.5 - 1e-6).all()
    assert (places < np.array(window) - 0.5 + 1e-6).all()
    expected = ndimage.map_coordinates(logits.numpy(), np.moveaxis(places, -1, 0), order=1, mode="nearest")
    np.testing.assert_allclose(grid.back(logits, start), expected, atol=1e-5)
    np.testing.assert_allclose(grid.matrix, np.linalg.inv(affines[1]) @ affines[0], atol=1e-9)
    # Nothing in the field is left out: the voxels just outside the region are outside of it.
    for axis, part in enumerate(region):
        for index in {part.start - 1, part.stop} - {-1, SHAPE[axis]}:
            place = grid.matrix[axis, axis] * index + grid.matrix[axis, 3] - start[axis]
            assert not -0.5 <= place < window[axis] - 0.5 - 1e-6


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_ramp_stays_a_ramp(spacing: tuple[float, ...]) -> None:
    """Images move by the same matrix as coordinates: what is linear in space is kept.

    Exactly where the grid gets finer. A triangle of voxels that is not a whole number wide has its centre of mass a
    little off the place asked for (torch's filter too), far below the width of a model voxel.
    """
    ramp = np.indices(SHAPE).astype(np.float32)
    grid = Grid.between(SHAPE, spacing, 1.5)
    start = tuple(size // 2 - 2 for size in grid.size)
    window = tuple(min(4, size - low) for size, low in zip(grid.size, start, strict=True))
    for axis in range(3):
        reach = max(1.0, 1.5 / spacing[axis])
        image = grid.image(torch.from_numpy(ramp[axis])[None], start, window)[0, 0].numpy()
        index = start[axis] + np.indices(window)[axis]
        expected = (index - grid.matrix[axis, 3]) / grid.matrix[axis, axis]
        far = (expected >= reach - 1) & (expected <= SHAPE[axis] - reach)  # from the border, where it is continued
        assert far.any()
        off = 1e-4 if spacing[axis] >= 1.5 else 0.1 * reach
        np.testing.assert_allclose(image[far], expected[far], atol=off)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_adjacent_windows_share_the_volume_out(spacing: tuple[float, ...]) -> None:
    grid, step = Grid.between(SHAPE, spacing, 1.5), 5
    seen = np.zeros(SHAPE, dtype=int)
    for start in np.ndindex(*(-(-size // step) for size in grid.size)):
        seen[grid.region([step * s for s in start], (step,) * 3)] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("thickness", [0.05, 0.3, 0.7, 1.5, 5.0, 40.0])
def test_one_slice_is_seen_whatever_its_thickness(thickness: float) -> None:
    volume = torch.full((1, 9, 9, 1), 7.0)
    grid = Grid.between((9, 9, 1), (1.5, 1.5, thickness), 1.5)
    image = grid.image(volume, (0, 0, -4), (9, 9, 40))[0, 0]
    planes = grid.inside((0, 0, -4), (9, 9, 40))[4, 4]
    assert planes.sum() == grid.size[2] == max(int(np.ceil(thickness / 1.5)), 1)
    torch.testing.assert_close(image[4, 4], torch.from_numpy(planes).float() * 7)
    assert grid.region((0, 0, -4), (9, 9, 40))[2] == slice(0, 1)


def test_a_mask_is_its_volume_cut_at_one_half() -> None:
    block = (noise() > 0)[0, 4:20, 3:, 2:11].numpy()
    mask = torch.zeros(1, *SHAPE)
    mask[0, 4:20, 3:, 2:11] = torch.from_numpy(block).float()
    for spacing in SPACINGS:
        grid = Grid.between(SHAPE, spacing, 1.5)
        for start in [(-2, 0, 0), (5, -30, 3), grid.size]:
            window = (13, 40, 9)
            result = grid.mask(MaskCrop(SHAPE, (4, 3, 2), block), start, window)
            assert torch.equal(result, grid.image(mask, start, window)[0, 0] >= 0.5)


def test_a_mask_too_thin_for_the_model_is_not_lost() -> None:
    shape = (23, 19, 15)
    mask = torch.zeros(shape)
    mask[3:9, 5, 7] = 1
    grid = Grid.between(shape, (1.5, 3.0, 0.5), 1.5)
    assert not (grid.image(mask[None], (0, 0, 0), grid.size) >= 0.5).any()
    expected = F.interpolate(mask[None, None], size=grid.size, mode="nearest-exact")[0, 0] > 0
    assert expected.any()
    assert torch.equal(
        grid.mask(MaskCrop(shape, (3, 5, 7), np.ones((6, 1, 1), dtype=bool)), (0, 0, 0), grid.size), expected
    )


def test_a_box_is_mapped_as_prompts_are() -> None:
    grid = Grid.between(SHAPE, (0.7, 3.0, 5.0), 1.5)
    corners = grid.box(np.array([3, 4, 5]), np.array([10, 4, 8]))
    faces = np.array([[2.5, 3.5, 4.5], [10.5, 4.5, 8.5]])
    np.testing.assert_allclose(corners + np.array([[-0.5], [0.5]]), apply_affine(grid.matrix, faces))


def test_only_the_window_is_read() -> None:
    volume = noise()
    volume[:, 12:], volume[..., 8:] = torch.nan, torch.nan
    grid = Grid.between(SHAPE, (1.0, 1.0, 1.0), 1.5)
    assert grid.image(volume, (0, 0, 0), (6, 12, 4)).isfinite().all()


def test_half_precision_of_autocast_does_not_reach_the_grid() -> None:
    grid = Grid.between(SHAPE, (1.0, 2.0, 1.0), 1.5)
    logits = torch.randn(8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, back = grid.image(noise(), (0, 0, 0), (8, 8, 8)), grid.back(logits, (0, 0, 0))
    assert torch.equal(image, grid.image(noise(), (0, 0, 0), (8, 8, 8)))
    assert torch.equal(back, grid.back(logits, (0, 0, 0)))
    integers = grid.image(noise().round().short(), (0, 0, 0), (8, 8, 8))
    torch.testing.assert_close(integers, grid.image(noise().round(), (0, 0, 0), (8, 8, 8)))


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, -1.0, 1.0), (1.0, float("nan"), 1.0), (1.0, 1.0)])
def test_spacing_must_be_positive(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="spacing must hold three positive numbers"):
        Grid.between(SHAPE, spacing, 1.5)
