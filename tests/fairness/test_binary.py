"""Binary metrics against scikit-learn and the fairmedfm package."""

from __future__ import annotations

import fairmedfm.metrics
import numpy as np
import pytest
from sklearn import metrics as sk

from fairmedfm_monai.fairness.binary import BinaryProblem, calibration_bins, ece_fairmedfm
from fairmedfm_monai.fairness.registry import CLASSIFICATION_METRICS

THRESHOLD = 0.4


def cases(n=300, *, seed=0, decimals=None):
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.3
    score = 1 / (1 + np.exp(-(rng.standard_normal(n) + y)))
    return y, score if decimals is None else score.round(decimals)


def evaluate(y, score, weights=None):
    prepared = BinaryProblem(y, score, score >= THRESHOLD, CLASSIFICATION_METRICS).prepare(np.arange(y.size))
    if weights is None:
        return dict(zip(CLASSIFICATION_METRICS, prepared.point(), strict=True))
    return dict(zip(CLASSIFICATION_METRICS, prepared.evaluate(weights[None, prepared.rows])[0], strict=True))


def reference(y, score, w=None):
    d = score >= THRESHOLD
    tn, fp, fn, tp = sk.confusion_matrix(y, d, sample_weight=w).ravel()
    fpr, tpr, _ = sk.roc_curve(y, score, sample_weight=w, drop_intermediate=False)
    return {
        "auc": sk.roc_auc_score(y, score, sample_weight=w),
        "auprc": sk.average_precision_score(y, score, sample_weight=w),
        "accuracy": sk.accuracy_score(y, d, sample_weight=w),
        "balanced_accuracy": sk.balanced_accuracy_score(y, d, sample_weight=w),
        "f1": sk.f1_score(y, d, sample_weight=w),
        "sensitivity": sk.recall_score(y, d, sample_weight=w),
        "specificity": tn / (tn + fp),
        "ppv": sk.precision_score(y, d, sample_weight=w),
        "npv": tn / (tn + fn),
        "selection_rate": (tp + fp) / (tp + fp + tn + fn),
        "sensitivity_at_specificity_90": tpr[fpr <= 0.1 + 1e-12].max(),
        "bce": sk.log_loss(y, score, sample_weight=w),
        "brier": sk.brier_score_loss(y, score, sample_weight=w),
    }


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "tied"])
def test_point_estimates_match_sklearn(decimals):
    y, score = cases(decimals=decimals)
    score = np.clip(score, 0.01, 0.99)
    found = evaluate(y, score)
    for name, value in reference(y, score).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "tied"])
@pytest.mark.parametrize("kind", ["real", "whole"])
def test_weighted_metrics_match_sklearn(decimals, kind):
    y, score = cases(decimals=decimals, seed=3)
    score = np.clip(score, 0.01, 0.99)
    rng = np.random.default_rng(1)
    weights = rng.poisson(1, y.size).astype(np.uint8) if kind == "whole" else rng.gamma(1.0, size=y.size)
    found = evaluate(y, score, weights)
    for name, value in reference(y, score, weights.astype(float)).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name


def test_ece_uses_the_same_ten_bins_for_everyone():
    y, score = cases(seed=5)
    total = 0.0
    for low in np.arange(10) / 10:
        inside = (score >= low) & (score < low + 0.1)
        if inside.any():
            total += inside.sum() * abs(score[inside].mean() - y[inside].mean())
    assert evaluate(y, score)["ece"] == pytest.approx(total / y.size, abs=1e-12)
    assert calibration_bins(np.array([0.0, 0.0999, 0.1, 0.95, 1.0])).tolist() == [0, 0, 1, 9, 9]


@pytest.mark.parametrize("n", [12, 80, 400])
def test_range_binned_ece_and_bce_match_the_fairmedfm_package(n):
    y, score = cases(n, seed=n)
    assert ece_fairmedfm(y, score) == pytest.approx(fairmedfm.metrics.expected_calibration_error(score, y), abs=1e-9)
    assert evaluate(y, score)["bce"] == pytest.approx(fairmedfm.metrics.binary_cross_entropy(score, y), abs=1e-9)


def test_bce_of_certain_mistakes_is_clamped_as_in_torch():
    y, score = np.array([True, False]), np.array([0.0, 1.0])
    assert evaluate(y, score)["bce"] == pytest.approx(100.0)


def test_threshold_is_inclusive():
    y = np.array([True, True, False, False])
    found = evaluate(y, np.array([THRESHOLD, 0.9, THRESHOLD, 0.1]))
    assert (found["sensitivity"], found["specificity"]) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("y", "undefined"),
    [
        ([True] * 4, {"auc", "auprc", "balanced_accuracy", "specificity", "sensitivity_at_specificity_90"}),
        ([False] * 4, {"auc", "auprc", "balanced_accuracy", "sensitivity", "sensitivity_at_specificity_90"}),
    ],
)
def test_one_class_is_undefined_never_zero(y, undefined):
    prepared = BinaryProblem(
        np.array(y), np.array([0.1, 0.3, 0.6, 0.9]), np.array([False, False, True, True]), CLASSIFICATION_METRICS
    ).prepare(np.arange(4))
    found = dict(zip(CLASSIFICATION_METRICS, prepared.point(), strict=True))
    assert undefined <= {name for name, value in found.items() if np.isnan(value)}
    assert all(prepared.reason(name).startswith("no ") for name in undefined)
    assert found["accuracy"] == 0.5


def test_logits_have_no_calibration():
    y, score = cases()
    problem = BinaryProblem(y, score * 10 - 5, score >= 0.5, CLASSIFICATION_METRICS, probability=False)
    found = dict(zip(CLASSIFICATION_METRICS, problem.prepare(np.arange(y.size)).point(), strict=True))
    assert all(np.isnan(found[name]) for name in ("bce", "brier", "ece", "ece_fairmedfm"))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, score), abs=1e-12)


def test_zero_weights_leave_a_case_out_exactly():
    y, score = cases(seed=9)
    keep = np.random.default_rng(0).random(y.size) < 0.5
    for weights in (keep.astype(np.uint8), keep.astype(float)):
        left, right = evaluate(y, score, weights), evaluate(y[keep], score[keep])
        for name in set(CLASSIFICATION_METRICS) - {"ece_fairmedfm"}:
            assert left[name] == pytest.approx(right[name], abs=1e-12), name
