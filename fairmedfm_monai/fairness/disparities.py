"""From values per group to disparities, with interval, null band, detectable difference and p-value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fairmedfm_monai.fairness.estimate import Spread
from fairmedfm_monai.fairness.intervals import LEVEL, quantile
from fairmedfm_monai.fairness.registry import Metric
from fairmedfm_monai.fairness.tests import permutation_p_value

FloatArray = NDArray[np.float64]

POWER = 0.80
NULL_BAND = (0.05, 0.95)
NAMED = {"equal_opportunity": "sensitivity", "demographic_parity": "selection_rate", "predictive_parity": "ppv"}
"""Criteria that are the gap of one rate (Hardt et al. 2016; Dwork et al. 2012; Chouldechova 2017)."""
ODDS_METRIC = "sensitivity_specificity"
ODDS_STATISTICS = ("equalized_odds_difference", "equalized_odds_mean_difference", "equalized_odds_score")
ODDS_OVER_CLASSES = "equalized_odds_class_mean"
"""Of several classes: the mean over classes of each class's ``equalized_odds_difference``."""
EQUITY_SCALED = ("es_sum", "es_std", "es_std_sample")
DISTANCE = "dto"
"""Distance to the optimum: the only statistic that needs every group that has cases."""


def spread(values: FloatArray) -> FloatArray:
    """Largest minus smallest value over the last axis."""
    return np.max(values, axis=-1) - np.min(values, axis=-1)


def least_ratio(values: FloatArray) -> FloatArray:
    """Smallest over largest value (1 is fair); NaN when the largest is 0."""
    high = np.max(values, axis=-1)
    return np.divide(np.min(values, axis=-1), high, out=np.full(np.shape(high), np.nan), where=high > 0)


def skewness(values: FloatArray) -> FloatArray:
    """``(1 - min) / (1 - max)`` (FairMedFM, Jin et al. 2024; 1 is fair); NaN when the best group is perfect."""
    rest = 1 - np.max(values, axis=-1)
    return np.divide(1 - np.min(values, axis=-1), rest, out=np.full(np.shape(rest), np.nan), where=rest > 0)


def distance_to_optimum(values: FloatArray) -> FloatArray:
    """``sqrt(sum over groups of (1 - value)^2)``, from 0 (every group perfect) to ``sqrt(G)``.

    The point (1, ..., 1) is the optimum of any metric with the range [0, 1] of which more is better. Nothing is
    normalised, so that an epoch or a run has its distance by itself: neither by the number of groups, nor by the best
    value per group among all candidates as in MEDFAIR (Zong et al. 2023), where a value depends on what it is compared
    with. Distances of attributes with different numbers of groups are not comparable.
    """
    return np.sqrt(np.square(1 - values).sum(axis=-1))


def equity_penalty(values: FloatArray, overall: FloatArray, variant: str) -> FloatArray:
    """What the overall value is divided by, minus 1.

    Args:
        values: (..., G) group values.
        overall: (...) value over everyone.
        variant: ``es_sum``: sum of |group - overall| (FairSeg code, Tian et al. 2024); ``es_std``: population standard
            deviation of the groups (FairMedFM); ``es_std_sample``: sample standard deviation (FairSeg, first version).
    """
    if variant == "es_sum":
        return np.abs(values - np.asarray(overall)[..., None]).sum(axis=-1)
    return np.std(values, axis=-1, ddof=0 if variant == "es_std" else 1)


def statistic(name: str, values: FloatArray, overall: FloatArray, metric: Metric) -> FloatArray:
    """A disparity of group values (..., G) and the overall value (...), over the last axis."""
    if name in {"gap", *NAMED}:
        return spread(values)
    if name == "worst":
        return np.min(values, axis=-1) if metric.higher_is_better else np.max(values, axis=-1)
    if name in EQUITY_SCALED:
        return overall / (1 + equity_penalty(values, overall, name))
    of_values = {"ratio": least_ratio, "skewness": skewness, DISTANCE: distance_to_optimum}
    return of_values.get(name, lambda v: np.std(v, axis=-1))(values)


def statistics_of(metric: Metric) -> list[str]:
    """Names of the statistics that make sense for a metric."""
    names = ["gap"]
    if metric.higher_is_better is not None:
        names.append("worst")
    names += ["ratio", "sd"]
    if metric.scaled:
        names += ["skewness", *EQUITY_SCALED, DISTANCE]
    return names + [name for name, of in NAMED.items() if of == metric.name]


def larger_is_worse(name: str, metric: Metric | None) -> bool:
    """Whether large values of a statistic speak against fairness."""
    if name == "worst":
        return metric is not None and metric.higher_is_better is False
    return name not in {"ratio", *EQUITY_SCALED, "equalized_odds_score"}


