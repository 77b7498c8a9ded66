from __future__ import annotations

import json

import torch
from monai.data import MetaTensor

from fairmedfm_monai.handlers.click_values import CLICK_COLUMNS, click_values


def prediction(entries: list[dict[str, object]]) -> MetaTensor:
    return MetaTensor(torch.zeros(2, 4, 4), meta={"click_dice": json.dumps(entries)})


def test_the_first_prompt_counts_and_what_is_never_reached_counts_as_one_more() -> None:
    objects = [[0.5, 0.86, 0.91], [0.9, 0.9, 0.9], [0.1, 0.2, 0.3]]
    values = click_values(prediction([{"channel": 1, "dice": objects}]), 1)
    assert set(values) == set(CLICK_COLUMNS)
    assert values["clicks85"] == (2 + 1 + 4) / 3
    assert values["clicks90"] == (3 + 1 + 4) / 3
    assert values["reached85"] == values["reached90"] == 2 / 3


def test_channels_without_clicks_have_no_columns() -> None:
    assert click_values(prediction([{"channel": 0, "dice": [[1.0]]}]), 1) == {}
    assert click_values(torch.zeros(1, 4, 4), 0) == {}
