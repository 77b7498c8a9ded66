"""Objects of a reference mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from skimage.measure import label as skimage_label

from fairmedfm_monai.transforms import prompt_objects
from fairmedfm_monai.transforms.prompt_objects import ObjectMask, nth_true


def whole(mask: np.ndarray, spacing: tuple[float, ...] | None = None) -> ObjectMask:
    image = ObjectMask(mask, np.zeros(mask.ndim, int), mask.shape, np.array(spacing or (1.0,) * mask.ndim))
    return image.part(mask, image.start)


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape)
    parts = [((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True)]
    return np.sum(parts, axis=0) <= 1


def by_hand(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object voxels and their distance to the nearest one outside, the outside of the image included, in mm."""
    padded = np.pad(mask, 1)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    return inside - 1, cdist(inside * spacing, outside * spacing).min(axis=1)


SPACING = (0.7, 0.9, 3.0)


def test_depth_is_in_millimetres() -> None:
    mask = ellipsoid((14, 16, 9), (6, 8, 4), (5, 7, 3))
    found = whole(mask, SPACING)
    voxels, depth = by_hand(mask, np.array(SPACING))
    np.testing.assert_allclose(found.depth[tuple((voxels - found.start).T)], depth)


def test_the_end_of_the_image_is_a_border_but_not_along_an_axis_without_extent() -> None:
    mask = np.ones((5, 7), bool)
    np.testing.assert_allclose(whole(mask).depth.ravel(), by_hand(mask, np.ones(2))[1])
    thin = whole(mask[..., None], (1.0, 1.0, 0.1))
    np.testing.assert_allclose(thin.depth[..., 0], whole(mask).depth)
    assert whole(np.ones((1, 1, 1), bool)).depth.tolist() == [[[1.0]]]


def test_a_lattice_bounds_the_work_and_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = ellipsoid((60, 62, 30), (29, 33, 14), (25, 20, 10))
    exact = whole(mask, SPACING)
    monkeypatch.setattr(prompt_objects, "LATTICE_LIMIT", 4000)
    coarse = whole(mask, SPACING)
    steps = np.array([span.step for span in coarse.lattice])
    assert coarse.depth.size <= 4000
    assert (steps[:2] > steps[2]).all(), "steps are even in millimetres, so the fine axes take the larger ones"
    places = coarse.from_lattice(np.argwhere(coarse.mask[coarse.lattice]))
    assert mask[tuple(places.T)].all()
    assert abs(coarse.depth.max() - exact.depth.max()) <= 2 * (steps * SPACING).max()


def test_the_lattice_meets_objects_between_its_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[7, 7, 3], mask[39, 38, 37] = True, True
    monkeypatch.setattr(prompt_objects, "LATTICE_LIMIT", 100)
    found = whole(mask)
    places = found.from_lattice(np.argwhere(found.mask[found.lattice]))
    assert len(places) >= 1
    assert mask[tuple(places.T)].all()


def test_voxels_by_rank_are_those_of_argwhere() -> None:
    rng = np.random.default_rng(1)
    for mask in (rng.random((6, 5, 7)) > 0.6, rng.random((9, 4)) > 0.3):
        ranks = rng.permutation(np.count_nonzero(mask))
        np.testing.assert_array_equal(nth_true(mask, ranks), np.argwhere(mask)[ranks])
        found = whole(mask)
        np.testing.assert_array_equal(found.voxels(ranks), np.argwhere(mask)[ranks])
        np.testing.assert_allclose(found.centroid, np.argwhere(mask).mean(axis=0))
    assert nth_true(np.zeros((3, 3), bool), np.array([], int)).shape == (0, 2)


def test_window_shows_the_image_around_the_object() -> None:
    mask = np.zeros((12, 10), bool)
    mask[4:7, 3:9] = ellipsoid((3, 6), (1, 2.5), (1.5, 3))
    found = whole(mask)
    for low, high in (((0, 0), (11, 9)), ((5, 1), (9, 4)), ((0, 0), (2, 2)), ((4, 3), (6, 8))):
        expected = mask[low[0] : high[0] + 1, low[1] : high[1] + 1]
        np.testing.assert_array_equal(found.window(np.array(low), np.array(high)), expected)


def test_planes_are_slices_of_the_image() -> None:
    mask = ellipsoid((14, 16, 9), (6, 8, 4), (5, 7, 3))
    found = whole(mask, SPACING)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        assert found.slices(axis) == np.flatnonzero(mask.any(axis=others)).tolist()
        for index in found.slices(axis):
            plane = found.plane(axis, index)
            expected = mask.take(index, axis=axis)
            assert plane.shape == expected.shape
            np.testing.assert_array_equal(plane.window(np.zeros(2, int), np.array(expected.shape) - 1), expected)
            assert plane.box.tolist() == [
                np.argwhere(expected).min(axis=0).tolist(),
                np.argwhere(expected).max(axis=0).tolist(),
            ]
            assert plane.spacing.tolist() == [1, 1], "planes count in pixels"


def test_key_slice_has_the_largest_area_and_of_several_the_middle_one() -> None:
    mask = np.zeros((8, 8, 20), bool)
    mask[2:4, 2:4, 1:19] = True
    mask[1:7, 1:7, 15] = True
    assert whole(mask).key_slice(2) == 15
    cylinder = np.zeros((8, 8, 20), bool)
    cylinder[2:5, 2:5, 3:10] = True
    assert whole(cylinder).key_slice(2) == 6
    assert whole(cylinder).key_slice(0) == 3


def test_components_are_those_of_skimage() -> None:
    rng = np.random.default_rng(3)
    for mask in (rng.random((20, 25)) > 0.75, rng.random((9, 10, 11)) > 0.88):
        numbers = skimage_label(mask, connectivity=mask.ndim)
        expected = sorted(sorted(map(tuple, np.argwhere(numbers == n).tolist())) for n in range(1, numbers.max() + 1))
        parts, left_out = whole(mask).components(least=1)
        assert left_out == 0
        assert sorted(sorted(map(tuple, (np.argwhere(part.mask) + part.start).tolist())) for part in parts) == expected
        sizes = [part.size for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        kept, left_out = whole(mask).components(least=4)
        assert [part.size for part in kept] == [size for size in sizes if size >= 4]
        assert left_out == len(sizes) - len(kept) > 0
        assert len(whole(mask).components(least=10**6)[0]) == 1, "the largest one stays"
