"""One group at a time: point estimates, intervals and bootstrap replicates of all metrics of a problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import bootstrap, intervals
from fairmedfm_monai.fairness.registry import METRICS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Cases(Protocol):
    """Some cases of a problem, sorted once; all arrays are in the order of ``rows``."""

    rows: IntArray

    def point(self) -> FloatArray:
        """Metrics (M,) with every case counted once."""

    def evaluate(self, weights: FloatArray) -> FloatArray:
        """Metrics (C, M) of C weightings (C, m)."""

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influences (m,) of the metrics with an analytic variance."""

    def parts(self, name: str) -> list[BoolArray]:
        """Cases (m,) that carry the variance of a metric, in independent parts."""

    def interval(self, name: str) -> str:
        """Kind of interval of a metric; see ``Metric.interval``."""

    def reason(self, name: str) -> str:
        """Why a metric is undefined for these cases."""


class Problem(Protocol):
    """Cases with a truth and a prediction, and the metrics to compute on them."""

    metrics: tuple[str, ...]

    def prepare(self, rows: IntArray) -> Cases:
        """Sort a subset of the rows."""


@dataclass
class GroupEstimate:
    """Metrics of one group.

    Attributes:
        values: (M,) point estimates, NaN where undefined.
        low, high: (M,) ends of the 95 % intervals.
        variance, df: (M,) clustered variance and its degrees of freedom.
        reasons: (M,) why a value or its interval is undefined, empty where both are there.
        replicates: (B, M) bootstrap replicates, or (0, M).
        n: number of cases.
    """

    values: FloatArray
    low: FloatArray
    high: FloatArray
    variance: FloatArray
    df: FloatArray
    reasons: list[str]
    replicates: FloatArray
    n: int


def estimate_group(
    problem: Problem, rows: IntArray, *, patients: IntArray, outcome: BoolArray, n_bootstrap: int, seed: int
) -> GroupEstimate:
    """Estimate all metrics of one group.

    Args:
        problem: the cases.
        rows: (m,) rows of the group.
        patients: (n,) patient code of every row of the problem.
        outcome: (n,) outcome of every row, for the strata.
        n_bootstrap: replicates; 0 leaves metrics without an analytic variance without an interval.
        seed: seed of the bootstrap.
    """
    cases = problem.prepare(rows)
    values = cases.point()
    # Consecutive codes within the group: variances and weights are sums over its own patients only.
    _, local = np.unique(patients[cases.rows], return_inverse=True)
    replicates = _replicates(cases, local, outcome[cases.rows], n_bootstrap, seed, len(problem.metrics))
    n_metrics = len(problem.metrics)
    estimate = GroupEstimate(
        values, *(np.full(n_metrics, np.nan) for _ in range(4)), [""] * n_metrics, replicates, cases.rows.size
    )
    influences = cases.influence(values) if cases.rows.size else {}
    for index, name in enumerate(problem.metrics):
        _fill(estimate, index, name, cases, influences.get(name), local)
    return estimate


def _replicates(
    cases: Cases, local: IntArray, outcome: BoolArray, n_bootstrap: int, seed: int, n_metrics: int
) -> FloatArray:
    if n_bootstrap == 0 or cases.rows.size == 0:
        return np.empty((0, n_metrics))
    k = int(local.max()) + 1
    strata = np.zeros(k, dtype=np.int64)
    np.maximum.at(strata, local, outcome.astype(np.int64))
    rng = bootstrap.content_seed(seed, local, outcome)
    alone = k == local.size
    found = []
    for count in bootstrap.chunks(n_bootstrap, cases.rows.size):
        weights = bootstrap.draw_weights(strata[local] if alone else strata, count, rng)
        found.append(cases.evaluate(weights if alone else weights[:, local]))
    return np.concatenate(found)


def _fill(
    estimate: GroupEstimate, index: int, name: str, cases: Cases, influence: FloatArray | None, local: IntArray
) -> None:
    value = float(estimate.values[index])
    kind = cases.interval(name)
    if not np.isfinite(value):
        estimate.reasons[index] = cases.reason(name)
        return
    if kind == "none":
        estimate.reasons[index] = "no interval: kept for comparison with published numbers only"
        return
    k = int(local.max()) + 1
    if k < 2:
        estimate.reasons[index] = "no interval: fewer than 2 patients"
        return
    if influence is None:
        _from_replicates(estimate, index, k)
        return
    masks = cases.parts(name)
    parts = [(influence[mask], local[mask]) for mask in masks]
    variance, df = intervals.clustered_variance(parts, k)
    if not np.isfinite(variance):
        estimate.reasons[index] = "no interval: fewer than 2 patients"
        return
    units = [np.unique(local[mask]).size for mask in masks]
    estimate.variance[index], estimate.df[index] = variance, df
    sizes = [int(np.count_nonzero(mask)) for mask in masks]
    estimate.low[index], estimate.high[index] = _interval(kind, value, variance, df, units, sizes, METRICS[name].upper)


def _interval(
    kind: str, value: float, variance: float, df: float, units: Sequence[int], sizes: Sequence[int], upper: float
) -> tuple[float, float]:
    if kind == "rate":
        return intervals.rate_interval(value, variance, df, n=sizes[0], patients=units[0])
    if kind == "logit":
        return intervals.logit_interval(value, variance, df, n=min(units))
    return intervals.mean_interval(value, variance, df, upper=upper)


def _from_replicates(estimate: GroupEstimate, index: int, k: int) -> None:
    replicates = estimate.replicates[:, index]
    replicates = replicates[np.isfinite(replicates)]
    if replicates.size < 2:
        estimate.reasons[index] = "no interval: needs the bootstrap (n_bootstrap > 0)"
        return
    estimate.low[index], estimate.high[index] = intervals.percentile_interval(replicates)
    estimate.variance[index], estimate.df[index] = float(np.var(replicates)), float(k - 1)
