"""Several one-vs-rest problems as one: the mean over classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.binary import BinaryCases, BinaryProblem
from fairmedfm_monai.fairness.bootstrap import Weights
from fairmedfm_monai.fairness.registry import METRICS, Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class MacroProblem:
    """Mean over classes of one-vs-rest metrics.

    A mean is undefined as soon as one class is: a group without a case of some class has no macro AUC.

    Args:
        problems: one per class, on the same n cases.
        classes: names of the classes.
        right: (n,) whether the top class is right, for multi-class; ``accuracy`` is then its share and
            ``balanced_accuracy`` the mean sensitivity, as in scikit-learn. None for multi-label.
    """

    def __init__(self, problems: list[BinaryProblem], classes: list[str], right: BoolArray | None) -> None:
        self.problems = problems
        self.classes = classes
        self.right = right
        self.metrics = problems[0].metrics

    def prepare(self, rows: IntArray) -> MacroCases:
        """Sort a subset of the rows, once per class."""
        return MacroCases(self, rows)


class MacroCases:
    """Some cases; ``rows`` (m,) in ascending order, each class knows where its own order lies in it."""

    def __init__(self, problem: MacroProblem, rows: IntArray) -> None:
        self.metrics = problem.metrics
        self.rows = np.sort(rows)
        self.classes = problem.classes
        self.right = None if problem.right is None else problem.right[self.rows].astype(np.float64)
        self.cases: list[BinaryCases] = [part.prepare(self.rows) for part in problem.problems]
        self.order = [np.searchsorted(self.rows, part.rows) for part in self.cases]

    def _combine(self, values: list[FloatArray], weights: Weights) -> FloatArray:
        """Mean over classes of (C, M) values; top-1 accuracy and mean sensitivity for multi-class."""
        mean = np.mean(values, axis=0)
        if self.right is not None:
            total = weights.sum(axis=1)
            if "accuracy" in self.metrics and total.all():
                mean[:, self.metrics.index("accuracy")] = weights @ self.right / total
            if "balanced_accuracy" in self.metrics and self.rows.size:
                recall = np.mean([self._recall(part, order, weights) for part, order in self._parts()], axis=0)
                mean[:, self.metrics.index("balanced_accuracy")] = recall
        return mean

    def _parts(self) -> list[tuple[BinaryCases, IntArray]]:
        return list(zip(self.cases, self.order, strict=True))

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
        for label, part in zip(self.classes, self.cases, strict=True):
            index = self.metrics.index(name)
            if not np.isfinite(part.point()[index]):
                return f"class {label}: {part.reason(name)}"
        return "undefined"


def _in_all(name: str, parts: list[dict[str, FloatArray]]) -> bool:
    return all(name in part for part in parts)
