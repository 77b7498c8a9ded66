"""Disparities against fairlearn, the fairmedfm package and published values."""

from __future__ import annotations

import fairmedfm as fm
import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fl
from fairmedfm import metrics as fm_metrics
from sklearn.metrics import precision_score, roc_auc_score

from fairmedfm_monai.fairness import evaluate_classification, evaluate_segmentation
from fairmedfm_monai.fairness.disparities import Region, equalized_odds, spread, statistic
from fairmedfm_monai.fairness.estimate import Spread
from fairmedfm_monai.fairness.intervals import LEVEL, wilson
from fairmedfm_monai.fairness.registry import METRICS


def cell(report, metric, name, attribute="g"):
    table = report.disparities
    row = table[(table.attribute == attribute) & (table.metric == metric) & (table.statistic == name)]
    assert len(row) == 1
    return row.iloc[0]


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], 500, p=[0.6, 0.3, 0.1])
    y = rng.random(500) < np.where(group == "a", 0.3, 0.5)
    score = 1 / (1 + np.exp(-(rng.standard_normal(500) + np.where(group == "b", 0.4, 1.2) * y)))
    return y.astype(int), score, group


def test_matches_fairlearn(scores):
    y, score, group = scores
    decision = (score >= 0.5).astype(int)
    report = evaluate_classification(y, score, attributes={"g": group}, operating_point=0.5, n_bootstrap=0)
    same = {"sensitive_features": group}
    expected = {
        ("sensitivity_specificity", "equalized_odds_difference"): fl.equalized_odds_difference(y, decision, **same),
        ("sensitivity_specificity", "equalized_odds_mean_difference"): fl.equalized_odds_difference(
            y, decision, agg="mean", **same
        ),
        ("selection_rate", "demographic_parity"): fl.demographic_parity_difference(y, decision, **same),
        ("selection_rate", "ratio"): fl.demographic_parity_ratio(y, decision, **same),
        ("sensitivity", "equal_opportunity"): fl.equal_opportunity_difference(y, decision, **same),
    }
    frame = fl.MetricFrame(metrics=precision_score, y_true=y, y_pred=decision, **same)
    expected["ppv", "predictive_parity"] = frame.difference()
    frame = fl.MetricFrame(metrics=roc_auc_score, y_true=y, y_pred=score, **same)
    expected |= {
        ("auc", "gap"): frame.difference(),
        ("auc", "ratio"): frame.ratio(),
        ("auc", "worst"): frame.group_min(),
    }
    for (metric, name), value in expected.items():
        assert cell(report, metric, name).value == pytest.approx(value, abs=1e-9), (metric, name)


def test_matches_the_fairmedfm_package(scores):
    y, score, group = scores
    # FairMedFM calls a case positive when its score is above the best-F1 threshold; ours may be equal to it.
    point = np.nextafter(fm_metrics.find_threshold(score, y), 2)
    report = evaluate_classification(y, score, attributes={"g": group}, operating_point=point, n_bootstrap=0)
    expected = fm.evaluate(y, score, {"g": group}).summary.loc["g"]
    for column, (metric, name) in {
        "worst-auc": ("auc", "worst"),
        "auc-gap": ("auc", "gap"),
        "acc-gap": ("accuracy", "gap"),
        "bce-gap": ("bce", "gap"),
        "ece-gap": ("ece_fairmedfm", "gap"),
        "eo": ("sensitivity", "equal_opportunity"),
        "eod": ("sensitivity_specificity", "equalized_odds_score"),
    }.items():
        assert cell(report, metric, name).value == pytest.approx(expected[column], abs=1e-9), column
    overall = report.metrics()
    for column, metric in {"overall-auc": "auc", "overall-acc": "accuracy", "overall-bce": "bce"}.items():
        assert overall[f"test/{metric}"] == pytest.approx(expected[column], abs=1e-9)
    assert overall["test/ece_fairmedfm"] == pytest.approx(expected["overall-ece"], abs=1e-9)


def test_segmentation_matches_the_fairmedfm_package():
    rng = np.random.default_rng(1)
    dice, group = rng.beta(6, 2, 90), rng.choice(["a", "b", "c"], 90)
    report = evaluate_segmentation(pd.DataFrame({"dice": dice}), attributes={"g": group}, n_bootstrap=0)
    expected = fm.evaluate_segmentation({"g": group}, dice=dice).summary.loc["g"]
    for column, name in {
        "min_dice": "worst",
        "delta_dice": "gap",
        "skewness_dice": "skewness",
        "std_dice": "sd",
        "es_dice": "es_std",
    }.items():
        assert cell(report, "dice", name).value == pytest.approx(expected[column], abs=1e-9), column


