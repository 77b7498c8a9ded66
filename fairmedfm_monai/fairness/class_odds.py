"""Equalised odds of several classes: the mean over classes of each class against the rest.

The gap of a macro sensitivity is another number: there a class that favours one group makes up for a class that favours
the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import disparities as dis
from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.estimate import GroupEstimate, estimate_group
from fairmedfm_monai.fairness.groups import Grouping
from fairmedfm_monai.fairness.intervals import LEVEL
from fairmedfm_monai.fairness.macro import ClassCases
from fairmedfm_monai.fairness.registry import Interval
from fairmedfm_monai.fairness.tables import Sample, disparity_row, shuffled_values

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
RATES = ("sensitivity", "specificity")


class RatesProblem:
    """Sensitivity and specificity of every class, side by side.

    Args:
        problems: one per class, on the same n cases.
        classes: names of the classes.
    """

    def __init__(self, problems: Sequence[BinaryProblem], classes: Sequence[str]) -> None:
        self.problems = [replace(problem, metrics=RATES) for problem in problems]
        self.names = [(index, rate) for index in range(len(classes)) for rate in RATES]
        self.metrics = tuple(f"{rate} of {classes[index]}" for index, rate in self.names)

    def prepare(self, rows: IntArray) -> RatesCases:
        """Sort a subset of the rows, once per class."""
        return RatesCases(self, rows)


class RatesCases(ClassCases):
    """Some cases of a `RatesProblem`."""

    def __init__(self, problem: RatesProblem, rows: IntArray) -> None:
        super().__init__(problem.problems, rows)
        self.found = dict(zip(problem.metrics, problem.names, strict=True))

    def point(self) -> FloatArray:
        """Rates (2K,) with every case counted once."""
        return np.concatenate([part.point() for part in self.cases])

    def evaluate(self, weights: NDArray[Any]) -> FloatArray:
        """Rates (C, 2K) of C weightings (C, m) in the order of ``rows``."""
        return np.concatenate([part.evaluate(weights[:, order]) for part, order in self._parts()], axis=1)

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influences (m,) of all rates."""
        each = [part.influence(part.point()) for part in self.cases]
        return {name: each[index][rate][self._back(index)] for name, (index, rate) in self.found.items()}

    def parts(self, name: str) -> list[BoolArray]:
        """The cases in the denominator of a rate."""
        index, rate = self.found[name]
        return [mask[self._back(index)] for mask in self.cases[index].parts(rate)]

    def interval(self, name: str) -> Interval:
        """All are rates."""
        return "rate"

    def reason(self, name: str) -> str:
        """Why a rate is undefined here."""
        index, rate = self.found[name]
        return f"{name}: {self.cases[index].reason(rate)}"

    def _back(self, index: int) -> IntArray:
        """From the order of a class to that of ``rows``."""
        return np.argsort(self.order[index])


def class_odds_rows(
    problems: Sequence[BinaryProblem], classes: Sequence[str], sample: Sample, outcome: BoolArray
) -> list[dict[str, Any]]:
    """One row of the disparity table per attribute; ``label`` is empty.

    Args:
        problems: one per class, on the n cases of the sample.
        classes: names of the classes.
        sample: groups and patients of the same cases.
        outcome: (n,) strata of the shuffles, as for the other macro metrics.
    """
    problem = RatesProblem(problems, classes)
    key = {"split": sample.split, "prompt": "", "label": ""}
    rows = []
    for grouping in sample.groupings:
        cell = _cell(problem, sample, outcome, grouping)
        row = disparity_row(dis.ODDS_METRIC, dis.ODDS_OVER_CLASSES, cell)
        rows.append({**key, "attribute": grouping.name, **row})
    return rows


def class_mean_of_odds(rates: FloatArray) -> FloatArray:
    """Mean over K classes of the larger of the two gaps.

    Args:
        rates: (..., G, 2K) sensitivity and specificity of each class in turn, per group.
    """
    gaps = np.max(rates, axis=-2) - np.min(rates, axis=-2)
    return np.mean(np.maximum(gaps[..., 0::2], gaps[..., 1::2]), axis=-1)


def _cell(problem: RatesProblem, sample: Sample, outcome: BoolArray, grouping: Grouping) -> dis.Disparity:
    estimates = [_estimate(problem, sample, outcome, grouping, code) for code in range(len(grouping.groups))]
    present = [index for index, estimate in enumerate(estimates) if estimate.n]
    usable = [index for index in present if np.isfinite(estimates[index].values).all()]
    lacking = [
        f"{grouping.groups[index]} ({next(filter(None, estimate.reasons), 'no case')})"
        for index, estimate in enumerate(estimates)
        if index not in usable
    ]
    without = f"without {', '.join(lacking)}" if lacking else ""
    if len(usable) < 2:
        return dis.Disparity(reason=f"fewer than two groups can be compared; {without}".rstrip("; "))
    cell = dis.Disparity(
        float(class_mean_of_odds(np.array([estimates[index].values for index in usable]))), reason=without
    )
    if sample.n_permutations:
        null = shuffled_values(problem, sample, outcome, grouping, present)
        null = class_mean_of_odds(null[:, [present.index(index) for index in usable]])
        cell.compare(null, larger_is_worse=True)
    _bound(cell, [estimates[index] for index in usable])
    return cell


def _estimate(
    problem: RatesProblem, sample: Sample, outcome: BoolArray, grouping: Grouping, code: int
) -> GroupEstimate:
    return estimate_group(
        problem,
        np.flatnonzero((grouping.codes == code) & ~sample.failed),
        patients=sample.patients,
        outcome=outcome,
        n_bootstrap=sample.n_bootstrap if sample.percentile else 0,
        seed=sample.seed,
        percentile=sample.percentile,
    )


def _bound(cell: dis.Disparity, estimates: Sequence[GroupEstimate]) -> None:
    """The mean of the classes' ends, at a level at which all 2K gaps hold together (Bonferroni)."""
    width = estimates[0].values.size
    ends = []
    for index in range(width):
        spreads = [estimate.spreads[index] for estimate in estimates]
        known = [spread for spread in spreads if spread is not None]
        if len(known) < len(spreads):
            return
        ends.append(dis.Region.of(known, level=1 - (1 - LEVEL) / width).gap())
    low, high = np.minimum(np.array(ends), 1.0).T
    cell.low = float(np.maximum(low[0::2], low[1::2]).mean())
    cell.high = float(np.maximum(high[0::2], high[1::2]).mean())
