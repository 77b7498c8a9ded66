"""Rank statistics against scipy and the worked example of Demsar (JMLR 2006)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairmedfm_monai.fairness.complete import complete_scores
from fairmedfm_monai.fairness.ranks import friedman, nemenyi, signed_rank, wilcoxon_holm

# Table 6 of Demsar (2006): ranks of four variants of C4.5 by AUC on 14 datasets.
DEMSAR_METHODS = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
DEMSAR_RANKS = np.array(
    [
        *([4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1]),
        *([2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3]),
        [3, 1, 4, 2],
    ]
)
# Table 2: AUC of C4.5 and C4.5+m on the same datasets.
C45 = (0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957)
C45_M = (0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978)
# Table 5a: critical values of the two-tailed Nemenyi test for 2 to 10 classifiers.
Q_05 = (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164)
Q_10 = (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920)


def table(values, methods=None):
    values = np.asarray(values, dtype=float)
    methods = methods or [f"m{k}" for k in range(values.shape[1])]
    return pd.DataFrame(values, index=[f"d{k}" for k in range(len(values))], columns=methods)


def random_scores(seed, n=12, k=6, *, levels=None):
    rng = np.random.default_rng(seed)
    values = rng.random((n, k)) if levels is None else rng.integers(0, levels, (n, k)) / levels
    return table(values)


def test_the_worked_example_of_demsar():
    result = friedman(table(DEMSAR_RANKS, DEMSAR_METHODS), higher_is_better=False)
    assert result.average_ranks.round(3).to_dict() == dict(zip(DEMSAR_METHODS, (3.143, 2.0, 2.893, 1.964), strict=True))
    # Demsar's statistics have no correction for ties.
    plain = result.chi2 * result.tie_correction
    assert round(plain, 2) == 9.28
    assert round(13 * plain / (14 * 3 - plain), 2) == 3.69
    assert result.f == pytest.approx(13 * result.chi2 / (14 * 3 - result.chi2))
    assert result.p_f == pytest.approx(stats.f.sf(result.f, 3, 39))
    assert round(nemenyi(table(DEMSAR_RANKS), higher_is_better=False).critical_difference, 2) == 1.25
    at_10 = nemenyi(table(DEMSAR_RANKS, DEMSAR_METHODS), higher_is_better=False, alpha=0.10)
    assert round(at_10.critical_difference, 2) == 1.12
    # "C4.5 is worse than C4.5+m and C4.5+m+cf at alpha .10; the data are not sufficient for C4.5+cf".
    assert at_10.cliques == [("C4.5+m+cf", "C4.5+m", "C4.5+cf"), ("C4.5+cf", "C4.5")]


def test_the_signed_rank_example_of_demsar():
    # R+ = 93, R- = 12, critical value 21 at .05; two zeros are shared and sizes tie but for rounding errors.
    statistic, p = signed_rank(np.array(C45_M) - np.array(C45), scale=1.0)
    assert statistic == 12
    assert p < 0.05
    pair = wilcoxon_holm(table(np.c_[C45, C45_M], ["c45", "c45_m"]), higher_is_better=True).pairs.iloc[0]
    assert (pair["wins_a"], pair["wins_b"], pair["ties"]) == (2, 10, 2)
    assert pair["statistic"] == 12
    assert pair["p_value"] == pair["p_adjusted"] == p
    assert pair["median_advantage"] == pytest.approx(-0.008)  # of .007 and .009


@pytest.mark.parametrize(("alpha", "values"), [(0.05, Q_05), (0.10, Q_10)])
def test_critical_values_of_the_published_table(alpha, values):
    for k, q in enumerate(values, start=2):
        n = 9
        result = nemenyi(random_scores(k, n, k), higher_is_better=True, alpha=alpha)
        assert result.critical_difference / math.sqrt(k * (k + 1) / (6 * n)) == pytest.approx(q, abs=1.01e-3)


@pytest.mark.parametrize("levels", [None, 3, 8])
@pytest.mark.parametrize("seed", range(4))
def test_friedman_equals_scipy(seed, levels):
    scores = random_scores(seed, levels=levels)
    expected = stats.friedmanchisquare(*scores.to_numpy().T)
    for higher_is_better in (True, False):
        result = friedman(scores, higher_is_better=higher_is_better)
        assert result.chi2 == pytest.approx(expected.statistic, abs=1e-9)
        assert result.p_chi2 == pytest.approx(expected.pvalue)
    ranks = stats.rankdata(scores.to_numpy(), axis=1)
    assert result.average_ranks.to_numpy() == pytest.approx(ranks.mean(axis=0))


@pytest.mark.parametrize("seed", range(3))
def test_p_values_of_nemenyi_equal_the_studentised_range(seed):
    scores = random_scores(seed, 8, 5)
    result = nemenyi(scores, higher_is_better=True)
    ranks = stats.rankdata(-scores.to_numpy(), axis=1).mean(axis=0)
    for i in range(5):
        for j in range(5):
            q = abs(ranks[i] - ranks[j]) / math.sqrt(5 * 6 / (6 * 8)) * math.sqrt(2)
            expected = 1.0 if i == j else stats.studentized_range.sf(q, 5, np.inf)
            assert result.p_values.iloc[i, j] == pytest.approx(expected, abs=1e-8)
            apart = abs(ranks[i] - ranks[j]) >= result.critical_difference
            together = any({f"m{i}", f"m{j}"} <= set(clique) for clique in result.cliques)
            assert apart == (result.p_values.iloc[i, j] <= 0.05)
            assert i == j or apart != together


def test_two_methods_are_compared_like_a_sign_test_of_ranks():
    # With two methods Friedman's statistic is that of the sign test, (wins - losses)^2 / N.
    scores = table([[1, 0]] * 9 + [[0, 1]] * 2)
    assert friedman(scores, higher_is_better=True).chi2 == pytest.approx((9 - 2) ** 2 / 11)


@pytest.mark.parametrize("n", [3, 7, 20, 45])
def test_signed_rank_equals_scipy_without_ties(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    expected = stats.wilcoxon(differences, method="exact")
    assert signed_rank(differences) == pytest.approx((expected.statistic, expected.pvalue))


@pytest.mark.parametrize("seed", range(5))
def test_signed_rank_equals_all_sign_patterns_with_ties_and_zeros(seed):
    differences = np.random.default_rng(seed).integers(-3, 5, 10).astype(float)
    expected = stats.wilcoxon(differences, zero_method="zsplit", method=stats.PermutationMethod(n_resamples=np.inf))
    assert signed_rank(differences) == pytest.approx((expected.statistic, expected.pvalue))


def test_wilcoxon_of_all_pairs_is_adjusted_by_holm():
    scores = random_scores(1, 14, 4)
    scores["m3"] += 0.6
    pairs = wilcoxon_holm(scores, higher_is_better=True).pairs
    raw = [
        stats.wilcoxon(scores[a], scores[b]).pvalue for a, b in zip(pairs["method_a"], pairs["method_b"], strict=True)
    ]
    assert pairs["p_value"].tolist() == pytest.approx(raw)
    running = 0.0
    for position, index in enumerate(np.argsort(raw, kind="stable")):
        running = max(running, min(1.0, raw[index] * (len(raw) - position)))
        assert pairs["p_adjusted"].iloc[index] == pytest.approx(running)
    lower = wilcoxon_holm(-scores, higher_is_better=False).pairs
    pd.testing.assert_frame_equal(pairs, lower)


@pytest.mark.parametrize("levels", [None, 4])
def test_order_names_and_monotone_transformations_change_nothing(levels):
    scores = random_scores(3, levels=levels)
    base = nemenyi(scores, higher_is_better=True)
    rng = np.random.default_rng(0)
    renamed = {name: f"other-{name}" for name in scores}
    per_dataset = scores.mul(rng.uniform(1, 9, len(scores)), axis=0).add(rng.normal(0, 9, len(scores)), axis=0)
    variants = {
        "datasets": scores.iloc[rng.permutation(len(scores))],
        "methods": scores[list(rng.permutation(scores.columns))],
        "names": scores.rename(columns=renamed),
        "monotone": np.exp(3 * scores),
    }
    if levels is None:  # rounding must not break ties
        variants["scale of each dataset"] = per_dataset
    for what, variant in variants.items():
        result = nemenyi(variant, higher_is_better=True)
        back = {value: name for name, value in renamed.items()}
        ranks = result.friedman.average_ranks.rename(back)[scores.columns]
        assert ranks.to_numpy() == pytest.approx(base.friedman.average_ranks.to_numpy()), what
        assert (result.friedman.chi2, result.critical_difference) == pytest.approx(
            (base.friedman.chi2, base.critical_difference)
        )
    turned = friedman(-scores, higher_is_better=False)
    pd.testing.assert_series_equal(turned.average_ranks, base.friedman.average_ranks)


def test_a_dataset_with_a_gap_is_dropped_and_named_never_filled_in():
    scores = random_scores(5, 8, 4)
    scores.loc["d2", ["m1", "m3"]] = np.nan
    scores.loc["d6"] = np.nan
    result = friedman(scores, higher_is_better=True)
    assert result.scores.dropped == {"d2": ("m1", "m3"), "d6": ("m0", "m1", "m2", "m3")}
    assert result.notes[:2] == ["d2 is left out: no score of m1, m3.", "d6 is left out: no score of any method."]
    alone = friedman(scores.drop(index=["d2", "d6"]), higher_is_better=True)
    pd.testing.assert_series_equal(result.average_ranks, alone.average_ranks)
    assert result.chi2 == alone.chi2


def test_a_method_with_too_few_datasets_is_left_out_and_named():
    scores = random_scores(6, 8, 4)
    scores.loc["d2":, "m1"] = np.nan
    result = nemenyi(scores, higher_is_better=True)
    assert result.friedman.scores.left_out == {"m1": 2}
    assert result.friedman.notes[0] == "m1 is left out: it has a score on 2 of 8 datasets."
    assert list(result.p_values) == ["m0", "m2", "m3"]
    assert len(result.friedman.scores.table) == 8
    stricter = complete_scores(scores.assign(m2=scores["m2"].where(scores.index < "d5")), min_datasets=6)
    assert stricter.left_out == {"m1": 2, "m2": 5}


@pytest.mark.parametrize("test", [friedman, nemenyi, wilcoxon_holm])
def test_too_few_datasets_give_nan_with_a_reason(test):
    scores = random_scores(7, 6, 4)
    scores.loc["d0":"d3", "m1"] = np.nan
    scores.loc["d5", "m1"] = 0.5
    scores.loc["d3", "m1"] = 0.5  # three scores: compared, but not on three common datasets
    scores.loc["d4", "m2"] = np.nan
    result = test(scores, higher_is_better=True)
    cells = result.friedman.scores if test is nemenyi else result.scores
    assert cells.reason == "2 dataset(s) have every method; at least 3 are needed; without m1 there would be 5"
    if test is friedman:
        assert math.isnan(result.chi2)
        assert math.isnan(result.p_f)
        assert result.average_ranks.isna().all()
        assert result.reason == cells.reason
    elif test is nemenyi:
        assert math.isnan(result.critical_difference)
        assert result.p_values.isna().all(axis=None)
        assert result.cliques == []
    else:
        assert result.pairs[["statistic", "p_value", "p_adjusted", "median_advantage"]].isna().all(axis=None)
        assert (result.pairs["reason"] == cells.reason).all()
        assert len(result.pairs) == 6


@pytest.mark.parametrize(("methods", "told"), [(1, "1 method"), (0, "0 method")])
def test_nothing_to_compare(methods, told):
    scores = random_scores(0, 6, 3)
    scores.iloc[:, methods:] = np.nan
    result = nemenyi(scores, higher_is_better=True)
    assert result.friedman.reason.startswith(told)
    assert math.isnan(result.critical_difference)
    assert wilcoxon_holm(scores, higher_is_better=True).pairs.empty


def test_methods_that_are_always_equal():
    scores = table(np.full((6, 3), 0.5))
    result = nemenyi(scores, higher_is_better=True)
    assert math.isnan(result.friedman.chi2)
    assert result.friedman.reason == "all methods are equal on every dataset"
    assert result.friedman.average_ranks.tolist() == [2, 2, 2]
    assert result.cliques == [("m0", "m1", "m2")]
    assert wilcoxon_holm(scores, higher_is_better=True).pairs["p_value"].tolist() == [1, 1, 1]


def test_complete_agreement_has_the_probability_of_all_datasets_ranking_alike():
    scores = table(np.tile([0.9, 0.8, 0.7], (4, 1)))
    result = friedman(scores, higher_is_better=True)
    assert math.isinf(result.f)
    assert result.p_f == pytest.approx(1 / 6**3)


def test_infinite_distances_are_ranked_and_equal_ones_tie():
    scores = table([[1.0, np.inf], [np.inf, np.inf], [2.0, 3.0], [1.0, 5.0]], ["a", "b"])
    assert friedman(scores, higher_is_better=False).average_ranks.to_dict() == {"a": 1.125, "b": 1.875}
    pair = wilcoxon_holm(scores, higher_is_better=False).pairs.iloc[0]
    assert (pair["wins_a"], pair["wins_b"], pair["ties"]) == (3, 0, 1)
    assert pair["p_value"] == pytest.approx(0.25)


def test_notes_say_when_nothing_can_be_found():
    result = wilcoxon_holm(random_scores(0, 10, 14), higher_is_better=True)
    assert result.notes == [
        "With 10 datasets and 91 pair(s) no adjusted p-value can be below 0.178, whatever the scores."
    ]
    alike = nemenyi(random_scores(0, 6, 3), higher_is_better=True).friedman
    assert alike.p_f > 0.05
    assert alike.notes[-1].startswith("Friedman's test finds no difference (p = ")


@pytest.mark.parametrize(
    ("scores", "alpha", "message"),
    [
        (pd.DataFrame([[1, 2]] * 3, columns=["a", "a"]), 0.05, r"methods \(columns\) must be unique.*'a'"),
        (pd.DataFrame([[1, 2]] * 2, index=["d", "d"]), 0.05, r"datasets \(index\) must be unique.*'d'"),
        (pd.DataFrame([["high", 2]] * 3), 0.05, "expected a table of numbers"),
        (pd.DataFrame([[1, 2]] * 3), 5, "alpha: expected a level between 0 and 1, e.g. 0.05, got 5"),
    ],
)
def test_bad_input_is_refused(scores, alpha, message):
    with pytest.raises(ValueError, match=message):
        nemenyi(scores, higher_is_better=True, alpha=alpha)
