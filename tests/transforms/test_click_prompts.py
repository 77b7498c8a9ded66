"""Clicks of MONAI Label and MONAI Deploy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from fairmedfm_monai.transforms.click_prompts import ClicksToPromptsd

TRANSFORM = ClicksToPromptsd(labels=["kidney", "tumour"])


def prompts(request: dict[str, Any], meta: dict[str, Any] | None = None, shape: tuple[int, ...] = (40, 36, 6)) -> Any:
    image = MetaTensor(torch.zeros(1, *shape), meta=meta)
    return TRANSFORM({"image": image, **request}).get("prompts")


def test_clicks_of_a_request() -> None:
    request = {"foreground": [[12, 14, 3], [13, 14, 3]], "background": [[30, 5, 3]], "roi": []}
    assert prompts(request) == [
        {
            "kind": "user",
            "label": "kidney",
            "coords": [[12, 14, 3], [13, 14, 3], [30, 5, 3]],
            "point_labels": [1, 1, 0],
        }
    ]
    assert prompts({**request, "label": "tumour"})[0]["label"] == "tumour"
    assert prompts({"foreground": "[[12, 14, 3]]"})[0]["coords"] == [[12, 14, 3]]
    assert prompts({"foreground": [12, 14, 3]})[0]["coords"] == [[12, 14, 3]]


def test_clicks_of_deploy_come_with_the_meta_data() -> None:
    assert prompts({}, {"foreground": [[30, 10, 5]]})[0]["coords"] == [[30, 10, 5]]


@pytest.mark.parametrize("roi", [[[8, 25, 1], [20, 9, 4]], [8, 20, 25, 9, 1, 4]])
def test_roi_is_a_box(roi: Any) -> None:
    """3D Slicer sends pairs per axis, in either order where an axis is flipped."""
    (prompt,) = prompts({"roi": roi, "background": [[1, 1, 1]]})
    assert prompt["coords"] == [[1, 1, 1], [8, 9, 1], [20, 25, 4]]
    assert prompt["point_labels"] == [0, 2, 3]


def test_default_label() -> None:
    request = {"image": MetaTensor(torch.zeros(1, 8, 8)), "foreground": [[1, 1]]}
    for settings, expected in (
        ({"label": "tumour"}, "tumour"),
        ({"labels": {"kidney": 1, "tumour": 2}}, "kidney"),
        ({"labels": ["kidney", "tumour"], "label": "tumour"}, "tumour"),
    ):
        assert ClicksToPromptsd(**settings)(request)["prompts"][0]["label"] == expected
    for wrong in ({}, {"label": "liver", "labels": ["kidney"]}):
        with pytest.raises(ValueError, match="label must be one of labels"):
            ClicksToPromptsd(**wrong)


def test_without_clicks_nothing_happens() -> None:
    assert prompts({}) is None
    assert prompts({"foreground": [], "background": None, "roi": [], "label": "/some/mask.nii.gz"}) is None


def test_click_on_a_picture_may_carry_a_third_zero() -> None:
    assert prompts({"foreground": [[12, 14, 0]]}, shape=(40, 36))[0]["coords"] == [[12, 14]]
    with pytest.raises(ValueError, match="points of 2 coordinates each"):
        prompts({"foreground": [[12, 14, 3]]}, shape=(40, 36))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"foreground": [[50, 1, 1]]}, r"clicks on image: point \[50.0, 1.0, 1.0\].*outside the image"),
        ({"foreground": [[1, 1, 1]], "label": "liver"}, "label 'liver' is unknown, expected one of kidney, tumour"),
        ({"foreground": "here"}, "'foreground' must be a list of voxel indices"),
        ({"roi": [1, 2, 3]}, "'roi' must be two corners"),
        ({"roi": [[3, 4, 2], [3, 4, 5]]}, r"clicks on image: the box .* has no size"),
        ({"roi": [3, 3, 4, 4, 2, 2]}, "has no size; give two opposite corners"),
        ({"foreground": [[1, 1]]}, "points of 3 coordinates each"),
    ],
)
def test_bad_requests(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prompts(request_)
