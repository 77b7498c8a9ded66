"""Surface metrics against brute force over all pairs of surface voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from fairmedfm_monai.fairness import segmentation_record
from fairmedfm_monai.fairness.surface import bounding_box, filled_box_dice, surface_points


def blobs(shape, seed):
    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    found = []
    for _ in range(2):
        centre, radius = rng.uniform(3, np.array(shape) - 3), rng.uniform(2, 5, len(shape))
        scaled = sum(((grid[i] - centre[i]) / radius[i]) ** 2 for i in range(len(shape)))
        found.append(scaled <= 1 + 0.2 * rng.standard_normal(shape))
    return found


def by_pairs(a, b, spacing, tolerance):
    def surface(mask):
        return np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing)

    distance = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=2)
    forward, backward = distance.min(axis=1), distance.min(axis=0)
    pooled = np.concatenate([forward, backward])
    return {
        "hd95": max(np.quantile(forward, 0.95), np.quantile(backward, 0.95)),
        "hd95_pooled": np.quantile(pooled, 0.95),
        "hd": pooled.max(),
        "nsd": (pooled <= tolerance).mean(),
        "assd": pooled.mean(),
        "dice": 2 * (a & b).sum() / (a.sum() + b.sum()),
        "iou": (a & b).sum() / (a | b).sum(),
    }


@pytest.mark.parametrize(
    ("shape", "spacing"), [((24, 30), (0.7, 1.3)), ((14, 16, 12), (0.8, 0.8, 2.5)), ((14, 16, 12), (1.0, 1.0, 1.0))]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_matches_brute_force(shape, spacing, seed):
    a, b = blobs(shape, seed)
    found = segmentation_record(a, b, spacing, tolerance=2.0)
    for name, value in by_pairs(a, b, spacing, 2.0).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert (found["tp"], found["fp"], found["fn"]) == ((a & b).sum(), (a & ~b).sum(), (b & ~a).sum())


def test_masks_at_the_border_have_a_surface_there():
    mask = np.ones((4, 5), dtype=bool)
    assert len(surface_points(mask, (1.0, 1.0))) == 14


def test_identical_and_symmetric():
    a, b = blobs((20, 20), 5)
    same = segmentation_record(a, a, (1.0, 1.0))
    assert (same["dice"], same["nsd"], same["hd"], same["assd"]) == (1.0, 1.0, 0.0, 0.0)
    left, right = segmentation_record(a, b, (1.0, 2.0)), segmentation_record(b, a, (1.0, 2.0))
    assert all(left[name] == pytest.approx(right[name]) for name in ("dice", "hd95", "hd95_pooled", "nsd", "assd"))


def test_distances_are_in_millimetres():
    a, b = np.zeros((30, 30), dtype=bool), np.zeros((30, 30), dtype=bool)
    a[5:10, 5:10], b[5:10, 12:17] = True, True
    found = [segmentation_record(a, b, (1.0, size))["hd"] for size in (1.0, 2.5)]
    assert found == pytest.approx([7.0, 17.5])


def test_shape_in_a_larger_image_changes_nothing():
    a, b = blobs((20, 22), 7)
    padded = [np.pad(mask, ((9, 3), (0, 14))) for mask in (a, b)]
    assert segmentation_record(a, b, (1.0, 2.0)) == segmentation_record(*padded, (1.0, 2.0))


def test_empty_masks_are_declared():
    full, empty = np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool)
    missed = segmentation_record(empty, full, (1.0, 1.0))
    assert (missed["dice"], missed["iou"], missed["nsd"]) == (0.0, 0.0, 0.0)
    assert np.isnan([missed["hd95"], missed["assd"]]).all()
    assert (missed["empty_reference"], missed["empty_prediction"]) == (False, True)
    alarm = segmentation_record(full, empty, (1.0, 1.0))
    assert np.isnan([alarm["dice"], alarm["nsd"], alarm["hd95"], alarm["filled_box_dice"]]).all()
    assert (alarm["empty_reference"], alarm["empty_prediction"], alarm["fp"]) == (True, False, 16)


def test_filled_box_dice():
    mask = np.zeros((9, 9), dtype=bool)
    mask[2:6, 3:5] = True
    mask[2, 3] = False
    assert filled_box_dice(mask) == pytest.approx(2 * 7 / (7 + 8))
    assert bounding_box(mask) == (slice(2, 6), slice(3, 5))


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (np.ones((3, 3)), np.ones((3, 4)), (1, 1), "expected the reference's"),
        (np.ones(3), np.ones(3), (1,), "2-D or 3-D"),
        (np.ones((3, 3)), np.ones((3, 3)), (1, 1, 1), "expected 2 positive sizes"),
        (np.ones((3, 3)), np.ones((3, 3)), (1, 0), "expected 2 positive sizes"),
    ],
)
def test_bad_input(prediction, reference, spacing, message):
    with pytest.raises(ValueError, match=message):
        segmentation_record(prediction, reference, spacing)
