"""Intervals against scipy, textbook DeLong and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.estimate import estimate_group
from fairmedfm_monai.fairness.intervals import (
    clustered_variance,
    log_interval,
    logit_interval,
    percentile_interval,
    quantile,
    rate_interval,
    wilson,
)
from fairmedfm_monai.fairness.overlap import SegmentationProblem


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 20), (20, 20), (450, 1000)])
def test_wilson_matches_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_quantiles_match_scipy():
    assert quantile(4.5) == pytest.approx(stats.t.ppf(0.975, 4.5), abs=1e-12)
    assert quantile(np.inf, 0.9) == pytest.approx(stats.norm.ppf(0.95), abs=1e-12)


def delong_by_pairs(y, score):
    """AUC and its variance from all pairs (DeLong, DeLong & Clarke-Pearson 1988)."""
    kernel = (score[y][:, None] > score[~y][None, :]) + 0.5 * (score[y][:, None] == score[~y][None, :])
    p, n = kernel.shape
    return kernel.mean(), kernel.mean(axis=1).var(ddof=1) / p + kernel.mean(axis=0).var(ddof=1) / n


def auc_spread(y, score, patients):
    problem = BinaryProblem(y, score, score >= 0.5, ("auc",))
    rows = np.arange(y.size)
    estimate = estimate_group(problem, rows, patients=patients, outcome=y, n_bootstrap=0, seed=0)
    return estimate.spreads[0]


@pytest.mark.parametrize("decimals", [5, 1], ids=["distinct", "tied"])
def test_auc_variance_is_delongs_with_one_case_per_patient(decimals):
    rng = np.random.default_rng(0)
    y = rng.random(120) < 0.3
    score = (rng.random(120) + 0.3 * y).round(decimals)
    spread = auc_spread(y, score, np.arange(120))
    auc, variance = delong_by_pairs(y, score)
    assert spread.value == pytest.approx(auc, abs=1e-12)
    assert spread.variance == pytest.approx(variance, rel=1e-9)


def test_auc_variance_is_obuchowskis_with_equal_clusters():
    rng = np.random.default_rng(1)
    k = 40
    patients, y = np.repeat(np.arange(k), 3), np.tile([True, False, False], k)
    score = rng.standard_normal(k)[patients] + rng.standard_normal(3 * k) + y
    kernel = (score[y][:, None] > score[~y][None, :]).astype(float)
    auc = kernel.mean()
    positive = kernel.mean(axis=1) - auc
    negative = (kernel.mean(axis=0) - auc).reshape(k, 2).sum(axis=1)
    factor = k / (k - 1)
    # Obuchowski 1997: S10 / M + S01 / N + 2 S11 / (M N)
    expected = factor * (
        (positive @ positive) / k**2 + (negative @ negative) / (2 * k) ** 2 + 2 * (positive @ negative) / (2 * k * k)
    )
    assert auc_spread(y, score, patients).variance == pytest.approx(expected, rel=1e-9)


def test_repeated_images_do_not_shrink_the_interval():
    rng = np.random.default_rng(2)
    y = rng.random(60) < 0.4
    score = rng.random(60) + 0.2 * y
    single = auc_spread(y, score, np.arange(60))
    copies = auc_spread(np.repeat(y, 5), np.repeat(score, 5), np.repeat(np.arange(60), 5))
    assert copies.variance == pytest.approx(single.variance, rel=1e-9)
    ignored = auc_spread(np.repeat(y, 5), np.repeat(score, 5), np.arange(300))
    assert ignored.variance < 0.3 * single.variance


def test_mean_variance_is_the_usual_one_without_clusters():
    values = np.random.default_rng(3).random(30)
    influence = (values - values.mean()) / 30
    variance, df = clustered_variance([(influence, np.arange(30))])
    assert variance == pytest.approx(values.var(ddof=1) / 30, rel=1e-12)
    assert df == pytest.approx(29)


def test_one_patient_has_no_variance():
    variance, _ = clustered_variance([(np.array([0.1, -0.1]), np.array([4, 4]))])
    assert np.isnan(variance)


def test_clustered_rate_uses_the_effective_sample_size():
    # Variance twice the binomial one: the same interval as for half the cases.
    found = rate_interval(0.8, 2 * 0.8 * 0.2 / 100, n=100, patients=40, z=quantile(np.inf))
    assert found == pytest.approx(wilson(40, 50), abs=1e-12)
    low, high = rate_interval(1.0, 0.0, n=100, patients=10, z=quantile(np.inf))
    assert (low, high) == pytest.approx(wilson(10, 10))


def test_bounded_intervals_stay_inside():
    assert logit_interval(1.0, 0.0, n=12, t=2.2)[1] == 1.0
    low, high = logit_interval(0.97, 0.03**2, n=20, t=2.1)
    assert 0.7 < low < 0.97 < high < 1
    assert log_interval(2.0, 1.0, t=2.0) == pytest.approx((2 / np.e, 2 * np.e))
    assert np.isnan(percentile_interval([np.nan, 0.3])).all()


@pytest.mark.parametrize("metric", ["auc", "dice"])
def test_coverage_on_clustered_patients(metric):
    """60 patients with 1-6 images: near .95 by patient, far below when images count as independent."""
    rng = np.random.default_rng(4)
    hits = np.zeros(2)
    runs = 250
    for _ in range(runs):
        patients = np.repeat(np.arange(60), rng.integers(1, 7, 60))
        y = np.arange(60)[patients] < 20
        latent = (rng.standard_normal(60)[patients] + rng.standard_normal(patients.size)) / np.sqrt(2)
        if metric == "auc":
            score = stats.norm.cdf(latent + np.sqrt(2) * stats.norm.ppf(0.85) * y)
            problem, truth = BinaryProblem(y, score, y, ("auc",)), 0.85
        else:
            problem, truth = SegmentationProblem({"dice": stats.norm.cdf(latent)}, ("dice",)), 0.5
        for i, ids in enumerate((patients, np.arange(patients.size))):
            estimate = estimate_group(problem, np.arange(patients.size), patients=ids, outcome=y, n_bootstrap=0, seed=0)
            low, high = estimate.ends(0)
            hits[i] += low <= truth <= high
    clustered, ignored = hits / runs
    assert 0.90 <= clustered <= 0.99
    assert ignored < 0.86
