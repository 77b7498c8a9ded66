"""Subgroup evidence for classifiers: binary, multi-class and multi-label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.binary import BinaryProblem
from fairmedfm_monai.fairness.class_odds import class_odds_rows
from fairmedfm_monai.fairness.curves import group_curves
from fairmedfm_monai.fairness.inputs import ClassificationInput, read_classification
from fairmedfm_monai.fairness.macro import MacroProblem, TopClass
from fairmedfm_monai.fairness.registry import CLASSIFICATION_METRICS, FIXED_SPECIFICITY, check_metrics, over_classes
from fairmedfm_monai.fairness.report import FairnessReport, make_report
from fairmedfm_monai.fairness.tables import Sample, Tables, permutations_for, resampling_settings

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

PRIMARY_METRIC = "auc"
NOT_CALIBRATED = "operating point 0.5: not calibrated here"
PER_CASE = "one per case"


def evaluate_classification(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    attributes: pd.DataFrame | Mapping[str, ArrayLike],
    groups: Mapping[str, Sequence[str]] | None = None,
    patient_id: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    positive_class: str | None = None,
    split: str = "test",
    operating_point: float | Mapping[str, float] | ArrayLike | None = None,
    intersections: Sequence[Sequence[str]] = (),
    n_bootstrap: int = 1000,
    seed: int = 0,
    failed: pd.DataFrame | None = None,
    metrics: Sequence[str] | None = None,
    n_permutations: int | None = None,
    percentile: bool = False,
) -> FairnessReport:
    """Measure a classifier on everyone, on every group and between groups.

    Binary results have an empty ``label``. Multi-class and multi-label results have one block per class (one-vs-rest)
    and one with an empty ``label``: the mean over classes, except that ``accuracy`` of a multi-class problem is the
    share of right top classes. That block also has what classes have only together: ``f1_variance``, ``f1_sd`` and, of
    a multi-class problem, ``ece_top_label`` (see `MacroProblem`), and the disparity ``equalized_odds_class_mean``. A
    positive decision is ``score >= operating_point`` (binary, multi-label) or the top class (multi-class).

    Args:
        y_true: (n,) class index or class name (binary, multi-class), or (n, C) 0/1 (multi-label; NaN = no label).
        y_score: (n,) score of the positive class (binary) or (n, C) scores per class. NaN and infinite scores are
            reported as failed cases and left out.
        attributes: one column (n,) of group names per attribute; missing values and ``unknown`` are reported apart.
        groups: declared groups per attribute; a declared group without a case is reported with NaN.
        patient_id: (n,) patients: intervals and tests resample them. None treats every case as a patient and says so.
        classes: class names in the order of the class index; default ``class_0``, ... .
        positive_class: the positive one of two classes; default the second.
        split: name of the split in the tables.
        operating_point: decision threshold, one per class for multi-label (mapping), or one per case, shape (n,) or
            (n, C) as ``y_score``, e.g. that of the case's group; None = 0.5, noted as not calibrated. Thresholds are
            held fixed in intervals and tests. Only decisions follow them: AUC and the like are of the scores.
        intersections: attributes to cross, e.g. ``[["sex", "age"]]``.
        n_bootstrap: replicates; 0 = analytic intervals only, no permutation, no curves (fast enough for every epoch).
        seed: seed of resampling; results depend on it and on the data, not on names or orders.
        failed: cases without a prediction: attribute columns as in ``attributes``, ``patient_id``.
        metrics: subset of ``CLASSIFICATION_METRICS`` and, of several classes, of ``over_classes``; default all.
        n_permutations: shuffles for null bands and p-values; default ``n_bootstrap`` or more, where many tests are
            adjusted.
        percentile: percentile bootstrap intervals for every metric, to compare with other tools; the default intervals
            cover better in small groups.

    Raises:
        ValueError: on shapes that do not fit, labels outside the classes, undeclared groups or unknown metrics.
    """
    data = read_classification(
        y_true,
        y_score,
        attributes=attributes,
        groups=groups,
        patient_id=patient_id,
        classes=classes,
        positive_class=positive_class,
        intersections=intersections,
        failed=failed,
        points=_per_case(operating_point),
    )
    names, together = _names(data, metrics)
    tests = len(data.groupings) * (1 if data.kind == "binary" else len(data.classes) + 1)
    permutations = permutations_for(n_bootstrap, tests) if n_permutations is None else n_permutations
    sample = data.sample(split, n_bootstrap=n_bootstrap, n_permutations=permutations, seed=seed, percentile=percentile)
    points = _operating_points(data, operating_point, sample)
    tables, curves = Tables(), {}
    problems: list[BinaryProblem] = []
    for index, label in enumerate(data.labels):
        problem, missing = _problem(data, index, points[index], names)
        problems.append(problem)
        part = replace(sample, failed=sample.failed | missing)
        tables.add(problem, part, problem.y, label=label)
        if n_bootstrap:
            curves[label] = group_curves(problem, part)
    if data.kind != "binary":
        _add_macro(tables, sample, data, problems, together)
    settings = resampling_settings(sample) | {
        "task": "classification",
        "kind": data.kind,
        "primary_metric": PRIMARY_METRIC,
        "operating_point": _told(data, points),
        "decision": "top class" if data.kind == "multi_class" else "score >= operating point",
        "fixed_specificity": FIXED_SPECIFICITY,
    }
    by_kind = {kind: {split: {label: curves[label][kind] for label in curves}} for kind in ("roc", "calibration")}
    return make_report(tables.subgroups, tables.disparities, notes=sample.notes, settings=settings, curves=by_kind)


def _names(data: ClassificationInput, given: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics of each class, and those of all classes together."""
    joint = () if data.kind == "binary" else over_classes(multi_label=data.kind == "multi_label")
    chosen = check_metrics(list(given) if given is not None else None, (*CLASSIFICATION_METRICS, *joint))
    names = tuple(name for name in chosen if name not in joint)
    if not names:
        msg = f"metrics: expected at least one of {list(CLASSIFICATION_METRICS)}, got {list(chosen)}"
        raise ValueError(msg)
    return names, tuple(name for name in chosen if name in joint)


