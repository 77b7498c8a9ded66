"""evaluate_segmentation: means, medians, failures, empty references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_segmentation
from fairmedfm_monai.fairness.overlap import weighted_median

GROUPS = {"sex": ["female", "male"]}


@pytest.fixture(scope="module")
def cases():
    rng = np.random.default_rng(0)
    n = 120
    patient = np.arange(n) // 2
    dice = rng.beta(6, 2, n)
    table = pd.DataFrame(
        {
            "patient_id": patient,
            "sex": np.where(patient % 2, "female", "male"),
            "label": np.where(np.arange(n) % 4 % 2 == 0, "kidney", "liver"),
            "prompt": "box",
            "dice": dice,
            "hd95": rng.gamma(2.0, size=n),
            "nsd": rng.beta(6, 2, n),
            "empty_reference": False,
            "empty_prediction": False,
            "failed": "",
        }
    )
    table.loc[4, ["dice", "hd95", "nsd", "empty_reference", "empty_prediction"]] = [np.nan, np.nan, np.nan, True, False]
    table.loc[8, ["dice", "hd95", "nsd", "empty_reference", "empty_prediction"]] = [np.nan, np.nan, np.nan, True, True]
    table.loc[12, ["dice", "hd95", "nsd", "empty_prediction"]] = [0.0, np.inf, 0.0, True]
    return table


def row(report, metric, *, label="kidney", attribute="overall", group="all"):
    table = report.subgroups
    found = table[
        (table.metric == metric) & (table.label == label) & (table.attribute == attribute) & (table.group == group)
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_means_medians_and_rates_match_numpy(cases):
    report = evaluate_segmentation(cases, groups=GROUPS, n_bootstrap=100)
    kidney = cases[cases.label == "kidney"]
    scored = kidney[~kidney.empty_reference]
    distances = scored.hd95[np.isfinite(scored.hd95)]
    assert row(report, "dice").value == pytest.approx(scored.dice.mean(), abs=1e-12)
    assert row(report, "dice_median").value == pytest.approx(scored.dice.median(), abs=1e-12)
    assert row(report, "hd95").value == pytest.approx(distances.mean(), abs=1e-12)
    assert row(report, "hd95_median").value == pytest.approx(distances.median(), abs=1e-12)
    assert row(report, "failure_rate").value == pytest.approx((scored.dice < 0.1).mean(), abs=1e-12)
    assert row(report, "false_alarm_rate").value == 0.5
    female = scored[scored.sex == "female"]
    assert row(report, "nsd", attribute="sex", group="female").value == pytest.approx(female.nsd.mean(), abs=1e-12)
    counts = row(report, "dice")
    assert (counts.n_positives, counts.n_negatives, counts.n_patients) == (len(scored), 2, kidney.patient_id.nunique())


def test_group_without_empty_references_has_no_false_alarms_but_a_reason(cases):
    report = evaluate_segmentation(cases, groups=GROUPS, n_bootstrap=0)
    found = row(report, "false_alarm_rate", label="liver")
    assert np.isnan(found.value)
    assert found.reason == "no case with an empty reference"
    assert "empty reference" in report.settings["empty_policy"]


def test_shuffled_rows_change_nothing(cases):
    options = {"groups": GROUPS, "n_bootstrap": 50}
    left = evaluate_segmentation(cases, **options)
    shuffled = cases.sample(frac=1, random_state=0).sort_values("label", kind="stable")
    right = evaluate_segmentation(shuffled, **options)
    pd.testing.assert_frame_equal(left.subgroups, right.subgroups, atol=1e-9)
    pd.testing.assert_frame_equal(left.disparities, right.disparities, atol=1e-9)


def test_failed_cases_count_for_their_label_or_for_all(cases):
    failed = cases.iloc[:2].assign(failed=["c0: truncated file", "c1: no mask"], label=["kidney", ""], dice=np.nan)
    report = evaluate_segmentation(pd.concat([cases, failed]), groups=GROUPS, n_bootstrap=0)
    assert row(report, "dice").n_failed == 2
    assert row(report, "dice", label="liver").n_failed == 1
    assert any("box/kidney: 2 of" in note for note in report.notes)


def test_missing_dice_counts_as_failed(cases):
    broken = cases.copy()
    broken.loc[0, "dice"] = np.nan
    assert row(evaluate_segmentation(broken, groups=GROUPS, n_bootstrap=0), "dice").n_failed == 1


def test_only_columns_that_exist_are_reported(cases):
    report = evaluate_segmentation(cases, groups=GROUPS, n_bootstrap=0)
    assert "assd" not in set(report.subgroups.metric)
    assert {"dice", "dice_median", "failure_rate"} <= set(report.subgroups.metric)


def test_weighted_median_is_the_median_of_repeated_values():
    rng = np.random.default_rng(0)
    values = rng.random(11).round(1)
    weights = rng.integers(0, 4, (40, 11))
    expected = [np.median(np.repeat(values, w)) for w in weights]
    assert weighted_median(values, weights.astype(float)) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(weighted_median(values, np.zeros((1, 11)))[0])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"iou": [0.5]}), "a column 'dice'"),
        (pd.DataFrame({"dice": []}), "at least one row"),
        (pd.DataFrame({"dice": [85.0, 90.0]}), "divide percentages by 100"),
        (pd.DataFrame({"dice": [0.5]}), r"groups: \['sex'\] are no columns"),
    ],
)
def test_bad_input_says_what_is_wrong(table, message):
    with pytest.raises(ValueError, match=message):
        evaluate_segmentation(table, groups=GROUPS)
