"""What several classes have only together: spread of F1, calibration of the top class, equalised odds over classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import equalized_odds_difference
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from fairmedfm_monai.fairness import evaluate_classification, selection_names

CLASSES = [f"disease_{i}" for i in range(6)]
ODDS = "equalized_odds_class_mean/sensitivity_specificity"


def six_diseases(n=600, seed=0, favour=0.0):
    """Scores of six balanced classes; ``favour`` makes the first class easier in men and the second in women."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 6, n)
    sex = rng.choice(["female", "male"], n)
    strength = np.where((y == 0) & (sex == "male") | (y == 1) & (sex == "female"), 1 + favour, 1.0)
    logits = rng.normal(size=(n, 6)) + np.linspace(0.5, 2.0, 6)[y][:, None] * np.eye(6)[y] * strength[:, None]
    score = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return y, score, sex


def evaluate(y, score, sex, **options):
    return evaluate_classification(y, score, attributes={"sex": sex}, classes=CLASSES, **({"n_bootstrap": 0} | options))


def expected_ece(y, score):
    """Top-label ECE from scikit-learn's reliability curve."""
    confidence, right = score.max(axis=1), score.argmax(axis=1) == y
    share, mean = calibration_curve(right, confidence, n_bins=10, strategy="uniform")
    count = np.histogram(confidence, np.linspace(0, 1, 11))[0]
    return float(np.abs(share - mean) @ count[count > 0] / len(y))


def test_values_per_group_match_sklearn():
    y, score, sex = six_diseases()
    found = evaluate(y, score, sex).metrics()
    groups = {"test": slice(None), "test/sex/group/female": sex == "female", "test/sex/group/male": sex == "male"}
    for prefix, rows in groups.items():
        f1 = sk.f1_score(y[rows], score[rows].argmax(axis=1), average=None)
        assert found[f"{prefix}/f1_variance"] == pytest.approx(np.var(f1), abs=1e-12)
        assert found[f"{prefix}/f1_sd"] == pytest.approx(np.std(f1), abs=1e-12)
        assert found[f"{prefix}/ece_top_label"] == pytest.approx(expected_ece(y[rows], score[rows]), abs=1e-12)
    gap = abs(found["test/sex/group/female/ece_top_label"] - found["test/sex/group/male/ece_top_label"])
    assert found["test/sex/disparity/gap/ece_top_label"] == pytest.approx(gap, abs=1e-12)


def test_equalised_odds_is_the_mean_of_fairlearns_per_class():
    y, score, sex = six_diseases()
    top = score.argmax(axis=1)
    each = [equalized_odds_difference(y == k, top == k, sensitive_features=sex) for k in range(6)]
    found = evaluate(y, score, sex).metrics()
    assert found[f"test/sex/disparity/{ODDS}"] == pytest.approx(np.mean(each), abs=1e-12)


def test_classes_that_favour_different_groups_do_not_cancel():
    y, score, sex = six_diseases(6000, favour=2.0)
    found = evaluate(y, score, sex, n_bootstrap=60)
    row = found.disparities.query("statistic == 'equalized_odds_class_mean'").iloc[0]
    of_means = found.metrics()["test/sex/disparity/equalized_odds_difference/sensitivity_specificity"]
    assert row.value > 3 * of_means
    assert row.ci_low > 0
    assert row.ci_low <= row.value <= row.ci_high
    assert row.p_value < 0.05
    assert row.value > row.null_high


def test_no_difference_is_mostly_within_the_null_band():
    outside = 0
    for seed in range(20):
        y, score, sex = six_diseases(300, seed=seed)
        row = evaluate(y, score, sex, n_bootstrap=40, metrics=["sensitivity", "specificity"]).disparities
        outside += int(row.query("statistic == 'equalized_odds_class_mean'").iloc[0].p_value <= 0.05)
    # P(more than 4 of 20 at a rate of .05) is .0026.
    assert outside <= 4


