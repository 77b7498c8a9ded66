"""The rules by which prompts are drawn from an object."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist

from fairmedfm_monai.catalog.prompt_kinds import parse_kind
from fairmedfm_monai.transforms import prompt_objects
from fairmedfm_monai.transforms.prompt_objects import ObjectMask
from fairmedfm_monai.transforms.prompt_simulators import Drawn, background_points, draw_prompt, jittered_box

RNG = np.random.default_rng(0)
BLOB = ndimage.gaussian_filter(RNG.normal(size=(40, 36)), 4) > 0
SOLID = np.zeros((24, 20, 14), bool)
SOLID[4:18, 3:15, 2:9] = True
SOLID[8:12, 3:9, 4:9] = False
MM = (1.0, 0.8, 2.5)


def whole(mask: np.ndarray, spacing: tuple[float, ...] | None = None) -> ObjectMask:
    image = ObjectMask(mask, np.zeros(mask.ndim, int), mask.shape, np.array(spacing or (1.0,) * mask.ndim))
    return image.part(mask, image.start)


def draw(mask: np.ndarray, kind: str, seed: int = 0, spacing: tuple[float, ...] | None = None) -> Drawn:
    found = whole(mask, spacing)
    return draw_prompt(found, parse_kind(kind), lambda key: np.random.default_rng([seed, len(key)]), label=found)


def filled(drawn: Drawn, shape: tuple[int, ...]) -> np.ndarray:
    assert drawn.block is not None
    block, start = drawn.block
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, block.shape, strict=True))] = block
    return mask


CASES = [(BLOB, None), (SOLID, MM)]


def test_jitter_moves_every_coordinate_on_its_own_within_its_share_of_the_side() -> None:
    for mask in (np.pad(BLOB, 20), np.pad(SOLID, 20)):
        inside = np.argwhere(mask)
        tight = np.stack([inside.min(axis=0), inside.max(axis=0)])
        side = np.ptp(inside, axis=0) + 1
        boxes = np.array([draw(mask, "box-j20", seed).coords for seed in range(200)])
        moves = ((boxes - tight) / side).reshape(200, -1)
        assert np.abs(moves).max() <= 0.2 + 1e-4
        assert (moves.min(axis=0) < -0.17).all()
        assert (moves.max(axis=0) > 0.17).all(), "the whole range is used"
        assert np.abs(np.corrcoef(moves.T) - np.eye(moves.shape[1])).max() < 0.35


def test_any_jitter_leaves_a_box_in_the_image() -> None:
    tiny = np.zeros((9, 9), bool)
    tiny[0, 8] = True
    for mask, seed in itertools.product((tiny, BLOB), range(100)):
        lower, upper = draw(mask, "box-j100", seed).coords
        assert (lower <= upper).all()
        assert (lower >= 0).all()
        assert (upper <= np.array(mask.shape) - 1).all()


def test_strengths_share_their_draw() -> None:
    """Away from borders, twice the strength is twice the move."""
    mask = np.zeros((100, 100), bool)
    mask[40:60, 45:55] = True
    exact, weak, strong = (draw(mask, kind, seed=5).coords for kind in ("box-j0", "box-j10", "box-j20"))
    np.testing.assert_allclose(strong - exact, 2 * (weak - exact), atol=1e-3)
    assert exact.tolist() == [[40, 45], [59, 54]]
    assert draw(mask, "box").point_labels == [2, 3]


def depth_by_hand(mask: np.ndarray, spacing: tuple[float, ...] | None) -> tuple[np.ndarray, np.ndarray]:
    padded, scale = np.pad(mask, 1), np.array(spacing or (1.0,) * mask.ndim)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    return inside - 1, cdist(inside * scale, outside * scale).min(axis=1)


@pytest.mark.parametrize(("mask", "spacing"), CASES)
@pytest.mark.parametrize("percent", [0, 30, 50, 100])
def test_clicks_have_the_depth_that_was_asked_for(mask: np.ndarray, spacing: Any, percent: int) -> None:
    voxels, depth = depth_by_hand(mask, spacing)
    miss = np.abs(depth - depth.max() * percent / 100)
    allowed = set(map(tuple, voxels[miss < miss.min() + 1e-5].tolist()))
    seen = {tuple(draw(mask, f"point-d{percent}", seed, spacing).coords[0].tolist()) for seed in range(60)}
    assert seen <= allowed
    assert len(seen) > min(len(allowed), 20) / 2, "any of them"


def test_the_centre_of_a_volume_is_deepest_in_millimetres() -> None:
    voxels, depth = depth_by_hand(SOLID, MM)
    (centre,) = draw(SOLID, "center", spacing=MM).coords.tolist()
    assert depth[(voxels == centre).all(axis=1)] == pytest.approx(depth.max())


@pytest.mark.parametrize(("mask", "spacing"), CASES)
def test_spread_points_are_each_the_farthest_from_all_before(mask: np.ndarray, spacing: Any) -> None:
    scale = np.array(spacing or (1.0,) * mask.ndim)
    voxels = np.argwhere(mask)
    for seed in range(3):
        coords = draw(mask, "points-n6-spread", seed, spacing).coords
        assert len(coords) == 6
        assert mask[tuple(coords.T)].all()
        for n in range(1, 6):
            gaps = cdist(voxels * scale, coords[:n] * scale).min(axis=1)
            assert cdist(coords[n : n + 1] * scale, coords[:n] * scale).min() == pytest.approx(gaps.max())
    starts = {tuple(draw(mask, "points-spread", seed, spacing).coords[0].tolist()) for seed in range(30)}
    assert len(starts) > 20


def test_small_objects_get_what_there_is() -> None:
    mask = np.zeros((8, 8), bool)
    mask[3, 2:5] = True
    for kind in ("points-n9", "points-n9-spread"):
        assert sorted(draw(mask, kind).coords.tolist()) == [[3, 2], [3, 3], [3, 4]]


@pytest.mark.parametrize(("mask", "spacing"), CASES)
@pytest.mark.parametrize("kind", ["points-n3-neg4", "center-neg4", "box-neg4", "box-j30-neg4"])
def test_background_points_lie_near_and_never_inside(mask: np.ndarray, spacing: Any, kind: str) -> None:
    inside = np.argwhere(mask)
    ring = np.maximum(np.ceil((np.ptp(inside, axis=0) + 1) / 4), 3)
    for seed in range(40):
        drawn = draw(mask, kind, seed, spacing)
        labels = np.array(drawn.point_labels)
        negatives = drawn.coords[labels == 0].astype(int)
        assert len({tuple(point) for point in negatives.tolist()}) == 4
        assert not mask[tuple(negatives.T)].any()
        assert (negatives >= np.maximum(inside.min(axis=0) - ring, 0)).all()
        assert (negatives <= np.minimum(inside.max(axis=0) + ring, np.array(mask.shape) - 1)).all()
        assert sorted(labels[labels != 0]) == {"p": [1] * 3, "c": [1], "b": [2, 3]}[kind[0]]


def test_background_avoids_other_parts_of_the_label_and_may_run_out() -> None:
    label = np.ones((6, 6), bool)
    label[5, 5] = False
    corner = label.copy()
    corner[1:, 1:] = False
    image = whole(label)
    found = image.part(corner, image.start)
    assert background_points(found, image, 5, np.random.default_rng(0)).tolist() == [[5, 5]]
    full = whole(np.ones((4, 4), bool))
    assert background_points(full, full, 5, np.random.default_rng(0)).shape == (0, 2)
    drawn = draw(np.ones((4, 4), bool), "point-neg3")
    assert drawn.point_labels == [1]


@pytest.mark.parametrize(("mask", "spacing"), CASES)
def test_mask_is_the_reference(mask: np.ndarray, spacing: Any) -> None:
    drawn = draw(mask, "mask", spacing=spacing)
    np.testing.assert_array_equal(filled(drawn, mask.shape), mask)
    assert drawn.coords.shape == (0, mask.ndim)


@pytest.mark.parametrize(("mask", "spacing"), CASES)
@pytest.mark.parametrize("percent", [10, 40, 100])
def test_displaced_boundary_stays_within_its_reach(mask: np.ndarray, spacing: Any, percent: int) -> None:
    scale = spacing or (1.0,) * mask.ndim
    padded = np.pad(mask, 1)  # what lies beyond the image is outside
    inner = ndimage.distance_transform_edt(padded, sampling=scale)[(slice(1, -1),) * mask.ndim]
    outer = ndimage.distance_transform_edt(~mask, sampling=scale)
    reach = percent / 100 * inner.max() + min(scale)
    changed = []
    for seed in range(8):
        new = filled(draw(mask, f"mask-j{percent}", seed, spacing), mask.shape)
        assert new.any()
        assert not (mask & ~new & (inner > reach)).any()
        assert not (new & ~mask & (outer > reach)).any()
        changed.append(((mask & ~new).sum(), (new & ~mask).sum()))
    lost, won = np.sum(changed, axis=0)
    if percent > 10:
        assert min(lost, won) > 0, "in and out"
        assert len(set(changed)) > 4


def test_stronger_displacement_changes_more() -> None:
    new = [filled(draw(BLOB, f"mask-j{percent}", seed=3), BLOB.shape) for percent in (0, 20, 50, 100)]
    changed = [int((mask != BLOB).sum()) for mask in new]
    assert changed[0] == 0
    assert changed == sorted(changed)
    assert changed[-1] > changed[1]


def test_tiny_and_border_objects_survive_displacement() -> None:
    for shape, place in (((9, 9), (0, 8)), ((5, 1), (2, 0)), ((1, 1, 1), (0, 0, 0)), ((6, 6, 1), (0, 0, 0))):
        mask = np.zeros(shape, bool)
        mask[place] = True
        for seed in range(5):
            assert filled(draw(mask, "mask-j100", seed), shape)[place]


def test_large_objects_are_measured_on_a_lattice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules hold, to within the lattice."""
    mask = np.zeros((70, 60, 40), bool)
    mask[5:60, 8:50, 6:30] = True
    monkeypatch.setattr(prompt_objects, "LATTICE_LIMIT", 2000)
    step = max(span.step for span in whole(mask).lattice)
    assert step > 2
    (centre,) = draw(mask, "center").coords
    assert abs(centre[2] - 17.5) <= step
    inner = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    outer = ndimage.distance_transform_edt(~mask)
    for seed in range(3):
        spread = draw(mask, "points-n8-spread", seed).coords
        assert mask[tuple(spread.T)].all()
        assert cdist(spread, spread)[np.triu_indices(8, 1)].min() > 10
        new = filled(draw(mask, "mask-j30", seed), mask.shape)
        reach = 0.3 * inner.max() + 2 * step
        assert (mask != new).any()
        assert not ((mask != new) & (np.maximum(inner, outer) > reach)).any()


def test_box_of_an_object_in_a_corner() -> None:
    mask = np.zeros((5, 5), bool)
    mask[4, 0] = True
    assert jittered_box(whole(mask), 0, np.random.default_rng(0)).tolist() == [[4, 0], [4, 0]]
