"""Images with values that are no numbers."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from fairmedfm_monai.transforms.finite import FiniteValuesd


def image(*values: float) -> MetaTensor:
    tensor = torch.tensor(values).reshape(1, 2, -1)
    return MetaTensor(tensor, affine=torch.diag(torch.tensor([2.0, 3, 1, 1])), meta={"filename_or_obj": "/data/a.nii"})


def test_bad_values_become_the_lowest_finite_one(caplog: pytest.LogCaptureFixture) -> None:
    data = {"image": image(5, float("nan"), -7, float("inf"), float("-inf"), 3), "case_id": "case-9", "other": 1}
    with caplog.at_level(logging.WARNING):
        result = FiniteValuesd()(data)
    assert result["image"].flatten().tolist() == [5, -7, -7, -7, -7, 3]
    assert "case-9: 3 of 6 values are NaN or infinite" in caplog.text
    assert "-7" in caplog.text
    assert isinstance(result["image"], MetaTensor)
    assert result["image"].meta["filename_or_obj"] == "/data/a.nii"
    np.testing.assert_array_equal(result["image"].affine, data["image"].affine)
    assert result["other"] == 1
    assert torch.isnan(data["image"]).any(), "the input stays as it is"


def test_good_images_pass_untouched(caplog: pytest.LogCaptureFixture) -> None:
    for good in (image(1, 2, 3, 4), MetaTensor(torch.arange(8).reshape(1, 2, 4))):
        data = {"image": good}
        with caplog.at_level(logging.WARNING):
            assert FiniteValuesd()(data)["image"] is good
    assert not caplog.records


def test_nothing_finite() -> None:
    with pytest.raises(ValueError, match=r"a\.nii: none of its 4 values is finite"):
        FiniteValuesd()({"image": image(*[float("nan")] * 3, float("inf"))})
    with pytest.raises(TypeError, match="put LoadImaged first"):
        FiniteValuesd()({"image": "a.nii"})
    assert FiniteValuesd(allow_missing_keys=True)({"label": 1}) == {"label": 1}