# Saved outputs of the FairMedFM authors (Jin et al. 2024, arXiv 2407.00983, notebooks of the released code): confusion
# counts (tn, fp, fn, tp) per group at the best-F1 threshold, and the disparities that they printed.
GOLDEN = {
    "BiomedCLIP linear probe, HAM10000, sex": (
        [(578, 159, 56, 111), (630, 181, 38, 58)],
        {"acc": 0.0036234888917076047, "eo": 0.06050399201596812, "eod": 0.9660271173368488},
    ),
    "MedCLIP zero-shot, PAPILA, sex": (
        [(1, 22, 1, 4), (0, 24, 0, 4)],
        {"acc": 0.035714285714285726, "eo": 0.2, "eod": 0.8782608695652174},
    ),
    "MedCLIP CLIP-Adapt, PAPILA, sex": (
        [(1, 22, 0, 5), (1, 23, 1, 3)],
        {"acc": 0.07142857142857142, "eo": 0.25, "eod": 0.8740942028985508},
    ),
}
GOLDEN_OVERALL = {
    "BiomedCLIP linear probe, HAM10000, sex": (0.7603533959138598, 0.6425855513307985, 0.7803617571059431),
    "MedCLIP zero-shot, PAPILA, sex": (0.16071428571428573, 8 / 9, 1 / 47),
    "MedCLIP CLIP-Adapt, PAPILA, sex": (0.17857142857142858, 8 / 9, 2 / 47),
}


def realise(counts):
    """Labels, scores and groups with given confusion counts at 0.5."""
    rows = [
        (y, score, f"g{group}")
        for group, (tn, fp, fn, tp) in enumerate(counts)
        for y, score, times in ((0, 0.2, tn), (0, 0.8, fp), (1, 0.2, fn), (1, 0.8, tp))
        for _ in range(times)
    ]
    return (np.array(column) for column in zip(*rows, strict=True))


@pytest.mark.parametrize("run", list(GOLDEN))
def test_golden_confusion_counts(run):
    counts, expected = GOLDEN[run]
    y, score, group = realise(counts)
    report = evaluate_classification(y, score, attributes={"g": group}, operating_point=0.5, n_bootstrap=0)
    assert cell(report, "accuracy", "gap").value == pytest.approx(expected["acc"], abs=1e-12)
    assert cell(report, "sensitivity", "equal_opportunity").value == pytest.approx(expected["eo"], abs=1e-12)
    odds = cell(report, "sensitivity_specificity", "equalized_odds_score")
    assert odds.value == pytest.approx(expected["eod"], abs=1e-12)
    found = report.metrics()
    overall = [found[f"test/{name}"] for name in ("accuracy", "sensitivity", "specificity")]
    assert overall == pytest.approx(GOLDEN_OVERALL[run], abs=1e-12)


def test_golden_group_values_of_the_first_run():
    y, score, group = realise(GOLDEN["BiomedCLIP linear probe, HAM10000, sex"][0])
    found = evaluate_classification(y, score, attributes={"g": group}, operating_point=0.5, n_bootstrap=0).metrics()
    expected = {
        "accuracy": (0.7621681415929203, 0.7585446527012127),
        "sensitivity": (0.6646706586826348, 0.6041666666666666),
        "specificity": (0.7842605156037992, 0.7768187422934648),
    }
    for metric, values in expected.items():
        for code, value in enumerate(values):
            assert found[f"test/g/group/g{code}/{metric}"] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "gap"),
    [  # AUC, BCE and ECE per group of the same notebooks; only the arithmetic of the gap is under test
        ((0.7879735779458721, 0.7615598027127003), 0.026413775233171788),
        ((0.4027898907661438, 0.3096981942653656), 0.0930916965007782),
        ((0.0405852384824075, 0.04774411431746814), 0.007158875835060641),
        ((0.26956521739130435, 0.0625), 0.20706521739130437),
        ((0.25217391304347825, 0.125), 0.12717391304347828),
    ],
)
def test_golden_gaps(values, gap):
    assert float(spread(np.array(values))) == pytest.approx(gap, abs=1e-12)


