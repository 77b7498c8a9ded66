"""Bootstrap weights and replicates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairmedfm_monai.fairness import bootstrap
from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.estimate import estimate_group, group_replicates

METRICS = ("auc", "auprc", "sensitivity", "specificity", "ppv", "selection_rate", "brier")


def test_table_is_poisson_one():
    share = np.bincount(bootstrap.poisson_table(), minlength=9) / 65536
    assert share == pytest.approx(stats.poisson.pmf(np.arange(share.size), 1), abs=2**-15)


def test_small_strata_are_never_empty_and_large_ones_are_poisson():
    rng = np.random.default_rng(0)
    strata = np.repeat([1, 0], [4, 500])
    weights = bootstrap.PatientWeights(strata, rng).draw(2000)
    assert weights[:, :4].sum(axis=1).min() > 0
    assert weights.mean(axis=0) == pytest.approx(np.ones(504), abs=0.15)
    # Each patient's weight has about the variance of a count that is drawn once on average.
    assert weights[:, 4:].var(axis=0).mean() == pytest.approx(1.0, abs=0.05)
    # Rescaled strata: the total of the small stratum varies like a Poisson count of 4.
    assert weights[:, :4].sum(axis=1).var() == pytest.approx(4.0, rel=0.15)


def test_chunks_cover_all_replicates_within_memory():
    parts = list(bootstrap.chunks(1000, 10_000))
    assert sum(parts) == 1000
    assert max(parts) * 10_000 <= bootstrap.CHUNK
    assert list(bootstrap.chunks(3, 10**9)) == [1, 1, 1]


def simulated(k, largest, seed=0):
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(k), rng.integers(1, largest + 1, k))
    y = (rng.random(k) < 0.4)[patients]
    score = 1 / (1 + np.exp(-(rng.standard_normal(k)[patients] + rng.standard_normal(patients.size) + y)))
    return patients, y, score


@pytest.mark.parametrize(("k", "largest"), [(60, 4), (400, 1), (400, 4)])
def test_bootstrap_and_analytic_errors_agree(k, largest):
    patients, y, score = simulated(k, largest)
    problem = BinaryProblem(y, score, score >= 0.5, METRICS)
    rows = np.arange(y.size)
    estimate = estimate_group(problem, rows, patients=patients, outcome=y, n_bootstrap=0, seed=0)
    cases = problem.prepare(rows)
    replicates = group_replicates(cases, patients[cases.rows], y[cases.rows], n_bootstrap=3000, seed=0)
    assert np.isfinite(replicates).all()
    for index, name in enumerate(METRICS):
        spread = estimate.spreads[index]
        if spread is not None:
            assert replicates[:, index].std() == pytest.approx(np.sqrt(spread.variance), rel=0.12), name
            assert replicates[:, index].mean() == pytest.approx(estimate.values[index], abs=0.02), name


def test_seed_and_data_decide_the_replicates():
    patients, y, score = simulated(50, 3)
    cases = BinaryProblem(y, score, score >= 0.5, ("auc",)).prepare(np.arange(y.size))
    first, again, other = (
        group_replicates(cases, patients[cases.rows], y[cases.rows], n_bootstrap=20, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_percentile_intervals_agree_with_resampling_patients_one_by_one():
    patients, y, score = simulated(80, 4, seed=5)
    problem = BinaryProblem(y, score, score >= 0.5, ("auc",))
    estimate = estimate_group(
        problem, np.arange(y.size), patients=patients, outcome=y, n_bootstrap=4000, seed=0, percentile=True
    )
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(patients == code) for code in range(80)]
    values = []
    for _ in range(500):
        drawn = np.concatenate([rows[code] for code in rng.integers(0, 80, 80)])
        positive, negative = score[drawn][y[drawn]], score[drawn][~y[drawn]]
        values.append(stats.mannwhitneyu(positive, negative).statistic / positive.size / negative.size)
    assert estimate.ends(0) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)