def _per_case(given: float | Mapping[str, float] | ArrayLike | None) -> ArrayLike | None:
    """The operating points when there is one per case, else None."""
    return None if given is None or isinstance(given, Mapping) or np.ndim(given) == 0 else given


def _told(data: ClassificationInput, points: list[float | None]) -> float | str | dict[str, float | None] | None:
    if data.called is not None:
        return PER_CASE
    return dict(zip(data.labels, points, strict=True)) if data.kind == "multi_label" else points[0]


def _operating_points(
    data: ClassificationInput, given: float | Mapping[str, float] | ArrayLike | None, sample: Sample
) -> list[float | None]:
    if data.kind == "multi_class" or data.called is not None:
        return [None] * len(data.labels)
    if given is None:
        sample.note(NOT_CALIBRATED)
        return [0.5] * len(data.labels)
    if isinstance(given, Mapping):
        missing = sorted(set(data.labels) - set(given))
        if missing:
            msg = f"operating_point: no threshold for {missing}; found {sorted(given)}"
            raise ValueError(msg)
        return [float(given[label]) for label in data.labels]
    return [float(np.asarray(given))] * len(data.labels)


def _problem(
    data: ClassificationInput, index: int, point: float | None, names: tuple[str, ...]
) -> tuple[BinaryProblem, BoolArray]:
    """One-vs-rest problem of a class, and the cases without a label for it."""
    truth, score = data.truth[:, index], data.score[:, index]
    missing = ~np.isfinite(truth)
    usable = np.isfinite(score)
    if data.called is not None:
        decision = data.called[:, index]
    else:
        decision = data.top == index if data.kind == "multi_class" else score >= (0.5 if point is None else point)
    probability = bool(((score[usable] >= 0) & (score[usable] <= 1)).all())
    return BinaryProblem(truth == 1, score, decision, names, probability), missing


def _add_macro(
    tables: Tables,
    sample: Sample,
    data: ClassificationInput,
    problems: list[BinaryProblem],
    together: tuple[str, ...],
) -> None:
    complete = replace(sample, failed=sample.failed | ~np.isfinite(data.truth).all(axis=1))
    problem = MacroProblem(problems, data.classes, _top(data, problems), together)
    outcome = np.asarray(data.truth.sum(axis=1) > 0 if data.kind == "multi_label" else data.truth[:, 0] != 1)
    tables.add(problem, complete, outcome)
    if {"sensitivity", "specificity"} <= set(problem.metrics):
        tables.disparities += class_odds_rows(problems, data.classes, complete, outcome)


def _top(data: ClassificationInput, problems: Sequence[BinaryProblem]) -> TopClass | None:
    if data.kind != "multi_class":
        return None
    rows = np.arange(len(data.top))
    right = data.truth[rows, data.top] == 1
    return TopClass(right, data.score[rows, data.top], all(problem.probability for problem in problems))
