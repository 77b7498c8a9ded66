"""All metrics of a binary classifier on weighted cases, many replicates at once.

One function gives the point estimate (weights 1), the bootstrap (weights = how often a case was drawn) and the
permutation null (weights = whether a case is in the shuffled group), so the three can never disagree on a definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairmedfm_monai.fairness.bootstrap import Weights
from fairmedfm_monai.fairness.registry import FIXED_SPECIFICITY, METRICS, Interval

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Sums = NDArray[np.float64] | NDArray[np.uint32]

N_BINS = 10
_RANKED = {"auc", "auprc", "sensitivity_at_specificity_90"}
_SUMMED = {"bce", "brier", "ece"}
_BOTH_CLASSES = {"auc", "auprc", "balanced_accuracy", "sensitivity_at_specificity_90"}


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Division with NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)


def _balanced(tp: FloatArray, fp: FloatArray, fn: FloatArray, tn: FloatArray) -> FloatArray:
    return (ratio(tp, tp + fn) + ratio(tn, tn + fp)) / 2


RATES: dict[str, Callable[[FloatArray, FloatArray, FloatArray, FloatArray], FloatArray]] = {
    "accuracy": lambda tp, fp, fn, tn: ratio(tp + tn, tp + fp + fn + tn),
    "balanced_accuracy": _balanced,
    "f1": lambda tp, fp, fn, tn: ratio(2 * tp, 2 * tp + fp + fn),
    "sensitivity": lambda tp, fp, fn, tn: ratio(tp, tp + fn),
    "specificity": lambda tp, fp, fn, tn: ratio(tn, tn + fp),
    "ppv": lambda tp, fp, fn, tn: ratio(tp, tp + fp),
    "npv": lambda tp, fp, fn, tn: ratio(tn, tn + fn),
    "selection_rate": lambda tp, fp, fn, tn: ratio(tp + fp, tp + fp + fn + tn),
}
"""Metrics of the four confusion counts (arrays of any equal shape)."""


def row_losses(y: BoolArray, score: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Binary cross-entropy and Brier score per case, each (n,).

    Log terms are clamped at -100 as in ``torch.nn.BCELoss``.
    """
    with np.errstate(divide="ignore"):
        likelihood = np.where(y, np.log(score), np.log1p(-score))
    return -np.maximum(likelihood, -100.0), (score - y) ** 2


def calibration_bins(score: FloatArray) -> IntArray:
    """Bin 0..9 of each probability (n,): ten equal bins over [0, 1], the same for every group."""
    return np.minimum((score * N_BINS).astype(np.int64), N_BINS - 1)


def ece_fairmedfm(y: BoolArray, score: FloatArray) -> float:
    """ECE with ten bins over the observed range of the scores (Jin et al. 2024, FairMedFM; ``pandas.cut``).

    Every group has its own bins and small groups look worse: for comparison with published numbers only.
    """
    bins = pd.cut(score, N_BINS, labels=False)
    difference = np.bincount(bins, weights=score - y, minlength=N_BINS)
    return float(np.abs(difference).sum() / score.size)


@dataclass(frozen=True)
class BinaryProblem:
    """Labels, scores and decisions of n cases.

    Attributes:
        y: (n,) whether the case is positive.
        score: (n,) finite score of the positive class.
        decision: (n,) whether the case is called positive.
        metrics: which metrics to compute, in order.
        probability: whether scores are probabilities; otherwise bce, brier and ece are undefined.
    """

    y: BoolArray
    score: FloatArray
    decision: BoolArray
    metrics: tuple[str, ...]
    probability: bool = True

    def prepare(self, rows: IntArray) -> BinaryCases:
        """Sort a subset of the rows once; everything else is sums."""
        order = rows[np.argsort(self.score[rows], kind="stable")]
        negative, positive = order[~self.y[order]], order[self.y[order]]
        return BinaryCases(self, np.concatenate([negative, positive]), negative.size)


