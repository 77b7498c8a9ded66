"""p-values and their adjustment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairmedfm_monai.fairness.tests import adjust_p_values, benjamini_hochberg, holm, permutation_p_value


def test_benjamini_hochberg_matches_scipy():
    p = np.random.default_rng(0).random(40) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p), abs=1e-12)


def test_holm_matches_its_definition():
    p = np.array([0.04, 0.001, 0.03, 0.012])
    # Sorted .001 .012 .03 .04 times 4 3 2 1, made monotone.
    assert holm(p) == pytest.approx([0.06, 0.004, 0.06, 0.036], abs=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_undefined_p_values_stay_out_of_the_family(adjust):
    found = adjust([0.01, np.nan, 0.04])
    assert np.isnan(found[1])
    assert found[[0, 2]] == pytest.approx(adjust([0.01, 0.04]))
    assert adjust([]).size == 0


def test_p_value_counts_the_observed_one_and_ties():
    null = np.array([0.1, 0.2, 0.3, 0.3 + 1e-15])
    assert permutation_p_value(0.3, null, larger_is_worse=True) == pytest.approx(3 / 5)
    assert permutation_p_value(0.05, null, larger_is_worse=False) == pytest.approx(1 / 5)
    assert np.isnan(permutation_p_value(np.nan, null, larger_is_worse=True))
    assert np.isnan(permutation_p_value(0.1, np.array([np.nan]), larger_is_worse=True))


def test_families_are_by_split_and_primary_metric():
    table = pd.DataFrame(
        {
            "split": ["val", "val", "test", "test", "test"],
            "metric": ["auc", "auc", "auc", "auc", "f1"],
            "statistic": ["gap", "gap", "gap", "ratio", "gap"],
            "p_value": [0.01, 0.04, 0.01, 0.01, 0.04],
        }
    )
    # val: Holm over two gaps; test: Holm over one gap, BH over the two others.
    assert adjust_p_values(table, "auc") == pytest.approx([0.02, 0.04, 0.01, 0.02, 0.04])
