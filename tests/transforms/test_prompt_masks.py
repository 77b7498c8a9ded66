"""Run lengths of masks and their way to another grid."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import ndimage

from fairmedfm_monai.transforms.prompt_masks import (
    decode_block,
    decode_mask,
    decode_plane,
    encode_block,
    encode_mask,
    map_mask,
    planes_of,
    tight,
)

RNG = np.random.default_rng(0)
BLOB = ndimage.gaussian_filter(RNG.normal(size=(14, 11, 9)), 1.5) > 0.05


def by_hand(array: np.ndarray) -> list[int]:
    groups = [(value, len(list(group))) for value, group in itertools.groupby(array.ravel().tolist())]
    return ([] if not groups or groups[0][0] == 0 else [0]) + [length for _, length in groups]


@pytest.mark.parametrize(
    "array",
    [BLOB, BLOB[..., 3], np.zeros((4, 5), bool), np.ones((4, 5), bool), np.eye(3, dtype=bool), BLOB[::-1, :, ::2]],
)
def test_run_lengths_are_those_counted_by_hand(array: np.ndarray) -> None:
    rle = encode_mask(array)
    assert rle == {"shape": list(array.shape), "counts": by_hand(array)}
    back = decode_mask(json.loads(json.dumps(rle)))
    assert back.dtype == bool
    np.testing.assert_array_equal(back, array)


def test_other_types_count_as_masks() -> None:
    assert encode_mask(np.array([[0, 2], [0.5, 0]])) == {"shape": [2, 2], "counts": [1, 2, 1]}


def test_a_block_stands_for_the_whole_mask() -> None:
    block, start = BLOB[3:8, 2:9, 4:5], (3, 2, 4)
    whole = np.zeros(BLOB.shape, bool)
    whole[3:8, 2:9, 4:5] = block
    rle = json.loads(json.dumps(encode_block(block, start, BLOB.shape)))
    np.testing.assert_array_equal(decode_mask(rle), whole)
    assert planes_of(rle, axis=-1) == [4]
    for axis, index in ((0, 5), (1, 0), (2, 4), (-1, 4), (2, 5)):
        np.testing.assert_array_equal(decode_plane(rle, axis=axis, index=index), whole.take(index, axis=axis))
    np.testing.assert_array_equal(decode_plane(encode_mask(whole), axis=1, index=4), whole[:, 4])


def test_tight_cuts_the_margin() -> None:
    mask = np.zeros((9, 8), bool)
    mask[2:5, 6] = True
    block, start = tight(mask, (10, 20))
    assert block.shape == (3, 1)
    assert start.tolist() == [12, 26]
    assert tight(np.zeros((3, 3), bool), (0, 0))[0].size == 0


@pytest.mark.parametrize(
    "rle",
    [
        {"shape": [2, 3], "counts": [5]},
        {"shape": [2, 3], "counts": [7, -1]},
        {"shape": [2, 3], "counts": [4], "start": [1, 0], "size": [2, 2]},
        {"shape": [2, 3], "counts": [1], "start": [0], "size": [1]},
    ],
)
def test_runs_that_do_not_add_up(rle: dict) -> None:
    with pytest.raises(ValueError, match=r"add up to its size .* got shape \[2, 3\]"):
        decode_block(rle)


def signed_permutation(axes: tuple[int, ...], flips: tuple[bool, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Matrix of ``np.flip(array.transpose(axes), flips)``, old indices -> new ones."""
    matrix = np.eye(4)
    matrix[:3] = 0
    for new, (old, flip) in enumerate(zip(axes, flips, strict=True)):
        matrix[new, old] = -1 if flip else 1
        matrix[new, 3] = shape[old] - 1 if flip else 0
    return matrix


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (True, True, True)])
def test_flips_and_permutations_are_exact(axes: tuple[int, ...], flips: tuple[bool, ...]) -> None:
    expected = np.flip(BLOB.transpose(axes), [axis for axis in range(3) if flips[axis]])
    matrix = signed_permutation(axes, flips, BLOB.shape)
    # Rounding errors as inverted affines bring them.
    noisy = matrix + RNG.uniform(-1e-7, 1e-7, size=matrix.shape)
    for encode in (encode_mask, lambda mask: encode_block(*tight(mask, (0, 0, 0)), BLOB.shape)):
        np.testing.assert_array_equal(decode_mask(map_mask(encode(BLOB), noisy, expected.shape)), expected)


def test_without_a_change_nothing_is_touched() -> None:
    rle = encode_mask(BLOB)
    assert map_mask(rle, np.eye(4), BLOB.shape) is rle


def test_crop_and_padding() -> None:
    shift = np.eye(4)
    shift[:3, 3] = [-2, 3, -1]
    mapped = decode_mask(map_mask(encode_mask(BLOB), shift, (9, 20, 5)))
    expected = np.zeros((9, 20, 5), bool)
    expected[:, 3:14] = BLOB[2:11, :, 1:6]
    np.testing.assert_array_equal(mapped, expected)
    shift[:3, 3] = [100, 0, 0]
    assert not decode_mask(map_mask(encode_mask(BLOB), shift, (9, 20, 5))).any()


@pytest.mark.parametrize(
    "linear",
    [
        np.diag([2.0, 0.5, 1.7]),
        np.array([[0.9, 0.3, 0], [-0.3, 0.9, 0.1], [0.05, -0.1, 1.1]]),
        np.array([[0, 0, 1.5], [0.7, 0, 0], [0, -1.2, 0]]),
    ],
)
def test_resampling_is_that_of_scipy(linear: np.ndarray) -> None:
    """Nearest neighbour of scipy, looked up at the same places."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, [1.23, 9.31, 2.17]
    shape = (26, 24, 18)
    inverse = np.linalg.inv(matrix)
    expected = ndimage.affine_transform(
        BLOB.astype(np.uint8), inverse[:3, :3], inverse[:3, 3], shape, order=0, mode="grid-constant"
    )
    assert expected.any()
    np.testing.assert_array_equal(decode_mask(map_mask(encode_mask(BLOB), matrix, shape)), expected == 1)


def test_pictures_use_the_upper_left_of_the_matrix() -> None:
    matrix = np.eye(4)
    matrix[:2, :2], matrix[:2, 3] = [[0, 1], [-1, 0]], [0, 13]
    mapped = decode_mask(map_mask(encode_mask(BLOB[..., 4]), matrix, (11, 14)))
    np.testing.assert_array_equal(mapped, BLOB[..., 4].T[:, ::-1])


def test_a_slice_thinner_than_a_new_voxel_is_not_lost() -> None:
    """A slice between two centres of a four times coarser grid goes to the coarse voxel that holds it."""
    block = np.ones((5, 6, 1), bool)
    matrix = np.diag([1, 1, 0.25, 1])
    matrix[2, 3] = (0.25 - 1) / 2
    for index, expected in ((4, [1]), (5, [1]), (7, [1]), (8, [2])):
        rle = map_mask(encode_block(block, (2, 1, index), (9, 9, 12)), matrix, (9, 9, 3))
        assert planes_of(rle, axis=2) == expected
        assert decode_mask(rle).sum() == block.size