def test_intervals_of_the_spread_come_from_the_bootstrap():
    y, score, sex = six_diseases()
    rows = evaluate(y, score, sex, n_bootstrap=200, n_permutations=0, metrics=["f1", "f1_sd"]).subgroups
    row = rows.query("metric == 'f1_sd' and group == 'all'").iloc[0]
    # The replicates' own draws, by hand: resampled cases, F1 of scikit-learn.
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, len(y), len(y)) for _ in range(200)]
    values = [np.std(sk.f1_score(y[d], score[d].argmax(axis=1), average=None)) for d in draws]
    assert [row.ci_low, row.ci_high] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.015)
    without = evaluate(y, score, sex, metrics=["f1", "f1_sd"]).subgroups.query("metric == 'f1_sd'")
    assert without.reason.str.contains("needs the bootstrap").all()


def test_renamed_groups_and_shuffled_rows_change_nothing():
    y, score, sex = six_diseases(200)
    order = np.random.default_rng(5).permutation(200)
    swapped = np.where(sex == "female", "b", "a")
    tables = [
        evaluate(*case, n_bootstrap=40).disparities.query("label == ''").drop(columns="attribute")
        for case in ((y, score, sex), (y[order], score[order], swapped[order]))
    ]
    pd.testing.assert_frame_equal(*tables, atol=1e-9, rtol=1e-9)


def test_class_missing_in_a_group():
    y, score, sex = six_diseases()
    keep = ~((sex == "female") & (y == 2))
    report = evaluate(y[keep], score[keep], sex[keep], n_bootstrap=20)
    row = report.disparities.query("statistic == 'equalized_odds_class_mean'").iloc[0]
    assert np.isnan(row.value)
    assert row.reason == (
        "fewer than two groups can be compared; without female (sensitivity of disease_2: no positive case)"
    )
    never = keep & (score.argmax(axis=1) != 2)
    report = evaluate(y[never], score[never], sex[never])
    row = report.subgroups.query("group == 'female' and metric == 'f1_variance'").iloc[0]
    assert np.isnan(row.value)
    assert row.reason == "class disease_2: no positive case, none predicted"


def test_logits_have_no_calibration():
    y, score, sex = six_diseases()
    row = evaluate(y, np.log(score), sex).subgroups.query("metric == 'ece_top_label'").iloc[0]
    assert np.isnan(row.value)
    assert row.reason == "scores are not probabilities in [0, 1]"


def test_binary_problems_have_none_of_them_and_labels_no_top_class():
    y, score, sex = six_diseases()
    binary = evaluate_classification(y == 0, score[:, 0], attributes={"sex": sex}, n_bootstrap=0)
    assert not {"f1_variance", "f1_sd", "ece_top_label"} & set(binary.subgroups.metric)
    assert "equalized_odds_class_mean" not in set(binary.disparities.statistic)
    with pytest.raises(ValueError, match=r"f1_variance.*do not exist"):
        evaluate_classification(y == 0, score[:, 0], attributes={"sex": sex}, n_bootstrap=0, metrics=["f1_variance"])
    labels = evaluate(np.eye(6)[y], score, sex, operating_point=0.3)
    assert {"f1_variance", "f1_sd"} <= set(labels.subgroups.metric)
    assert "ece_top_label" not in set(labels.subgroups.metric)
    each = [equalized_odds_difference(y == k, score[:, k] >= 0.3, sensitive_features=sex) for k in range(6)]
    assert labels.metrics()[f"test/sex/disparity/{ODDS}"] == pytest.approx(np.mean(each), abs=1e-12)


def test_joint_metrics_alone_are_refused():
    y, score, sex = six_diseases()
    with pytest.raises(ValueError, match=r"metrics: expected at least one of .*'auc'"):
        evaluate(y, score, sex, metrics=["f1_variance"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_all_keys_can_be_selected(multi_label):
    y, score, sex = six_diseases()
    found = set(evaluate(np.eye(6)[y] if multi_label else y, score, sex, split="val").metrics())
    names = selection_names(
        "classification", {"sex": ["female", "male"]}, labels=["", *CLASSES], multi_label=multi_label
    )
    assert found <= set(names)
    assert {name.split("/")[-2] for name in set(names) - found} == {"unknown"}