class BinaryCases:
    """Some cases, negatives first, each class by ascending score; ``rows`` (m,) are their row numbers."""

    def __init__(self, problem: BinaryProblem, rows: IntArray, n_negative: int) -> None:
        self.metrics = problem.metrics
        self.rows = rows
        self.n_negative = n_negative
        self.n_positive = rows.size - n_negative
        self.y = problem.y[rows]
        self.score = problem.score[rows]
        self.decision = problem.decision[rows]
        self.probability = problem.probability
        negative, positive = self.score[:n_negative], self.score[n_negative:]
        # Ties: number of negatives strictly below, and below or equal; positives strictly below.
        self.below = np.searchsorted(negative, positive, side="left")
        self.up_to = np.searchsorted(negative, positive, side="right")
        self.tied = not np.array_equal(self.below, self.up_to)
        self.negative_cut = _cut(self.decision[:n_negative])
        self.positive_cut = _cut(self.decision[n_negative:])
        self.first = np.searchsorted(positive, positive, side="left")
        self._summands = self._additive() if _SUMMED & set(self.metrics) and self.probability else None

    def _additive(self) -> FloatArray:
        """(m, 2 + 10) columns: loss, squared error, and score - label in the case's bin."""
        bce, brier = row_losses(self.y, self.score)
        bins = np.zeros((self.rows.size, N_BINS))
        bins[np.arange(self.rows.size), calibration_bins(self.score)] = self.score - self.y
        return np.column_stack([bce, brier, bins])

    def point(self) -> FloatArray:
        """Metrics (M,) with every case counted once."""
        values = self.evaluate(np.ones((1, self.rows.size)))[0]
        if "ece_fairmedfm" in self.metrics and self.rows.size and self.probability:
            values[self.metrics.index("ece_fairmedfm")] = ece_fairmedfm(self.y, self.score)
        return values

    def evaluate(self, weights: Weights) -> FloatArray:
        """Metrics (C, M) of C weightings.

        Args:
            weights: (C, m) non-negative weights of the cases in the order of ``rows``.
        """
        negative, positive = weights[:, : self.n_negative], weights[:, self.n_negative :]
        # Everything that depends on order or threshold is read from these two running sums.
        negatives_from, positives_from = _suffix(negative), _suffix(positive)
        n, p = negatives_from[:, 0].astype(np.float64), positives_from[:, 0].astype(np.float64)
        fp = _called(negative, negatives_from, self.decision[: self.n_negative], self.negative_cut)
        tp = _called(positive, positives_from, self.decision[self.n_negative :], self.positive_cut)
        counts = (tp, fp, p - tp, n - fp)
        found = {name: RATES[name](*counts) for name in self.metrics if name in RATES}
        if _RANKED & set(self.metrics):
            found |= self._ranked(positive.astype(np.float64, copy=False), negatives_from, positives_from)
        if self._summands is not None:
            found |= _summed(weights.astype(np.float64, copy=False) @ self._summands, n + p)
        undefined = np.full(n.shape, np.nan)
        return np.column_stack([found.get(name, undefined) for name in self.metrics])

    def _ranked(self, positive: FloatArray, negatives_from: Sums, positives_from: Sums) -> dict[str, FloatArray]:
        n, p = negatives_from[:, 0].astype(np.float64), positives_from[:, 0].astype(np.float64)
        fp_at = negatives_from[:, self.below].astype(np.float64)
        found = {}
        if "auc" in self.metrics:
            above = fp_at + negatives_from[:, self.up_to] if self.tied else 2 * fp_at
            found["auc"] = 1 - ratio(np.einsum("cp,cp->c", positive, above), 2 * n * p)
        if {"auprc", "sensitivity_at_specificity_90"} & set(self.metrics):
            tp_at = positives_from[:, self.first].astype(np.float64)
            precision = np.divide(tp_at, tp_at + fp_at, out=np.zeros_like(tp_at), where=tp_at > 0)
            both = np.where(n > 0, p, 0.0)
            found["auprc"] = ratio(np.einsum("cp,cp->c", positive, precision), both)
            allowed = fp_at <= ((1 - FIXED_SPECIFICITY) * n * (1 + 1e-12))[:, None]
            found["sensitivity_at_specificity_90"] = ratio((positive * allowed).sum(axis=1), both)
        return found

    def influence(self, values: FloatArray) -> dict[str, FloatArray]:
        """Row influence values (m,) of the metrics that have an analytic variance.

        Args:
            values: (M,) the point estimates.
        """
        value = dict(zip(self.metrics, values.tolist(), strict=True))
        found = {}
        for name in self.metrics:
            if name in _PARTS:
                numerator, denominator = _PARTS[name](self.y, self.decision)
                found[name] = (numerator - value[name] * denominator) / max(float(denominator.sum()), 1.0)
        if "balanced_accuracy" in value and self.n_positive and self.n_negative:
            correct = (self.decision == self.y).astype(np.float64)
            rate = np.where(self.y, correct[self.y].mean(), correct[~self.y].mean())
            found["balanced_accuracy"] = (correct - rate) / np.where(self.y, self.n_positive, self.n_negative) / 2
        if "auc" in value and self.n_positive and self.n_negative:
            found["auc"] = (self.placements() - value["auc"]) / np.where(self.y, self.n_positive, self.n_negative)
        if self._summands is not None:
            for column, name in enumerate(("bce", "brier")):
                if name in value:
                    found[name] = (self._summands[:, column] - value[name]) / self.rows.size
        return found

    def placements(self) -> FloatArray:
        """(m,) share of the other class that each case is ranked right against, ties half (DeLong 1988)."""
        above = np.searchsorted(self.score[self.n_negative :], self.score[: self.n_negative], side="right")
        at_least = np.searchsorted(self.score[self.n_negative :], self.score[: self.n_negative], side="left")
        lower = (self.n_positive - (above + at_least) / 2) / max(self.n_positive, 1)
        upper = (self.below + self.up_to) / 2 / max(self.n_negative, 1)
        return np.concatenate([lower, upper])

    def parts(self, name: str) -> list[BoolArray]:
        """Which cases (m,) carry the variance of a metric: one part, or positives and negatives apart."""
        if METRICS[name].by_class:
            return [self.y, ~self.y]
        if name in _PARTS:
            return [_PARTS[name](self.y, self.decision)[1] > 0]
        return [np.ones(self.rows.size, dtype=bool)]

    def interval(self, name: str) -> Interval:
        """Kind of interval of a metric."""
        return METRICS[name].interval

    def reason(self, name: str) -> str:
        """Why a metric is undefined here."""
        if self.rows.size == 0:
            return "no case"
        if name in {"bce", "brier", "ece", "ece_fairmedfm"}:
            return "scores are not probabilities in [0, 1]"
        if self.n_positive == 0 and name in _BOTH_CLASSES | {"sensitivity"}:
            return "no positive case"
        if self.n_negative == 0 and name in _BOTH_CLASSES | {"specificity"}:
            return "no negative case"
        return {
            "ppv": "no case predicted positive",
            "npv": "no case predicted negative",
            "f1": "no positive case, none predicted",
        }.get(name, "undefined")