@dataclass
class Disparity:
    """One cell of the disparity table."""

    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    null_low: float = float("nan")
    null_high: float = float("nan")
    detectable: float = float("nan")
    p_value: float = float("nan")
    reason: str = ""

    def compare(self, null: FloatArray, *, larger_is_worse: bool) -> None:
        """Fill null band and p-value from the statistic under shuffled groups (R,)."""
        null = null[np.isfinite(null)]
        if null.size:
            self.null_low, self.null_high = (float(q) for q in np.quantile(null, NULL_BAND))
            self.p_value = permutation_p_value(self.value, null, larger_is_worse=larger_is_worse)


@dataclass(frozen=True)
class Region:
    """Joint confidence region of the group values of one metric.

    The interval of a disparity is the range that it takes over this region, so it covers at least at the nominal level
    for any number of groups and never excludes "no difference" just because a maximum is taken over noise.

    Attributes:
        estimates: (G,) values of the groups.
        low, high: (G,) ends for all groups at once (Sidak's level over groups, which are independent).
        pair_low, pair_high: (G,) ends at Sidak's level over all pairs, for differences.
        level: joint level.
    """

    estimates: FloatArray
    low: FloatArray
    high: FloatArray
    pair_low: FloatArray
    pair_high: FloatArray
    level: float

    @classmethod
    def of(cls, spreads: Sequence[Spread], *, level: float = LEVEL) -> Region:
        """Region of independent groups."""
        g = len(spreads)
        low, high = np.array([s.ends(level ** (1 / g)) for s in spreads]).T
        pair_low, pair_high = np.array([s.ends(level ** (2 / (g * (g - 1)))) for s in spreads]).T
        return cls(np.array([s.value for s in spreads]), low, high, pair_low, pair_high, level)

    def gap(self) -> tuple[float, float]:
        """Bounds of max - min from all pairwise differences, each by MOVER (Zou & Donner, Stat Med 2008)."""
        left, right = np.triu_indices(self.estimates.size, 1)
        swap = self.estimates[left] < self.estimates[right]
        left, right = np.where(swap, right, left), np.where(swap, left, right)
        difference = self.estimates[left] - self.estimates[right]
        down, up = self.estimates - self.pair_low, self.pair_high - self.estimates
        below, above = np.hypot(down[left], up[right]), np.hypot(up[left], down[right])
        least = max(0.0, float((difference - below).max()))
        return least, float(np.maximum(difference + above, below - difference).max())

    def detectable(self) -> float:
        """Smallest true difference of the two extreme groups that is found with 80 % power: (q + z_80) standard errors.

        With two groups this is the usual 2.8 standard errors; with more, q is the quantile for all pairs.
        """
        g = self.estimates.size
        half = (self.pair_high - self.pair_low) / 2
        margin = float(np.hypot(half[np.argmax(self.estimates)], half[np.argmin(self.estimates)]))
        q = quantile(np.inf, self.level ** (2 / (g * (g - 1))))
        # Groups without any variation say nothing about what could have been found.
        return margin * (q + float(ndtri(POWER))) / q if margin > 0 else float("nan")

    def worst(self, metric: Metric) -> tuple[float, float]:
        """Bounds of the worst group value."""
        if metric.higher_is_better:
            return float(self.low.min()), float(self.high.min())
        return float(self.low.max()), float(self.high.max())

    def extremes(self) -> tuple[float, float, float, float]:
        """Least and largest minimum, least and largest maximum, for the two that are most and least apart."""
        if self.low.max() <= self.high.min():
            # All intervals overlap: the groups may be equal.
            middle = float(np.clip(np.median(self.estimates), self.low.max(), self.high.min()))
            return float(self.low.min()), middle, middle, float(self.high.max())
        return float(self.low.min()), float(self.high.min()), float(self.low.max()), float(self.high.max())

    def sd(self) -> tuple[float, float]:
        """Least and largest population standard deviation within the box."""
        if self.low.max() <= self.high.min():
            least = 0.0
        else:
            # The least spread clips a common centre into every interval.
            centres = np.linspace(self.high.min(), self.low.max(), 201)[:, None]
            least = float(np.std(np.clip(centres, self.low, self.high), axis=1).min())
        # The largest puts the groups above a split at their upper ends, the others at their lower ends.
        order = np.argsort(self.low + self.high)
        splits = np.arange(self.estimates.size)[None, :] >= np.arange(self.estimates.size + 1)[:, None]
        ends = np.where(splits, self.high[order], self.low[order])
        return least, float(np.std(ends, axis=1).max())

    def distance_to_optimum(self) -> tuple[float, float]:
        """Least and largest distance within the box: at its upper and at its lower corner."""
        return float(distance_to_optimum(self.high)), float(distance_to_optimum(self.low))

    def equity_penalty(self, variant: str, overall: float) -> tuple[float, float]:
        """Least and largest penalty of equity scaling, the overall value held."""
        if variant == "es_sum":
            distance = np.abs(self.estimates - overall)
            nearest = np.maximum(0.0, np.maximum(self.low - overall, overall - self.high))
            farthest = np.maximum(np.abs(self.low - overall), np.abs(self.high - overall))
            return float(np.minimum(nearest, distance).sum()), float(np.maximum(farthest, distance).sum())
        g = self.estimates.size
        factor = 1.0 if variant == "es_std" else np.sqrt(g / (g - 1))
        least, most = self.sd()
        return least * factor, most * factor

    def ends(self, name: str, metric: Metric, overall: float, overall_ends: tuple[float, float]) -> tuple[float, float]:
        """Bounds of any statistic."""
        if name in {"gap", *NAMED}:
            least, most = self.gap()
            return least, min(most, metric.upper)
        of_groups = {"worst": lambda: self.worst(metric), "sd": self.sd, DISTANCE: self.distance_to_optimum}
        if name in of_groups:
            return of_groups[name]()
        if name in EQUITY_SCALED:
            least, most = self.equity_penalty(name, overall)
            return overall_ends[0] / (1 + most), overall_ends[1] / (1 + least)
        far_low, near_low, near_high, far_high = self.extremes()
        if name == "ratio":
            return far_low / far_high, near_low / near_high if near_high > 0 else 1.0
        nearest = (1 - near_low) / (1 - near_high) if near_high < 1 else 1.0
        return nearest, (1 - far_low) / (1 - far_high) if far_high < 1 else float("inf")


