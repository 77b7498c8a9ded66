"""Null distributions under shuffled groups."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.overlap import SegmentationProblem
from fairmedfm_monai.fairness.permutation import BUDGET, FEWEST, affordable, null_values
from fairmedfm_monai.fairness.tests import permutation_p_value


def test_matches_scipy_for_a_difference_of_means():
    rng = np.random.default_rng(0)
    dice = rng.beta(5, 2, 60)
    codes = (np.arange(60) < 25).astype(np.int64)
    dice[codes == 1] -= 0.06
    null = null_values(
        SegmentationProblem({"dice": dice}, ("dice",)),
        np.arange(60),
        codes,
        n_groups=2,
        patients=np.arange(60),
        outcome=np.ones(60, dtype=bool),
        n_permutations=8000,
        seed=0,
    )[:, :, 0]
    gap = abs(dice[codes == 0].mean() - dice[codes == 1].mean())
    expected = stats.permutation_test(
        (dice[codes == 0], dice[codes == 1]),
        lambda a, b: abs(a.mean() - b.mean()),
        n_resamples=8000,
        vectorized=False,
        alternative="greater",
        rng=np.random.default_rng(1),
    )
    found = permutation_p_value(gap, np.ptp(null, axis=1), larger_is_worse=True)
    assert found == pytest.approx(expected.pvalue, abs=0.02)
    assert np.quantile(np.ptp(null, axis=1), 0.95) == pytest.approx(
        np.quantile(expected.null_distribution, 0.95), rel=0.05
    )


def test_images_of_a_patient_move_together():
    """All images of a patient score alike: shuffling images would find a gap in pure noise far too often."""
    rng = np.random.default_rng(1)
    p_values = []
    for seed in range(60):
        k = 24
        patients = np.repeat(np.arange(k), 8)
        dice = np.clip(rng.beta(5, 2, k)[patients] + 0.01 * rng.standard_normal(patients.size), 0, 1)
        codes = rng.permutation(np.arange(k) % 2)[patients]
        null = null_values(
            SegmentationProblem({"dice": dice}, ("dice",)),
            np.arange(patients.size),
            codes,
            n_groups=2,
            patients=patients,
            outcome=np.ones(patients.size, dtype=bool),
            n_permutations=200,
            seed=seed,
        )[:, :, 0]
        gap = abs(dice[codes == 0].mean() - dice[codes == 1].mean())
        p_values.append(permutation_p_value(gap, np.ptp(null, axis=1), larger_is_worse=True))
    assert stats.kstest(p_values, "uniform").pvalue > 0.005
    assert np.mean(np.array(p_values) < 0.05) <= 0.15


def test_outcome_classes_keep_their_group_sizes():
    rng = np.random.default_rng(2)
    y = rng.random(100) < 0.3
    codes = (rng.random(100) < 0.2).astype(np.int64)
    problem = BinaryProblem(y, rng.random(100), y, ("sensitivity", "auc"))
    null = null_values(
        problem, np.arange(100), codes, n_groups=2, patients=np.arange(100), outcome=y, n_permutations=50, seed=0
    )
    # Decisions are the truth: sensitivity is 1 in every shuffled group, and never undefined.
    assert (null[:, :, 0] == 1).all()
    assert np.isfinite(null).all()


def test_large_data_get_fewer_permutations():
    assert affordable(1000, 10_000, 4) == 1000
    assert affordable(1000, 10**7, 8) == FEWEST
    assert affordable(1000, BUDGET // 400, 1) == 400
    assert affordable(50, 10**9, 8) == 50


def test_more_groups_than_a_byte_holds():
    codes = np.repeat(np.arange(200), 2)
    dice = codes / 200
    null = null_values(
        SegmentationProblem({"dice": dice}, ("dice",)),
        np.arange(400),
        codes,
        n_groups=200,
        patients=np.arange(400),
        outcome=np.ones(400, dtype=bool),
        n_permutations=3,
        seed=0,
    )[:, :, 0]
    # Every shuffle deals all cases out again: the mean over equal groups stays.
    assert null.mean(axis=1) == pytest.approx(np.full(3, dice.mean()))
    assert not np.array_equal(null[0], null[1])