def test_golden_segmentation_run():
    """SAM ViT-B, centre point, TUSC, sex (FairMedFM log, 4 decimals): mean .2601, groups .2563 and .2800."""
    values, overall, dice = np.array([0.2563, 0.2800]), np.float64(0.2601), METRICS["dice"]
    found = {name: float(statistic(name, values, overall, dice)) for name in ("gap", "skewness", "sd", "es_std")}
    expected = {"gap": 0.0237, "skewness": 1.0329, "sd": 0.0118, "es_std": 0.2571}
    assert found == pytest.approx(expected, abs=1.01e-4)


def test_three_equity_scaled_variants_differ():
    """Groups .90 and .80, overall .85: FairSeg's sum .773, FairMedFM's population sd .810, sample sd .794."""
    values, overall = np.array([0.9, 0.8]), np.float64(0.85)
    found = {n: float(statistic(n, values, overall, METRICS["dice"])) for n in ("es_sum", "es_std", "es_std_sample")}
    assert found == pytest.approx({"es_sum": 0.773, "es_std": 0.810, "es_std_sample": 0.794}, abs=5e-4)


def test_equalized_odds_scores_are_named_apart():
    found = equalized_odds(np.array([0.9, 0.7]), np.array([0.8, 0.85]))
    assert found["equalized_odds_difference"] == pytest.approx(0.2)
    assert found["equalized_odds_mean_difference"] == pytest.approx(0.125)
    assert found["equalized_odds_score"] == pytest.approx(0.875)


def test_perfect_group_has_no_skewness_but_a_reason():
    dice = np.concatenate([np.ones(10), np.linspace(0.5, 0.9, 10)])
    group = np.repeat(["a", "b"], 10)
    report = evaluate_segmentation(pd.DataFrame({"dice": dice}), attributes={"g": group}, n_bootstrap=0)
    row = cell(report, "dice", "skewness")
    assert np.isnan(row.value)
    assert row.reason == "the best group is perfect"


def rate(successes, n):
    return Spread("rate", successes / n, variance=0.1, n=n, patients=n)


def test_gap_of_two_rates_is_newcombes():
    """Newcombe 1998 (Stat Med 17:873), method 10, example (a): 56/70 - 48/80 has the interval .0524 to .3339."""
    region = Region.of([rate(56, 70), rate(48, 80)])
    assert region.gap() == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_region_of_two_groups_is_made_at_sidaks_level():
    region = Region.of([rate(56, 70), rate(48, 80)])
    from scipy.stats import norm

    z = norm.ppf(0.5 + LEVEL**0.5 / 2)
    assert (region.low[0], region.high[0]) == pytest.approx(wilson(56, 70, z=z), abs=1e-12)


def test_intervals_hold_their_estimate_and_reach_equality_only_when_groups_overlap():
    near, far = Region.of([rate(50, 60), rate(48, 60)]), Region.of([rate(55, 60), rate(20, 60)])
    metric = METRICS["sensitivity"]
    for region, equal in ((near, True), (far, False)):
        overall = np.float64(region.estimates.mean())
        for name in ("gap", "worst", "ratio", "sd", "skewness", "es_sum", "es_std", "es_std_sample"):
            low, high = region.ends(name, metric, float(overall), (float(overall) - 0.05, float(overall) + 0.05))
            value = float(statistic(name, region.estimates, overall, metric))
            assert low - 1e-12 <= value <= high + 1e-12, name
        assert (region.gap()[0] == 0) is equal
        assert (region.sd()[0] == 0) is equal
        assert (region.ends("ratio", metric, 0.5, (0.4, 0.6))[1] == 1) is equal


def test_detectable_is_2_8_standard_errors_for_two_groups():
    half = np.sqrt(0.8 * 0.2 / 4000)
    region = Region.of([rate(3200, 4000), rate(3200, 4000)])
    assert region.detectable() == pytest.approx(2.8016 * half * np.sqrt(2), rel=2e-3)


def test_gap_of_many_equal_groups_seldom_excludes_zero():
    """Eight uneven equal groups: an interval of the maximum that ignores the selection excludes 0 nearly always."""
    rng = np.random.default_rng(0)
    sizes = np.array([600, 400, 300, 240, 200, 140, 80, 40])
    excluded = [Region.of([rate(int(rng.binomial(n, 0.8)), int(n)) for n in sizes]).gap()[0] > 0 for _ in range(300)]
    assert np.mean(excluded) <= 0.08
