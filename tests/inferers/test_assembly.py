"""The assembly of masks: merging, overlaps, order of the pieces, memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairmedfm_monai.inferers.assembly import Assembly
from fairmedfm_monai.transforms.label_map import MasksToLabelMapd

SHAPE = (9, 7, 5)
VALUES = {"a": 7, "b": 3, "c": 200}


def pieces(count: int = 40) -> list[tuple[int, tuple[slice, ...], torch.Tensor]]:
    """Random regions with few different logits, so that equal ones meet."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(count):
        start = [int(rng.integers(0, size - 1)) for size in SHAPE]
        stop = [int(rng.integers(low + 1, size + 1)) for low, size in zip(start, SHAPE, strict=True)]
        region = tuple(map(slice, start, stop))
        logits = rng.integers(-3, 4, [s.stop - s.start for s in region]) / 2
        result.append((int(rng.integers(3)), region, torch.tensor(logits, dtype=torch.float32)))
    return result


def assembled(added: Any, **settings: Any) -> torch.Tensor:
    assembly = Assembly(3, SHAPE, **settings)
    for channel, region, logits in added:
        assembly.add(channel, region, logits)
    return assembly.result()


def by_hand(added: Any) -> np.ndarray:
    result = np.full((3, *SHAPE), -1e4)
    for channel, region, logits in added:
        result[(channel, *region)] = np.maximum(result[(channel, *region)], logits.numpy())
    return result


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_larger_logit_stays_whatever_the_order(axis: int | None, seed: int | None) -> None:
    added = pieces()
    expected = by_hand(added)
    if seed is not None:
        added = [added[index] for index in np.random.default_rng(seed).permutation(len(added))]
        added += added[:5]
    np.testing.assert_array_equal(assembled(added, axis=axis), expected)
    np.testing.assert_array_equal(assembled(added, output="masks", axis=axis), expected > 0)
    label_map = assembled(added, output="label_map", values=list(VALUES.values()), axis=axis)
    reference = MasksToLabelMapd("pred", labels=VALUES)({"pred": torch.tensor(expected)})["pred"]
    assert label_map.dtype == reference.dtype == torch.uint8
    np.testing.assert_array_equal(label_map, reference)


@pytest.mark.parametrize("threshold", [-1.0, 0.5, 1.0])
def test_threshold(threshold: float) -> None:
    added = pieces()
    expected = by_hand(added)
    masks = assembled(added, output="masks", threshold=threshold)
    np.testing.assert_array_equal(masks, expected > threshold)
    label_map = assembled(added[::-1], output="label_map", values=list(VALUES.values()), threshold=threshold)
    reference = MasksToLabelMapd("pred", labels=VALUES, threshold=threshold)({"pred": torch.tensor(expected)})
    np.testing.assert_array_equal(label_map, reference["pred"])


def test_extreme_logits() -> None:
    """Half precision must neither overflow nor lose an object whose logit is tiny."""
    logits = torch.tensor([[1e-9, -1e-9], [1e9, float("-inf")]])
    region = (slice(0, 2), slice(0, 2))
    for settings in ({"output": "masks"}, {"output": "label_map", "values": [1]}):
        assembly = Assembly(1, (2, 2), **settings)
        assembly.add(0, region, logits)
        assert assembly.result()[0].tolist() == [[1, 0], [1, 0]]
    assembly = Assembly(1, (2, 2), dtype=torch.float16)
    assembly.add(0, region, logits)
    assert assembly.result()[0, 1].tolist() == [1e4, -1e4]


def test_label_map_costs_three_bytes_per_voxel_for_any_number_of_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = torch.full

    def full(*args: Any, **kwargs: Any) -> torch.Tensor:
        result = original(*args, **kwargs)
        sizes.append(result.numel() * result.element_size())
        return result

    monkeypatch.setattr(torch, "full", full)
    Assembly(100, (40, 50, 60), output="label_map", values=range(1, 101), axis=2)
    assert sum(sizes) < 3.01 * 40 * 50 * 60
    assert Assembly(1, (4, 4), output="label_map", values=[300]).result().dtype == torch.int16


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"logits, masks, label_map, got 'mask'"):
        Assembly(1, (4, 4), output="mask")
    for values in (None, [1], [1, 1], [0, 1]):
        with pytest.raises(ValueError, match="one distinct label value"):
            Assembly(2, (4, 4), output="label_map", values=values)
    assembly = Assembly(2, (4, 4))
    with pytest.raises(ValueError, match=r"channel must be in 0\.\.1, got 2"):
        assembly.add(2, (slice(0, 4), slice(0, 4)), torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"region's shape \(4, 2\), got \(2, 4\)"):
        assembly.add(0, (slice(0, 4), slice(0, 2)), torch.zeros(2, 4))
