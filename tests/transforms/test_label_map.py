"""One label map from masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscrete, Flip

from fairmedfm_monai.transforms.label_map import MasksToLabelMapd


@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 7)])
def test_agrees_with_the_argmax_of_monai(shape: tuple[int, ...]) -> None:
    """With a zero channel for the background, MONAI's argmax is the same rule."""
    logits = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    expected = AsDiscrete(argmax=True)(torch.cat([torch.zeros(1, *shape), logits]))
    result = MasksToLabelMapd(labels=["a", "b", "c"])({"pred": logits})["pred"]
    assert result.dtype == torch.uint8
    assert result.shape == (1, *shape)
    np.testing.assert_array_equal(result, expected)
    assert set(result.unique().tolist()) == {0, 1, 2, 3}


def test_values_are_those_of_the_labels() -> None:
    logits = torch.full((2, 4, 4), -1e4)
    logits[0, 0], logits[1, :, 0] = 2.0, 3.0
    result = MasksToLabelMapd(labels={"a": 7, "b": 300})({"pred": logits})["pred"]
    assert result.dtype == torch.int16
    assert result[0, 0].tolist() == [300, 7, 7, 7]
    assert result[0, 1].tolist() == [300, 0, 0, 0]


def test_meta_data_stay() -> None:
    pred = Flip(0)(MetaTensor(torch.zeros(1, 4, 4), meta={"filename_or_obj": "a.png"}))
    result = MasksToLabelMapd(labels=["a"])({"pred": pred})["pred"]
    assert result.meta["filename_or_obj"] == "a.png"
    assert result.applied_operations == pred.applied_operations
    assert torch.equal(result.affine, pred.affine)
    assert not result.any()


def test_several_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one channel per label \(a, b\), got shape \(8, 4, 4\)"):
        MasksToLabelMapd(labels=["a", "b"])({"pred": torch.zeros(8, 4, 4)})
