"""Slices of volumes."""

from __future__ import annotations

import pytest
import torch

from fairmedfm_monai.transforms.slices import TakeSlicesd


def depths(total: int, number: int) -> list[int]:
    volume = torch.arange(total).expand(1, 2, 2, total)
    return TakeSlicesd("image", number=number)({"image": volume})["image"][0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("total", "number", "expected"),
    [
        (9, 3, [0, 4, 8]),
        (9, 9, list(range(9))),
        (3, 6, [0, 0, 1, 1, 2, 2]),
        (7, 1, [3]),
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_slices_are_spread_from_end_to_end(total: int, number: int, expected: list[int]) -> None:
    assert depths(total, number) == expected


def test_pictures_pass_and_the_input_stays() -> None:
    picture, volume = torch.rand(3, 8, 6), torch.rand(1, 8, 6, 5)
    transform = TakeSlicesd("image", number=2)
    assert transform({"image": picture})["image"] is picture
    data = {"image": volume}
    assert transform(data)["image"].shape == (1, 8, 6, 2)
    assert data["image"] is volume


def test_a_number_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match="`number` of slices must be at least 1"):
        TakeSlicesd("image", number=0)
