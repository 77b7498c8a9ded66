"""Means, medians and rates of per-case segmentation scores, many weightings at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.binary import ratio
from fairmedfm_monai.fairness.bootstrap import Weights
from fairmedfm_monai.fairness.registry import CLICK_METRICS, FAILURE_DICE, METRICS, Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
_MEDIAN = "_median"


@dataclass(frozen=True)
class SegmentationProblem:
    """Scores of n cases for one prompt and label.

    Attributes:
        values: metric -> (n,) score per case, NaN where the case has none; rates are 0 or 1.
        metrics: which metrics to compute, in order; ``<name>_median`` reads the column ``<name>``.
    """

    values: dict[str, FloatArray]
    metrics: tuple[str, ...]

    def prepare(self, rows: IntArray) -> SegmentationCases:
        """Take a subset of the rows."""
        return SegmentationCases(self, rows)


def failure(dice: FloatArray, empty_reference: BoolArray) -> FloatArray:
    """(n,) 1 where a case with a reference has a Dice below ``FAILURE_DICE``, NaN where there is no reference."""
    return np.where(empty_reference | ~np.isfinite(dice), np.nan, (dice < FAILURE_DICE).astype(np.float64))


def false_alarm(empty_reference: BoolArray, empty_prediction: BoolArray) -> FloatArray:
    """(n,) 1 where something was segmented although the reference is empty, NaN where there is a reference."""
    return np.where(empty_reference, (~empty_prediction).astype(np.float64), np.nan)


def weighted_median(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Medians (C,) of values (m,) under weights (C, m): the middle, or the mean of the two middle ones."""
    order = np.argsort(values, kind="stable")
    values, ahead = values[order], np.cumsum(weights[:, order], axis=1)
    half = ahead[:, -1:] / 2
    slack = 1e-9 * half
    low = np.minimum((ahead < half - slack).sum(axis=1), values.size - 1)
    high = np.minimum((ahead <= half + slack).sum(axis=1), values.size - 1)
    return np.where(half[:, 0] > 0, (values[low] + values[high]) / 2, np.nan)


class SegmentationCases:
    """Some cases; ``rows`` (m,) as given."""

    def __init__(self, problem: SegmentationProblem, rows: IntArray) -> None:
        self.metrics = problem.metrics
        self.rows = rows
        self.columns = [problem.values[name.removesuffix(_MEDIAN)][rows] for name in self.metrics]
        self.valid = [np.isfinite(column) for column in self.columns]

    def point(self) -> FloatArray:
        """Metrics (M,) with every case counted once."""
        return self.evaluate(np.ones((1, self.rows.size)))[0]

    def evaluate(self, weights: Weights) -> FloatArray:
        """Metrics (C, M) of C weightings (C, m)."""
        weights = weights.astype(np.float64, copy=False)
        found = []
        for name, column, valid in zip(self.metrics, self.columns, self.valid, strict=True):
            if name.endswith(_MEDIAN):
                known = np.flatnonzero(valid)
                nothing = np.full(len(weights), np.nan)
                found.append(weighted_median(column[known], weights[:, known]) if known.size else nothing)
            else:
                found.append(ratio(weights @ np.where(valid, column, 0.0), weights @ valid.astype(np.float64)))
        return np.column_stack(found)

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influences (m,) of the means; 0 for cases without a score."""
        found = {}
        for name, column, valid, value in zip(self.metrics, self.columns, self.valid, values, strict=True):
            if not name.endswith(_MEDIAN) and valid.any():
                found[name] = np.where(valid, column - value, 0.0) / np.count_nonzero(valid)
        return found

    def parts(self, name: str) -> list[BoolArray]:
        """The cases that have a score."""
        return [self.valid[self.metrics.index(name)]]

    def interval(self, name: str) -> Interval:
        """Kind of interval of a metric."""
        return METRICS[name].interval

    def reason(self, name: str) -> str:
        """Why a metric is undefined here."""
        if self.rows.size == 0:
            return "no case"
        if name == "false_alarm_rate":
            return "no case with an empty reference"
        if name in CLICK_METRICS:
            return "no case with a reference and correction clicks"
        is_distance = METRICS[name].upper > 1
        return "no case with a reference and a prediction" if is_distance else "no case with a reference"
