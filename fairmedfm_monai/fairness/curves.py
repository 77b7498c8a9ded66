"""ROC and reliability curves per group, thinned for figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.binary import N_BINS, BinaryProblem, calibration_bins
from fairmedfm_monai.fairness.groups import Grouping, overall
from fairmedfm_monai.fairness.tables import Sample

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
MAX_POINTS = 200
"""Points kept per ROC curve."""


def roc_curve(y: BoolArray, score: FloatArray) -> dict[str, FloatArray]:
    """False- and true-positive rates (K,) for falling thresholds, ties as one step, at most ``MAX_POINTS`` points."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    tp, fp = np.cumsum(y[order])[last], np.cumsum(~y[order])[last]
    keep = np.unique(np.linspace(0, last.size - 1, min(MAX_POINTS, last.size)).round().astype(int))
    fpr = np.concatenate([[0.0], fp[keep] / max(fp[-1], 1)])
    tpr = np.concatenate([[0.0], tp[keep] / max(tp[-1], 1)])
    return {"fpr": fpr, "tpr": tpr}


def reliability_curve(y: BoolArray, score: FloatArray) -> dict[str, FloatArray]:
    """Mean prediction, observed share and size of each non-empty bin of the ECE."""
    bins = calibration_bins(score)
    n = np.bincount(bins, minlength=N_BINS)
    used = n > 0
    predicted = np.bincount(bins, weights=score, minlength=N_BINS)[used] / n[used]
    observed = np.bincount(bins, weights=y.astype(np.float64), minlength=N_BINS)[used] / n[used]
    return {"predicted": predicted, "observed": observed, "n": n[used].astype(np.float64)}


def group_curves(problem: BinaryProblem, sample: Sample) -> dict[str, dict[str, dict[str, dict[str, FloatArray]]]]:
    """``{"roc" | "calibration": {attribute: {group: curve}}}``; groups without both classes have no ROC."""
    found: dict[str, dict[str, dict[str, dict[str, FloatArray]]]] = {"roc": {}, "calibration": {}}
    groupings: list[Grouping] = [overall(sample.failed.size), *sample.groupings]
    for grouping in groupings:
        for code, group in enumerate(grouping.groups):
            rows = np.flatnonzero((grouping.codes == code) & ~sample.failed)
            y, score = problem.y[rows], problem.score[rows]
            if y.any() and not y.all():
                found["roc"].setdefault(grouping.name, {})[group] = roc_curve(y, score)
            if problem.probability and rows.size:
                found["calibration"].setdefault(grouping.name, {})[group] = reliability_curve(y, score)
    return found
