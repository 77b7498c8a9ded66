"""From values per group to disparities, with interval, null band, detectable difference and p-value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fairmedfm_monai.fairness.registry import Metric
from fairmedfm_monai.fairness.tests import permutation_p_value

FloatArray = NDArray[np.float64]

POWER = 0.80
NULL_BAND = (0.05, 0.95)
N_DRAWS = 2000
"""Joint Student draws behind simultaneous intervals; their seed is fixed, so that an interval is reproducible."""
NAMED = {"equal_opportunity": "sensitivity", "demographic_parity": "selection_rate", "predictive_parity": "ppv"}
"""Criteria that are the gap of one rate (Hardt et al. 2016; Dwork et al. 2012; Chouldechova 2017)."""
ODDS_METRIC = "sensitivity_specificity"


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


def equity_scaled(values: FloatArray, overall: FloatArray, variant: str) -> FloatArray:
    """Overall value scaled down by the differences between groups.

    Args:
        values: (..., G) group values.
        overall: (...) value over everyone.
        variant: ``es_sum`` divides by 1 + sum of |group - overall| (FairSeg code, Tian et al. 2024), ``es_std`` by 1 +
            population standard deviation (FairMedFM), ``es_std_sample`` by 1 + sample standard deviation (FairSeg v1).
    """
    if variant == "es_sum":
        penalty = np.abs(values - np.asarray(overall)[..., None]).sum(axis=-1)
    else:
        penalty = np.std(values, axis=-1, ddof=0 if variant == "es_std" else 1)
    return overall / (1 + penalty)


def statistic(name: str, values: FloatArray, overall: FloatArray, metric: Metric) -> FloatArray:
    """A disparity of group values (..., G) and the overall value (...), over the last axis."""
    if name in {"gap", *NAMED}:
        return spread(values)
    if name == "worst":
        return np.min(values, axis=-1) if metric.higher_is_better else np.max(values, axis=-1)
    if name == "ratio":
        return least_ratio(values)
    if name == "sd":
        return np.std(values, axis=-1)
    if name == "skewness":
        return skewness(values)
    return equity_scaled(values, overall, name)


def statistics_of(metric: Metric) -> list[str]:
    """Names of the statistics that make sense for a metric."""
    names = ["gap"]
    if metric.higher_is_better is not None:
        names.append("worst")
    names += ["ratio", "sd"]
    if metric.scaled:
        names += ["skewness", "es_sum", "es_std", "es_std_sample"]
    return names + [name for name, of in NAMED.items() if of == metric.name]


def larger_is_worse(name: str, metric: Metric | None) -> bool:
    """Whether large values of a statistic speak against fairness."""
    if name == "worst":
        return metric is not None and metric.higher_is_better is False
    return name not in {"ratio", "es_sum", "es_std", "es_std_sample", "equalized_odds_score"}


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


@dataclass
class Simultaneous:
    """Joint 95 % bounds of all pairwise differences and of all groups (max-T over Student draws).

    Attributes:
        error: (G,) standard errors.
        pair: critical value for all pairs at once.
        each: critical value for all groups at once.
    """

    error: FloatArray
    pair: float
    each: float

    @classmethod
    def of(cls, error: FloatArray, df: FloatArray, *, level: float = 0.95) -> Simultaneous:
        """Simulate the largest studentised difference of independent groups with unequal variances."""
        rng = np.random.default_rng(0)
        size = (N_DRAWS, error.size)
        draws = rng.standard_normal(size) / np.sqrt(rng.chisquare(np.where(np.isfinite(df), df, 1e6), size) / df)
        left, right = np.triu_indices(error.size, 1)
        scale = np.hypot(error[left], error[right])
        scaled = draws * error
        pairs = np.abs(scaled[:, left] - scaled[:, right]) / np.where(scale > 0, scale, 1.0)
        return cls(
            error,
            float(np.quantile(pairs.max(axis=1), level)),
            float(np.quantile(np.abs(draws).max(axis=1), level)),
        )

    def gap(self, values: FloatArray) -> tuple[float, float]:
        """Bounds of max - min: the least and the most that the joint region of all differences allows."""
        left, right = np.triu_indices(values.size, 1)
        difference = np.abs(values[left] - values[right])
        margin = self.pair * np.hypot(self.error[left], self.error[right])
        return max(0.0, float((difference - margin).max())), float((difference + margin).max())

    def detectable(self, values: FloatArray) -> float:
        """Smallest true difference between the two extreme groups that is found with 80 % power."""
        pair = np.hypot(self.error[np.argmax(values)], self.error[np.argmin(values)])
        return float((self.pair + ndtri(POWER)) * pair)


def describe(
    name: str,
    metric: Metric,
    *,
    values: FloatArray,
    overall: float,
    bounds: Simultaneous | None,
    draws: FloatArray,
    draws_overall: FloatArray,
    null: FloatArray,
) -> Disparity:
    """One statistic with everything that belongs beside it.

    Args:
        name: statistic.
        metric: metric of the values.
        values: (G,) values of the groups that can be estimated, G >= 2.
        overall: value over everyone.
        bounds: simultaneous bounds; None when a group has no variance estimate.
        draws: (B, G) replicates of the group values (bootstrap or Student draws).
        draws_overall: (B,) the overall value in the same replicates.
        null: (R, G) group values under shuffled groups.
    """
    value = float(statistic(name, values, np.float64(overall), metric))
    cell = Disparity(value)
    if not np.isfinite(value):
        cell.reason = "the largest group value is 0" if name == "ratio" else "the best group is perfect"
        return cell
    if null.size:
        shuffled = statistic(name, null, np.full(len(null), overall), metric)
        cell.null_low, cell.null_high = (float(q) for q in np.nanquantile(shuffled, NULL_BAND))
        cell.p_value = permutation_p_value(value, shuffled, larger_is_worse=larger_is_worse(name, metric))
    if bounds is None:
        return cell
    if name in {"gap", *NAMED}:
        cell.low, cell.high = bounds.gap(values)
        cell.high = min(cell.high, metric.upper)
        cell.detectable = bounds.detectable(values)
    elif name == "worst":
        cell.low, cell.high = _worst(values, bounds, metric)
    elif draws.size:
        cell.low, cell.high = _basic(name, value, statistic(name, draws, draws_overall, metric))
    return cell


def _worst(values: FloatArray, bounds: Simultaneous, metric: Metric) -> tuple[float, float]:
    pick: Callable[[FloatArray], float] = np.min if metric.higher_is_better else np.max
    margin = bounds.each * bounds.error
    return max(0.0, float(pick(values - margin))), min(metric.upper, float(pick(values + margin)))


def _basic(name: str, value: float, draws: FloatArray) -> tuple[float, float]:
    """Basic bootstrap interval: takes the upward bias of spreads back, where percentiles would double it."""
    draws = draws[np.isfinite(draws)]
    if draws.size < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(draws, [0.025, 0.975])
    low, high = 2 * value - high, 2 * value - low
    floor, ceiling = {"sd": (0.0, np.inf), "ratio": (0.0, 1.0), "skewness": (1.0, np.inf)}.get(name, (0.0, 1.0))
    return float(np.clip(low, floor, ceiling)), float(np.clip(high, floor, ceiling))


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
    return {
        "equalized_odds_difference": np.maximum(positive, negative),
        "equalized_odds_mean_difference": mean,
        "equalized_odds_score": 1 - mean,
    }


ODDS_STATISTICS = ("equalized_odds_difference", "equalized_odds_mean_difference", "equalized_odds_score")


def describe_odds(pair: Sequence[FloatArray], bounds: Sequence[Simultaneous | None], null: Sequence[FloatArray]) -> dict[
    str, Disparity
]:
    """The three equalised-odds statistics; ``pair``, ``bounds``, ``null`` are of sensitivity and specificity.

    The interval combines the two gaps' simultaneous bounds, which are to be made at 97.5 % each (Bonferroni).
    """
    found = {name: Disparity(float(value)) for name, value in equalized_odds(*pair).items()}
    if null[0].size:
        for name, shuffled in equalized_odds(*null).items():
            cell = found[name]
            cell.null_low, cell.null_high = (float(q) for q in np.nanquantile(shuffled, NULL_BAND))
            cell.p_value = permutation_p_value(cell.value, shuffled, larger_is_worse=larger_is_worse(name, None))
    if bounds[0] is not None and bounds[1] is not None:
        ends = [bound.gap(values) for bound, values in zip(bounds, pair, strict=True) if bound is not None]
        low, high = np.array(ends).T
        found["equalized_odds_difference"].low = float(low.max())
        found["equalized_odds_difference"].high = min(1.0, float(high.max()))
        found["equalized_odds_difference"].detectable = max(
            bound.detectable(values) for bound, values in zip(bounds, pair, strict=True) if bound is not None
        )
        mean = found["equalized_odds_mean_difference"]
        mean.low, mean.high = float(low.mean()), min(1.0, float(high.mean()))
        found["equalized_odds_score"].low, found["equalized_odds_score"].high = 1 - mean.high, 1 - mean.low
    return found
