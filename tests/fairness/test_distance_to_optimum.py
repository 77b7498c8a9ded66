"""The distance of all groups to the optimum, as a disparity and as a name to select by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import euclidean

from fairmedfm_monai.fairness import evaluate_classification, evaluate_segmentation, selection_names, selection_sign
from fairmedfm_monai.fairness.disparities import Region, statistic, statistics_of
from fairmedfm_monai.fairness.estimate import Spread
from fairmedfm_monai.fairness.registry import METRICS

AUC = METRICS["auc"]


def dto(values, metric=AUC):
    return statistic("dto", np.asarray(values, float), np.float64(0.5), metric)


def row(report, metric="auc"):
    table = report.disparities
    return table[(table.attribute == "g") & (table.metric == metric) & (table.statistic == "dto")].iloc[0]


def measured(y, score, group, *, n_bootstrap=0, **options):
    return evaluate_classification(y, score, attributes={"g": group}, n_bootstrap=n_bootstrap, **options)


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], 400)
    y = (rng.random(400) < 0.4).astype(int)
    return y, 1 / (1 + np.exp(-rng.standard_normal(400) - np.where(group == "a", 2, 0.7) * y)), group


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1, 1), 0), ((0.7, 0.6), 0.5), ((0.9, 0.9, 0.9, 0.9), 0.2), ((0, 0), 2**0.5), ((0.8, 0.9, 0.8), 0.3)],
)
def test_by_hand(values, expected):
    assert float(dto(values)) == pytest.approx(expected, abs=1e-12)


def test_all_replicates_at_once_and_the_order_of_groups_changes_nothing():
    values = np.random.default_rng(1).random((50, 4))
    found = dto(values)
    assert found == pytest.approx([euclidean(part, np.ones(4)) for part in values], abs=1e-12)
    assert dto(values[:, [2, 0, 3, 1]]) == pytest.approx(found, abs=1e-12)


def test_report_holds_the_distance_of_its_own_group_values(scores):
    y, score, group = scores
    report = measured(y, score, group, n_bootstrap=100)
    cell, found = row(report), report.metrics()
    distances = [1 - found[f"test/g/group/{name}/auc"] for name in "abc"]
    assert cell.value == pytest.approx(np.hypot(np.hypot(distances[0], distances[1]), distances[2]), abs=1e-12)
    assert found["test/g/disparity/dto/auc"] == cell.value
    assert 0 <= cell.ci_low < cell.value < cell.ci_high <= 3**0.5
    assert cell.null_low < cell.null_high
    assert 0 < cell.p_value <= 1
    assert cell.reason == ""


def test_renaming_groups_changes_nothing(scores):
    y, score, group = scores
    renamed = np.array([{"a": "z", "b": "x", "c": "y"}[name] for name in group])
    first, second = row(measured(y, score, group)), row(measured(y, score, renamed))
    columns = ["value", "ci_low", "ci_high"]
    assert first[columns].to_numpy(float) == pytest.approx(second[columns].to_numpy(float), abs=1e-12)


def test_interval_is_the_range_over_the_joint_region():
    region = Region.of([Spread("rate", s / n, variance=0.1, n=n, patients=n) for s, n in ((50, 60), (30, 50), (9, 10))])
    low, high = region.ends("dto", METRICS["sensitivity"], 0.7, (0.6, 0.8))
    inside = np.random.default_rng(2).uniform(region.low, region.high, (2000, 3))
    corners = np.stack([region.low, region.high])
    found = dto(inside, METRICS["sensitivity"])
    assert (low <= found.min()) & (found.max() <= high)
    assert (low, high) == pytest.approx((euclidean(corners[1], np.ones(3)), euclidean(corners[0], np.ones(3))))


def test_a_group_with_one_class_leaves_no_distance_but_a_reason(scores):
    y, score, group = scores
    report = measured(np.where(group == "c", 0, y), score, group, n_bootstrap=20)
    cell = row(report)
    assert cell[["value", "ci_low", "ci_high", "null_low", "p_value"]].isna().all()
    assert cell.reason.startswith("every group with cases must have a value; without c (")
    assert "test/g/disparity/dto/auc" not in report.metrics()
    assert np.isfinite(row(report, "accuracy").value)


def test_a_declared_group_without_any_case_is_left_out_and_named(scores):
    y, score, group = scores
    plain, declared = measured(y, score, group), measured(y, score, group, groups={"g": ["a", "b", "c", "other"]})
    assert row(declared).value == row(plain).value
    assert row(declared).reason == "without other (no case)"


def test_a_group_whose_cases_all_failed_leaves_no_distance():
    cases = pd.DataFrame({"dice": [0.9, 0.8, 0.7, 0.6, np.nan, np.nan], "failed": [""] * 4 + ["unreadable"] * 2})
    report = evaluate_segmentation(cases, attributes={"g": list("aabbcc")}, n_bootstrap=0)
    assert np.isnan(row(report, "dice").value)
    assert "every group with cases" in row(report, "dice").reason


def test_only_metrics_with_a_best_value_of_one_have_it():
    having = {name for name, metric in METRICS.items() if "dto" in statistics_of(metric)}
    assert having == {name for name, m in METRICS.items() if m.higher_is_better and m.upper == 1}
    assert {"auc", "dice", "sensitivity"} <= having
    assert not having & {"hd95", "bce", "brier", "selection_rate"}


def test_selectable_and_smaller_is_better():
    names = selection_names("classification", {"sex": ["female", "male"]})
    assert "val/sex/disparity/dto/auc" in names
    assert "val/sex/disparity/dto/brier" not in names
    assert selection_sign("val/sex/disparity/dto/auc") == -1