def _suffix(weights: Weights) -> Sums:
    """(C, m + 1) sums of the weights from each position on, ending in 0; exactly 0 where nothing is left."""
    whole = weights.dtype.kind == "u"
    total = np.zeros((weights.shape[0], weights.shape[1] + 1), dtype=np.uint32 if whole else np.float64)
    np.cumsum(weights[:, ::-1], axis=1, out=total[:, 1:])
    return total[:, ::-1]


def _cut(decision: BoolArray) -> int | None:
    """Position from which on all sorted cases are called positive, None when decisions do not follow the score."""
    first = decision.size - int(np.count_nonzero(decision))
    return first if decision[first:].all() else None


def _called(weights: Weights, running: Sums, decision: BoolArray, cut: int | None) -> FloatArray:
    """(C,) weight of the cases called positive."""
    if cut is not None:
        return running[:, cut].astype(np.float64)
    return weights.astype(np.float64, copy=False) @ decision.astype(np.float64)


def _summed(sums: FloatArray, n: FloatArray) -> dict[str, FloatArray]:
    return {
        "bce": ratio(sums[:, 0], n),
        "brier": ratio(sums[:, 1], n),
        "ece": ratio(np.abs(sums[:, 2:]).sum(axis=1), n),
    }


def _f1_parts(y: BoolArray, d: BoolArray) -> tuple[FloatArray, FloatArray]:
    return 2.0 * (y & d).astype(np.float64), y.astype(np.float64) + d.astype(np.float64)


_PARTS: dict[str, Callable[[BoolArray, BoolArray], tuple[FloatArray, FloatArray]]] = {
    "accuracy": lambda y, d: ((y == d).astype(np.float64), np.ones(y.size)),
    "f1": _f1_parts,
    "sensitivity": lambda y, d: ((y & d).astype(np.float64), y.astype(np.float64)),
    "specificity": lambda y, d: ((~y & ~d).astype(np.float64), (~y).astype(np.float64)),
    "ppv": lambda y, d: ((y & d).astype(np.float64), d.astype(np.float64)),
    "npv": lambda y, d: ((~y & ~d).astype(np.float64), (~d).astype(np.float64)),
    "selection_rate": lambda y, d: (d.astype(np.float64), np.ones(y.size)),
}
"""Numerator and denominator of each case for metrics that are ratios of sums."""