def describe(
    name: str,
    metric: Metric,
    *,
    values: FloatArray,
    overall: float,
    overall_ends: tuple[float, float],
    region: Region | None,
    null: FloatArray,
) -> Disparity:
    """One statistic with everything that belongs beside it.

    Args:
        name: statistic.
        metric: metric of the values.
        values: (G,) values of the groups that can be estimated, G >= 2.
        overall: value over everyone.
        overall_ends: its interval.
        region: joint region of the group values; None when a group has no interval.
        null: (R, G) group values under shuffled groups, R may be 0.
    """
    cell = Disparity(float(statistic(name, values, np.float64(overall), metric)))
    if not np.isfinite(cell.value):
        cell.reason = "the largest group value is 0" if name == "ratio" else "the best group is perfect"
        return cell
    shuffled = statistic(name, null, np.full(len(null), overall), metric)
    cell.compare(shuffled, larger_is_worse=larger_is_worse(name, metric))
    if region is not None:
        cell.low, cell.high = region.ends(name, metric, overall, overall_ends)
        if name in {"gap", *NAMED}:
            cell.detectable = region.detectable()
    return cell


def equalized_odds(sensitivity: FloatArray, specificity: FloatArray) -> dict[str, FloatArray]:
    """Equalised odds (Hardt et al. 2016) in its three published forms.

    Args:
        sensitivity: (..., G) true-positive rates.
        specificity: (..., G) true-negative rates.

    Returns:
        ``equalized_odds_difference``: the larger of the two gaps (fairlearn); ``equalized_odds_mean_difference``: their
        mean; ``equalized_odds_score``: 1 minus their mean, 1 is fair (MEDFAIR; FairMedFM's ``eod``).
    """
    positive, negative = spread(sensitivity), spread(specificity)
    mean = (positive + negative) / 2
    return dict(zip(ODDS_STATISTICS, (np.maximum(positive, negative), mean, 1 - mean), strict=True))


def describe_odds(
    values: Sequence[FloatArray], regions: Sequence[Region | None], null: Sequence[FloatArray]
) -> Mapping[str, Disparity]:
    """The three equalised-odds statistics.

    Args:
        values: group values (G,) of sensitivity and of specificity.
        regions: their joint regions, at 97.5 % each so that both hold at 95 % (Bonferroni).
        null: their values (R, G) under the same shuffles.
    """
    found = {name: Disparity(float(value)) for name, value in equalized_odds(*values).items()}
    for name, shuffled in equalized_odds(*null).items():
        found[name].compare(shuffled, larger_is_worse=larger_is_worse(name, None))
    known = [region for region in regions if region is not None]
    if len(known) == len(regions):
        low, high = np.array([region.gap() for region in known]).T
        high = np.minimum(high, 1.0)
        largest, mean, score = (found[name] for name in ODDS_STATISTICS)
        largest.low, largest.high = float(low.max()), float(high.max())
        largest.detectable = float(np.max([region.detectable() for region in known]))
        mean.low, mean.high = float(low.mean()), float(high.mean())
        score.low, score.high = 1 - mean.high, 1 - mean.low
    return found
