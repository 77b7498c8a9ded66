"""Labels that are unions of others: scored beside them, and no part of their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fairmedfm_monai.fairness import evaluate_segmentation
from fairmedfm_monai.fairness.surface import segmentation_record
from fairmedfm_monai.handlers.masks import check_derived, segmentation_values

LABELS = {"rim": 1, "cup": 2}
DISC = {"disc": ["rim", "cup"]}


def output() -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Two kinds of prompts; the reference (label map) and the prediction (prompt, label, row, column)."""
    truth = np.zeros((20, 20), np.uint8)
    truth[4:16, 4:16], truth[8:12, 8:12] = 1, 2
    found = np.zeros((2, 2, 20, 20), np.uint8)
    found[0, 0, 4:10, 4:16] = found[0, 1, 8:13, 8:12] = 1
    found[1, 0, 2:9, 2:9] = 1
    pred = torch.from_numpy(found.reshape(4, 20, 20))
    return {"pred": pred, "label": torch.from_numpy(truth)[None]}, truth, found


def scored(**options: Any) -> pd.DataFrame:
    values = segmentation_values(output()[0], LABELS, ["box", "point"], axis=None, case_id="a", **options)
    return pd.DataFrame(values).set_index(["label", "prompt"])


def test_a_union_is_scored_as_one_label_in_reference_and_prediction() -> None:
    table, (_, truth, found) = scored(derived=DISC), output()
    for kind, prompt in enumerate(("box", "point")):
        expected = segmentation_record(found[kind].any(axis=0), truth > 0, (1.0, 1.0))
        row = table.loc["disc", prompt]
        assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    assert table["derived"].tolist() == [False] * 4 + [True] * 2
    plain = scored()
    assert "derived" not in plain
    pd.testing.assert_frame_equal(table.loc[["rim", "cup"]].drop(columns="derived"), plain, check_dtype=False)


@pytest.mark.parametrize("tolerance", [0.0, 2.0, 5.0])
def test_the_tolerance_of_the_surface_dice_is_the_given_one(tolerance: float) -> None:
    _, truth, found = output()
    expected = segmentation_record(found[0, 0], truth == 1, (1.0, 1.0), tolerance=tolerance)["nsd"]
    table = scored(tolerance=tolerance)
    assert table.loc[("rim", "box"), "nsd"] == expected
    assert set(table["nsd_tolerance"]) == {tolerance}


def test_the_mean_over_labels_leaves_it_out() -> None:
    table = scored(derived=DISC).reset_index().assign(case_id="a", sex="female")
    report = evaluate_segmentation(table, groups={"sex": ["female"]}, n_bootstrap=0)
    dice = report.subgroups.query("metric == 'dice' and attribute == 'overall' and prompt == 'box'")
    found = dice.set_index("label")["value"]
    assert set(found.index) == {"", "rim", "cup", "disc"}
    assert found[""] == pytest.approx((found["rim"] + found["cup"]) / 2)


@pytest.mark.parametrize("derived", [{"rim": ["cup"]}, {"disc": ["rim", "hole"]}, {"disc": []}])
def test_unions_of_nothing_or_of_what_there_is_not_are_refused(derived: dict[str, list[str]]) -> None:
    check_derived(DISC, LABELS)
    with pytest.raises(ValueError, match=r"derived_labels.*new name for labels of the dataset, which are rim, cup"):
        check_derived(derived, LABELS)
