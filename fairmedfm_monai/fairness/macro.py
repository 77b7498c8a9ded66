"""Several one-vs-rest problems as one: the mean over classes, and what classes have only together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.binary import N_BINS, BinaryCases, BinaryProblem, calibration_bins, ratio
from fairmedfm_monai.fairness.bootstrap import Weights
from fairmedfm_monai.fairness.registry import METRICS, Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class TopClass:
    """The class with the highest score of n cases, of a multi-class problem.

    Attributes:
        right: (n,) whether it is the case's class.
        confidence: (n,) its score.
        probability: whether scores are probabilities; otherwise ``ece_top_label`` is undefined.
    """

    right: BoolArray
    confidence: FloatArray
    probability: bool

    def calibration(self, rows: IntArray) -> FloatArray:
        """(m, 10) columns: confidence - right in the bin of the confidence."""
        bins = np.zeros((rows.size, N_BINS))
        confidence = self.confidence[rows]
        bins[np.arange(rows.size), calibration_bins(confidence)] = confidence - self.right[rows]
        return bins


class MacroProblem:
    """Mean over classes of one-vs-rest metrics, and metrics of all classes together.

    A mean is undefined as soon as one class is: a group without a case of some class has no macro AUC. So is the spread
    of F1 over classes.

    Args:
        problems: one per class, on the same n cases.
        classes: names of the classes.
        top: the top class, for multi-class; ``accuracy`` is then the share of right ones and ``balanced_accuracy`` the
            mean sensitivity, as in scikit-learn. None for multi-label.
        together: metrics of ``registry.over_classes``: ``f1_variance`` and ``f1_sd``, population variance and standard
            deviation of the classes' F1 (n, not n - 1); ``ece_top_label``, calibration error of the top class's
            probability in ten equal bins over [0, 1] (Guo et al., ICML 2017).
    """

    def __init__(
        self,
        problems: list[BinaryProblem],
        classes: list[str],
        top: TopClass | None = None,
        together: tuple[str, ...] = (),
    ) -> None:
        self.problems = problems
        self.classes = classes
        self.top = top
        self.together = together
        self.metrics = (*problems[0].metrics, *together)

    def prepare(self, rows: IntArray) -> MacroCases:
        """Sort a subset of the rows, once per class."""
        return MacroCases(self, rows)


class ClassCases:
    """Some cases of several one-vs-rest problems; ``rows`` (m,) in ascending order.

    Args:
        problems: one per class.
        rows: rows in any order.
    """

    def __init__(self, problems: list[BinaryProblem], rows: IntArray) -> None:
        self.rows = np.sort(rows)
        self.cases: list[BinaryCases] = [part.prepare(self.rows) for part in problems]
        # Each class sorts its cases in its own way and knows where they lie in ``rows``.
        self.order = [np.searchsorted(self.rows, part.rows) for part in self.cases]

    def _parts(self) -> list[tuple[BinaryCases, IntArray]]:
        return list(zip(self.cases, self.order, strict=True))


class MacroCases(ClassCases):
    """Some cases of a `MacroProblem`."""

    def __init__(self, problem: MacroProblem, rows: IntArray) -> None:
        super().__init__(problem.problems, rows)
        self.metrics = problem.metrics
        self.together = problem.together
        self.classes = problem.classes
        self.right = None if problem.top is None else problem.top.right[self.rows].astype(np.float64)
        usable = problem.top is not None and problem.top.probability and "ece_top_label" in self.together
        self.bins = problem.top.calibration(self.rows) if problem.top is not None and usable else None

    def _combine(self, values: list[FloatArray], weights: Weights) -> FloatArray:
        """Mean over classes of (C, M) values; top-1 accuracy and mean sensitivity for multi-class; what is joint."""
        mean = np.column_stack([np.mean(values, axis=0), *self._joint(weights)])
        if self.right is not None:
            total = weights.sum(axis=1)
            if "accuracy" in self.metrics and total.all():
                mean[:, self.metrics.index("accuracy")] = weights @ self.right / total
            if "balanced_accuracy" in self.metrics and self.rows.size:
                recall = np.mean([self._recall(part, order, weights) for part, order in self._parts()], axis=0)
                mean[:, self.metrics.index("balanced_accuracy")] = recall
        return mean

    def _joint(self, weights: Weights) -> list[FloatArray]:
        """Columns (C,) of the metrics of all classes together."""
        if not self.together:
            return []
        weights = weights.astype(np.float64, copy=False)
        found = {"ece_top_label": np.full(len(weights), np.nan)}
        if self.bins is not None:
            found["ece_top_label"] = ratio(np.abs(weights @ self.bins).sum(axis=1), weights.sum(axis=1))
        if {"f1_variance", "f1_sd"} & set(self.together):
            f1 = self._f1(weights)
            found |= {"f1_variance": np.var(f1, axis=0), "f1_sd": np.std(f1, axis=0)}
        return [found[name] for name in self.together]

    def _f1(self, weights: FloatArray) -> FloatArray:
        """F1 of each class (K, C)."""
        values = []
        for part, order in self._parts():
            true, called = part.y.astype(np.float64), part.decision.astype(np.float64)
            own = weights[:, order]
            values.append(ratio(own @ (2 * true * called), own @ (true + called)))
        return np.array(values)

    @staticmethod
    def _recall(part: BinaryCases, order: IntArray, weights: Weights) -> FloatArray:
        own = weights[:, order[part.n_negative :]]
        total = own.sum(axis=1)
        hits = own @ part.decision[part.n_negative :].astype(np.float64)
        return np.divide(hits, total, out=np.full(total.shape, np.nan), where=total > 0)

    def point(self) -> FloatArray:
        """Metrics (M,) with every case counted once."""
        ones = np.ones((1, self.rows.size))
        return self._combine([part.point()[None] for part in self.cases], ones)[0]

    def evaluate(self, weights: Weights) -> FloatArray:
        """Metrics (C, M) of C weightings (C, m) in the order of ``rows``."""
        return self._combine([part.evaluate(weights[:, order]) for part, order in self._parts()], weights)

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influences (m,): the mean of the classes' influences."""
        parts = []
        for part, order in self._parts():
            back = np.argsort(order)
            parts.append({name: value[back] for name, value in part.influence(part.point()).items()})
        found = {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0] if _in_all(name, parts)}
        if self.right is not None:
            if "accuracy" in found:
                found["accuracy"] = (self.right - values[self.metrics.index("accuracy")]) / self.rows.size
            if "balanced_accuracy" in found:
                found["balanced_accuracy"] = self._recall_influence()
        return found

    def _recall_influence(self) -> FloatArray:
        total = np.zeros(self.rows.size)
        for part, order in self._parts():
            hits = part.decision[part.n_negative :].astype(np.float64)
            total[order[part.n_negative :]] = (hits - hits.mean()) / hits.size / len(self.cases)
        return total

    def parts(self, name: str) -> list[BoolArray]:
        """All cases in one part: classes share their cases."""
        return [np.ones(self.rows.size, dtype=bool)]

    def interval(self, name: str) -> Interval:
        """A mean of rates is no rate: Student on the logit scale, except for top-1 accuracy."""
        kind = METRICS[name].interval
        return "logit" if kind == "rate" and not (name == "accuracy" and self.right is not None) else kind

    def reason(self, name: str) -> str:
        """Why a metric is undefined here: the first class that lacks something."""
        if self.rows.size == 0:
            return "no case"
        if name in self.together:
            return self._joint_reason(name)
        for label, part in zip(self.classes, self.cases, strict=True):
            index = self.metrics.index(name)
            if not np.isfinite(part.point()[index]):
                return f"class {label}: {part.reason(name)}"
        return "undefined"

    def _joint_reason(self, name: str) -> str:
        if name == "ece_top_label":
            return "scores are not probabilities in [0, 1]"
        f1 = self._f1(np.ones((1, self.rows.size)))[:, 0]
        return f"class {self.classes[int(np.argmin(np.isfinite(f1)))]}: no positive case, none predicted"


def _in_all(name: str, parts: list[dict[str, FloatArray]]) -> bool:
    return all(name in part for part in parts)
