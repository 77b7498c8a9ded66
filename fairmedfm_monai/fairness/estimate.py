"""One group at a time: point estimates, intervals and bootstrap replicates of all metrics of a problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import bootstrap, intervals
from fairmedfm_monai.fairness.groups import compact
from fairmedfm_monai.fairness.registry import Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
TOO_FEW = "no interval: fewer than 2 patients"
NAN_ENDS = (float("nan"), float("nan"))


class Cases(Protocol):
    """Some cases of a problem, sorted once; all arrays are in the order of ``rows``."""

    rows: IntArray

    def point(self) -> FloatArray:
        """Metrics (M,) with every case counted once."""

    def evaluate(self, weights: bootstrap.Weights) -> FloatArray:
        """Metrics (C, M) of C weightings (C, m)."""

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influences (m,) of the metrics with an analytic variance."""

    def parts(self, name: str) -> list[BoolArray]:
        """Cases (m,) that carry the variance of a metric, in independent parts."""

    def interval(self, name: str) -> Interval:
        """Kind of interval of a metric; see ``Metric.interval``."""

    def reason(self, name: str) -> str:
        """Why a metric is undefined for these cases."""


class Problem(Protocol):
    """Cases with a truth and a prediction, and the metrics to compute on them."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in order."""

    def prepare(self, rows: IntArray) -> Cases:
        """Sort a subset of the rows."""


@dataclass(frozen=True)
class Spread:
    """What is needed to give one estimate an interval at any level.

    Attributes:
        kind: how the interval is made.
        value: the estimate.
        variance, df: clustered variance and its degrees of freedom.
        n: cases in the denominator.
        patients: patients in the denominator (the smaller class, where both count).
        replicates: (B,) finite bootstrap replicates, where there is no variance.
    """

    kind: Interval
    value: float
    variance: float = float("nan")
    df: float = 1.0
    n: int = 0
    patients: int = 0
    replicates: FloatArray = field(default_factory=lambda: np.empty(0))

    def ends(self, level: float = intervals.LEVEL) -> tuple[float, float]:
        """Lower and upper end."""
        if self.kind == "bootstrap":
            return intervals.percentile_interval(self.replicates, level=level)
        if self.kind == "rate":
            z = intervals.quantile(np.inf, level)
            return intervals.rate_interval(self.value, self.variance, n=self.n, patients=self.patients, z=z)
        t = intervals.quantile(self.df, level)
        if self.kind == "logit":
            return intervals.logit_interval(self.value, self.variance, n=self.patients, t=t)
        return intervals.log_interval(self.value, self.variance, t=t)


@dataclass
class GroupEstimate:
    """Metrics of one group.

    Attributes:
        n: number of cases.
        values: (M,) point estimates, NaN where undefined.
        spreads: (M,) source of intervals, None where there is none.
        reasons: (M,) why a value or its interval is undefined, empty where both are there.
    """

    n: int
    values: FloatArray
    spreads: list[Spread | None]
    reasons: list[str]

    def ends(self, index: int, level: float = intervals.LEVEL) -> tuple[float, float]:
        """Interval of a metric at a level; NaN where there is none."""
        spread = self.spreads[index]
        return NAN_ENDS if spread is None else spread.ends(level)


def estimate_group(
    problem: Problem,
    rows: IntArray,
    *,
    patients: IntArray,
    outcome: BoolArray,
    n_bootstrap: int,
    seed: int,
    percentile: bool = False,
) -> GroupEstimate:
    """Estimate all metrics of one group.

    Args:
        problem: the cases.
        rows: (m,) rows of the group.
        patients: (n,) patient code of every row of the problem.
        outcome: (n,) outcome of every row, for the strata.
        n_bootstrap: replicates; 0 leaves metrics without an analytic variance without an interval.
        seed: seed of the bootstrap.
        percentile: percentile bootstrap intervals for all metrics instead of analytic ones.
    """
    cases = problem.prepare(rows)
    values = cases.point()
    # Consecutive codes within the group: variances and weights are sums over its own patients only.
    local, _ = compact(patients[cases.rows])
    estimate = GroupEstimate(cases.rows.size, values, [None] * values.size, [""] * values.size)
    resampled = percentile or any(cases.interval(name) == "bootstrap" for name in problem.metrics)
    replicates = np.empty((0, values.size))
    if n_bootstrap and cases.rows.size and resampled:
        replicates = group_replicates(cases, local, outcome[cases.rows], n_bootstrap=n_bootstrap, seed=seed)
    influences = cases.influence(values) if cases.rows.size and not percentile else {}
    for index, name in enumerate(problem.metrics):
        found = _spread(name, values[index], cases, influences.get(name), local, replicates[:, index])
        if isinstance(found, Spread):
            estimate.spreads[index] = found
        else:
            estimate.reasons[index] = found
    return estimate


def group_replicates(cases: Cases, local: IntArray, outcome: BoolArray, *, n_bootstrap: int, seed: int) -> FloatArray:
    """Bootstrap replicates (B, M) of the metrics of one group.

    Args:
        cases: the cases of the group.
        local: (m,) their patients as codes 0..K-1.
        outcome: (m,) their outcomes: a patient with any positive case is drawn among such patients.
        n_bootstrap: number of replicates.
        seed: seed; the draws depend on it and on the data.
    """
    k = int(local.max()) + 1
    strata = np.zeros(k, dtype=np.int64)
    np.maximum.at(strata, local, outcome.astype(np.int64))
    alone = k == local.size
    rng = bootstrap.content_seed(seed, local, outcome, cases.point())
    patients = bootstrap.PatientWeights(strata[local] if alone else strata, rng)
    found = []
    for count in bootstrap.chunks(n_bootstrap, cases.rows.size):
        weights = patients.draw(count)
        found.append(cases.evaluate(weights if alone else weights[:, local]))
    return np.concatenate(found)


def _spread(
    name: str, value: float, cases: Cases, influence: FloatArray | None, local: IntArray, replicates: FloatArray
) -> Spread | str:
    """Source of the interval of a metric, or the reason why there is none."""
    kind = cases.interval(name)
    if not np.isfinite(value):
        return cases.reason(name)
    if kind == "none":
        return "no interval: kept for comparison with published numbers only"
    if influence is None:
        return _resampled(float(value), local, replicates)
    masks = cases.parts(name)
    variance, df = intervals.clustered_variance([(influence[mask], local[mask]) for mask in masks])
    if not np.isfinite(variance):
        return TOO_FEW
    return Spread(
        kind,
        float(value),
        variance,
        df,
        n=min(int(np.count_nonzero(mask)) for mask in masks),
        patients=min(compact(local[mask])[1] for mask in masks),
    )


def _resampled(value: float, local: IntArray, replicates: FloatArray) -> Spread | str:
    finite = replicates[np.isfinite(replicates)]
    if int(local.max()) < 1:
        return TOO_FEW
    if finite.size < 2:
        return "no interval: needs the bootstrap (n_bootstrap > 0)"
    return Spread("bootstrap", value, replicates=finite)
