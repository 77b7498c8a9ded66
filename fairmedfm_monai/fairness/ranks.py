"""Are some methods better than others over several datasets? Ranks, Friedman, Nemenyi, Wilcoxon with Holm's correction.

Follows Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006). The datasets are the
sample and must be independent; methods are compared within each dataset. A missing score is never filled in: a dataset
counts only when it has every compared method, and what was left out is named in `CompleteScores`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from fairmedfm_monai.fairness.complete import MIN_DATASETS, CompleteScores, complete_scores
from fairmedfm_monai.fairness.tests import holm

FloatArray = NDArray[np.float64]

ALPHA = 0.05
_FEW_DATASETS, _FEW_METHODS = 10, 5


@dataclass(frozen=True)
class Friedman:
    """Do all methods have the same expected rank?

    Attributes:
        average_ranks: mean rank over datasets by method, 1 = best of all on every dataset; ties share their mean rank.
        scores: what was compared.
        chi2: Friedman's statistic, divided by `tie_correction`.
        p_chi2: its p-value, chi-square with k - 1 degrees of freedom.
        f: Iman and Davenport's statistic (1980), less conservative.
        p_f: its p-value, F with k - 1 and (k - 1)(N - 1) degrees of freedom; where all datasets rank alike it is the
            exact probability of that, ``k!^(1 - N)``.
        tie_correction: ``1 - sum(t^3 - t) / (N (k^3 - k))`` over groups of t tied scores; 1 without ties.
        reason: why the statistics are NaN.
        notes: what a reader must know.
    """

    average_ranks: pd.Series
    scores: CompleteScores
    chi2: float = math.nan
    p_chi2: float = math.nan
    f: float = math.nan
    p_f: float = math.nan
    tie_correction: float = math.nan
    reason: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Nemenyi:
    """Which methods differ in rank, all pairs at once?

    Attributes:
        friedman: the test that comes first.
        alpha: level of the critical difference.
        critical_difference: average ranks that are this far apart differ; NaN with a reason.
        p_values: (k, k) p-value per pair, symmetric, 1 on the diagonal.
        cliques: methods that no critical difference separates, best rank first; each is as long as possible, and one
            that differs from every other stands in none.
    """

    friedman: Friedman
    alpha: float
    critical_difference: float
    p_values: pd.DataFrame
    cliques: list[tuple[str, ...]]


@dataclass(frozen=True)
class WilcoxonHolm:
    """Which pairs of methods differ?

    Attributes:
        pairs: one row per pair: ``method_a``, ``method_b``, ``wins_a``, ``wins_b``, ``ties``, ``median_advantage`` (how
            much better a is, in units of the score), ``statistic`` (smaller rank sum), ``p_value`` (two-sided, exact),
            ``p_adjusted`` (Holm over all pairs), ``reason``.
        scores: what was compared.
        notes: what a reader must know.
    """

    pairs: pd.DataFrame
    scores: CompleteScores
    notes: list[str] = field(default_factory=list)


def friedman(scores: pd.DataFrame, *, higher_is_better: bool, min_datasets: int = MIN_DATASETS) -> Friedman:
    """Rank the methods on each dataset and test whether their expected ranks are equal (Friedman 1937).

    ``chi2 = 12 / (N k (k + 1)) sum_j (sum_i r_ij)^2 - 3 N (k + 1)``, corrected for ties, and Iman and Davenport's
    ``F = (N - 1) chi2 / (N (k - 1) - chi2)``.

    Args:
        scores: (datasets, methods) one score per cell, NaN where there is none.
        higher_is_better: direction of the score.
        min_datasets: a method with scores on fewer datasets is not compared.

    Raises:
        ValueError: see `complete_scores`.
    """
    cells = complete_scores(scores, min_datasets=min_datasets)
    if cells.reason:
        nothing = pd.Series(np.nan, index=cells.table.columns)
        return Friedman(nothing, cells, reason=cells.reason, notes=cells.notes())
    ranks = cells.table.rank(axis=1, ascending=not higher_is_better)
    n, k = ranks.shape
    ties = 1 - sum(float((t**3 - t).sum()) for t in _tied(ranks)) / (n * (k**3 - k))
    notes = cells.notes()
    if n <= _FEW_DATASETS or k <= _FEW_METHODS:
        notes.append(f"With {n} datasets and {k} methods the p-values of Friedman's test are approximate.")
    if ties <= 0:
        reason = "all methods are equal on every dataset"
        return Friedman(ranks.mean(), cells, tie_correction=0.0, reason=reason, notes=notes)
    squares = float(np.square(ranks.sum()).sum())
    chi2 = max(0.0, (12 / (n * k * (k + 1)) * squares - 3 * n * (k + 1)) / ties)
    rest = n * (k - 1) - chi2
    f = (n - 1) * chi2 / rest if rest > 1e-9 * chi2 else math.inf
    p_f = 0.0 if math.isinf(f) else float(fdtrc(k - 1, (k - 1) * (n - 1), f))
    alike = math.exp((1 - n) * math.lgamma(k + 1))
    p_chi2 = float(chdtrc(k - 1, chi2))
    return Friedman(ranks.mean(), cells, chi2, p_chi2, f, max(p_f, alike), ties, notes=notes)


def _tied(ranks: pd.DataFrame) -> list[NDArray[np.int64]]:
    return [np.unique(row, return_counts=True)[1] for row in ranks.to_numpy()]


def nemenyi(
    scores: pd.DataFrame, *, higher_is_better: bool, alpha: float = ALPHA, min_datasets: int = MIN_DATASETS
) -> Nemenyi:
    """Compare the average ranks of all pairs (Nemenyi 1963).

    ``CD = q_alpha sqrt(k (k + 1) / (6 N))``, q_alpha being the quantile of the studentised range of k values with
    infinite degrees of freedom, divided by the square root of 2. Friedman's test comes first: without its rejection no
    pair is to be called different, and a note says so. Whether two methods differ depends on which others are compared
    (Benavoli, Corani & Mangili, JMLR 17, 2016); `wilcoxon_holm` does not have that property.

    Args:
        scores: (datasets, methods) one score per cell, NaN where there is none.
        higher_is_better: direction of the score.
        alpha: level of the critical difference, in (0, 1).
        min_datasets: a method with scores on fewer datasets is not compared.

    Raises:
        ValueError: on alpha outside (0, 1); see also `complete_scores`.
    """
    if not 0 < alpha < 1:
        msg = f"alpha: expected a level between 0 and 1, e.g. 0.05, got {alpha}"
        raise ValueError(msg)
    first = friedman(scores, higher_is_better=higher_is_better, min_datasets=min_datasets)
    ranks = first.average_ranks
    p_values = pd.DataFrame(np.nan, index=ranks.index, columns=ranks.index)
    if first.scores.reason:
        return Nemenyi(first, alpha, math.nan, p_values, [])
    from scipy.stats import studentized_range  # slow to import

    n, k = first.scores.table.shape
    error = math.sqrt(k * (k + 1) / (6 * n))
    critical = float(studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2) * error
    apart = np.abs(ranks.to_numpy()[:, None] - ranks.to_numpy()) / error * math.sqrt(2)
    distinct, where = np.unique(apart.round(10), return_inverse=True)  # one integral per distance, not per pair
    p = np.clip(studentized_range.sf(distinct, k, np.inf), 0.0, 1.0)
    p_values = pd.DataFrame(p[where.reshape(apart.shape)], index=ranks.index, columns=ranks.index)
    if not first.p_f < alpha:
        told = first.reason or f"p = {first.p_f:.3f}"
        first.notes.append(f"Friedman's test finds no difference ({told}): no pair is to be called different.")
    return Nemenyi(first, alpha, critical, p_values, _cliques(ranks, critical))


def _cliques(ranks: pd.Series, critical: float) -> list[tuple[str, ...]]:
    """Longest runs of neighbouring ranks in which first and last are less than the critical difference apart."""
    ordered = ranks.sort_values(kind="stable")
    values, names = ordered.to_numpy(), [str(name) for name in ordered.index]
    cliques, covered = [], 0
    for start in range(len(values)):
        end = int(np.searchsorted(values, values[start] + critical - 1e-12, side="left"))
        if end - start > 1 and end > covered:
            cliques.append(tuple(names[start:end]))
            covered = end
    return cliques


def wilcoxon_holm(scores: pd.DataFrame, *, higher_is_better: bool, min_datasets: int = MIN_DATASETS) -> WilcoxonHolm:
    """Compare each pair by Wilcoxon's signed-rank test (1945) and adjust over all pairs (Holm 1979).

    All pairs are compared on the same datasets, those that have every method. Unlike ranks, the test takes the sizes of
    the differences from different datasets as comparable.

    Args:
        scores: (datasets, methods) one score per cell, NaN where there is none.
        higher_is_better: direction of the score.
        min_datasets: a method with scores on fewer datasets is not compared.

    Raises:
        ValueError: see `complete_scores`.
    """
    cells = complete_scores(scores, min_datasets=min_datasets)
    rows = [_pair(cells, left, right, higher_is_better) for left, right in combinations(cells.table.columns, 2)]
    columns = ("method_a", "method_b", "wins_a", "wins_b", "ties", "median_advantage", "statistic", "p_value")
    pairs = pd.DataFrame(rows, columns=[*columns, "reason"])
    pairs.insert(len(columns), "p_adjusted", holm(pairs["p_value"].to_numpy(dtype=np.float64)))
    notes = cells.notes()
    least = len(pairs) * 2.0 ** (1 - len(cells.table))
    if not cells.reason and least > ALPHA:
        notes.append(
            f"With {len(cells.table)} datasets and {len(pairs)} pair(s) no adjusted p-value can be below "
            f"{min(least, 1):.3f}, whatever the scores."
        )
    return WilcoxonHolm(pairs, cells, notes)


def _pair(cells: CompleteScores, left: str, right: str, higher_is_better: bool) -> dict[str, object]:
    a, b = (cells.table[name].to_numpy() for name in (left, right))
    finite = np.abs(np.concatenate([a, b])[np.isfinite(np.concatenate([a, b]))])
    with np.errstate(invalid="ignore"):  # infinite distances on both sides are equal, not undefined
        advantage = np.where(a == b, 0.0, (a - b) * (1 if higher_is_better else -1))
    statistic, p = (math.nan, math.nan) if cells.reason else signed_rank(advantage, scale=finite.max(initial=0.0))
    return {
        "method_a": left,
        "method_b": right,
        "wins_a": int(np.count_nonzero(advantage > 0)),
        "wins_b": int(np.count_nonzero(advantage < 0)),
        "ties": int(np.count_nonzero(advantage == 0)),
        "median_advantage": math.nan if cells.reason else float(np.median(advantage)),
        "statistic": statistic,
        "p_value": p,
        "reason": cells.reason,
    }


def signed_rank(differences: FloatArray, *, scale: float = 0.0) -> tuple[float, float]:
    """Wilcoxon's signed-rank statistic and exact two-sided p-value, with ties.

    Tied sizes share their mean rank and the ranks of zeros are split between both signs, as Demsar does. The null
    distribution counts all sign patterns of the non-zero differences with the ranks as they are.

    Args:
        differences: (N,) paired differences.
        scale: size of the scores; sizes that differ by some 1e-12 of it differ by rounding and count as tied.

    Returns:
        The smaller of the two rank sums, and p; without any difference p is 1.
    """
    decimals = 12 - math.ceil(math.log10(scale)) if scale > 0 else 12
    sizes = np.round(np.abs(differences), decimals)
    doubled = (2 * pd.Series(sizes).rank().to_numpy()).astype(np.int64)  # mean ranks are halves
    zero = sizes == 0
    split = int(doubled[zero].sum()) // 2
    above = int(doubled[~zero & (differences > 0)].sum())
    chance = np.ones(1)
    for rank in doubled[~zero]:
        chance = (np.pad(chance, (0, rank)) + np.pad(chance, (rank, 0))) / 2
    p = 2 * min(chance[: above + 1].sum(), chance[above:].sum())
    below = int(doubled[~zero].sum()) - above
    return (min(above, below) + split) / 2, float(min(p, 1.0))
