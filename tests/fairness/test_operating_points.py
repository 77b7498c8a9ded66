"""An operating point for every case, as thresholds per group give it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_classification, evaluate_predictions
from fairmedfm_monai.fairness.registry import METRICS

THRESHOLDS = {"female": 0.45, "male": 0.6}
KEY = ["label", "attribute", "group", "metric"]
DECIDED = ["accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "ppv", "npv", "selection_rate"]


def evaluate(table, *, attributes=("sex", "age"), **options):
    options = {"patient_id": table.patient_id, "n_bootstrap": 60, "n_permutations": 60} | options
    return evaluate_classification(table.label, table.score, attributes=table[list(attributes)], **options)


@pytest.fixture(scope="module")
def by_sex(patients):
    return evaluate(patients, operating_point=patients.sex.map(THRESHOLDS))


def test_equal_points_are_one_point(patients):
    one = evaluate(patients, operating_point=0.55)
    many = evaluate(patients, operating_point=np.full(len(patients), 0.55))
    pd.testing.assert_frame_equal(one.subgroups, many.subgroups)
    pd.testing.assert_frame_equal(one.disparities, many.disparities)
    assert many.settings["operating_point"] == "one per case"
    assert many.notes == one.notes


def test_each_group_is_as_if_evaluated_alone(patients, by_sex):
    """Values and intervals: the thresholds are constants, whatever is resampled."""
    mine = by_sex.subgroups.set_index(KEY)
    for group, threshold in THRESHOLDS.items():
        part = patients[patients.sex == group]
        alone = evaluate(part, attributes=["sex"], operating_point=threshold).subgroups
        alone = alone[alone.attribute == "sex"].set_index(KEY)
        columns = ["value", "ci_low", "ci_high", "n_cases"]
        analytic = [key for key in alone.index if METRICS[key[3]].interval not in {"bootstrap", "none"}]
        pd.testing.assert_frame_equal(mine.loc[analytic, columns], alone.loc[analytic, columns], check_exact=True)


def test_rates_of_everyone_and_across_groups_by_hand(patients, by_sex):
    called = patients.score >= patients.sex.map(THRESHOLDS)
    found = by_sex.metrics()
    assert found["test/sensitivity"] == pytest.approx(called[patients.label == 1].mean(), abs=1e-12)
    old = patients.age == "ge60"
    expected = 1 - called[old & (patients.label == 0)].mean()
    assert found["test/age/group/ge60/specificity"] == pytest.approx(expected, abs=1e-12)
    by_group = called[patients.label == 1].groupby(patients.sex).mean()
    assert found["test/sex/disparity/gap/sensitivity"] == pytest.approx(abs(by_group.diff().iloc[-1]), abs=1e-12)


def test_metrics_of_scores_do_not_move(patients, by_sex):
    pooled = evaluate(patients, operating_point=0.5).subgroups
    same = ~pooled.metric.isin(DECIDED)
    columns = [*KEY, "value"]
    pd.testing.assert_frame_equal(by_sex.subgroups.loc[same, columns], pooled.loc[same, columns])


def test_row_order_changes_nothing(patients):
    points = patients.sex.map(THRESHOLDS).where(patients.index % 7 != 0, np.inf)
    order = np.random.default_rng(0).permutation(len(patients))
    mine = evaluate(patients, operating_point=points)
    again = evaluate(patients.iloc[order], operating_point=points.iloc[order])
    pd.testing.assert_frame_equal(mine.subgroups, again.subgroups)
    pd.testing.assert_frame_equal(mine.disparities, again.disparities)


def test_infinite_points_decide_without_the_score(patients):
    points = np.where(patients.sex == "female", -np.inf, np.inf)
    found = evaluate(patients, operating_point=points, n_bootstrap=0, n_permutations=0).metrics()
    assert found["test/sex/group/female/selection_rate"] == 1.0
    assert found["test/sex/group/male/selection_rate"] == 0.0


def test_cases_without_a_score_need_no_point(patients):
    broken = patients.assign(score=patients.score.where(patients.index >= 5))
    points = broken.sex.map(THRESHOLDS).where(broken.index >= 5)
    report = evaluate(broken, operating_point=points, n_bootstrap=0, n_permutations=0)
    rest = evaluate(broken.iloc[5:], operating_point=points.iloc[5:], n_bootstrap=0, n_permutations=0)
    assert report.metrics() == rest.metrics()


def test_several_labels_have_a_column_each(patients):
    scores = np.column_stack([patients.score, 1 - patients.score])
    labels = np.column_stack([patients.label, patients.label])
    options = {"attributes": patients[["sex"]], "patient_id": patients.patient_id, "classes": ["a", "b"]}
    points = np.tile([0.4, 0.7], (len(patients), 1))
    many = evaluate_classification(labels, scores, operating_point=points, n_bootstrap=20, **options)
    one = evaluate_classification(labels, scores, operating_point={"a": 0.4, "b": 0.7}, n_bootstrap=20, **options)
    pd.testing.assert_frame_equal(many.subgroups, one.subgroups)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full(3, 0.5), r"one per case, shape \(\d+, 1\), got \(3, 1\)"),
        (None, "2 of .* are NaN though their case has a score"),
    ],
)
def test_wrong_points_are_refused(patients, points, message):
    given = patients.sex.map(THRESHOLDS).where(patients.index >= 2) if points is None else points
    with pytest.raises(ValueError, match=message):
        evaluate(patients, operating_point=given)


def test_the_top_class_has_no_operating_point():
    with pytest.raises(ValueError, match="of several classes the top one decides"):
        evaluate_classification(
            [0, 1, 2], np.eye(3), attributes={"sex": ["f", "m", "f"]}, operating_point=np.ones((3, 3)), n_bootstrap=0
        )


def test_points_are_read_from_the_table(patients, meta):
    table = patients.assign(split=np.where(patients.index % 2, "val", "test"), threshold=patients.sex.map(THRESHOLDS))
    marked = meta | {"threshold_columns": ["threshold"], "mitigation": {"text": "by sex", "notes": ["fixed on val"]}}
    report = evaluate_predictions(table, marked, n_bootstrap=0)
    test = table[(table.split == "test") & (table.label == 1)]
    expected = (test.score >= test.threshold).mean()
    assert report.metrics()["test/sensitivity"] == pytest.approx(expected, abs=1e-12)
    assert report.settings["operating_point_source"] == "val: by case, see mitigation"
    assert report.settings["mitigation"] == "by sex"
    assert "fixed on val" in report.notes
    given = evaluate_predictions(table, marked, operating_point=0.5, n_bootstrap=0)
    assert given.metrics()["test/sensitivity"] == pytest.approx((test.score >= 0.5).mean(), abs=1e-12)
    with pytest.raises(ValueError, match=r"missing column\(s\) \['threshold'\]"):
        evaluate_predictions(table.drop(columns="threshold"), marked, n_bootstrap=0)
