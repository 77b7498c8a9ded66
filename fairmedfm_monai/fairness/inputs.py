"""Reading what callers hand over: shapes, class names, failed cases, and one order that nothing depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.groups import Grouping, encode_patients, make_groupings
from fairmedfm_monai.fairness.tables import Sample

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Kind = Literal["binary", "multi_class", "multi_label"]


@dataclass
class ClassificationInput:
    """Checked input of n cases (failed ones included), in canonical order.

    Attributes:
        kind: which of the three problems.
        classes: class names.
        labels: names of the one-vs-rest blocks; ``[""]`` for binary.
        truth: (n, K) 0/1, NaN where a label is missing; K = 1 for binary.
        score: (n, K) scores, NaN or infinite for failed cases.
        groupings: attributes and intersections.
        patients: (n,) patient codes.
        clustered: whether patient ids were given.
        notes: facts found on the way.
        called: (n, K) whether the case is called positive, where every case has an operating point of its own.
    """

    kind: Kind
    classes: list[str]
    labels: list[str]
    truth: FloatArray
    score: FloatArray
    groupings: list[Grouping]
    patients: IntArray
    clustered: bool
    notes: list[str]
    called: BoolArray | None = None

    @property
    def top(self) -> IntArray:
        """(n,) index of the highest score; the first on ties."""
        return np.argmax(np.where(np.isfinite(self.score), self.score, -np.inf), axis=1)

    def sample(self, split: str, *, n_bootstrap: int, n_permutations: int, seed: int, percentile: bool) -> Sample:
        """The groups and patients, for measuring."""
        failed = np.asarray(~np.isfinite(self.score).all(axis=1))
        return Sample(
            groupings=self.groupings,
            patients=self.patients,
            clustered=self.clustered,
            failed=failed,
            split=split,
            n_bootstrap=n_bootstrap,
            n_permutations=n_permutations,
            seed=seed,
            percentile=percentile,
            notes=list(self.notes),
        )


def read_classification(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    attributes: pd.DataFrame | Mapping[str, ArrayLike],
    groups: Mapping[str, Sequence[str]] | None,
    patient_id: ArrayLike | None,
    classes: Sequence[str] | None,
    positive_class: str | None,
    intersections: Sequence[Sequence[str]],
    failed: pd.DataFrame | None,
    points: ArrayLike | None = None,
) -> ClassificationInput:
    """Check and order the input of ``evaluate_classification``; see there. ``points`` are its operating points."""
    score = _scores(y_score)
    truth_in = np.asarray(y_true)
    if len(truth_in) != len(score):
        msg = f"y_score: expected {len(truth_in)} rows, as in y_true, got {len(score)}"
        raise ValueError(msg)
    kind, names, truth, score = _by_kind(truth_in, score, classes, positive_class)
    called = None if points is None else _called(points, score, kind)
    table, patients, truth, score, notes = _with_failed(attributes, patient_id, truth, score, failed)
    codes, clustered = encode_patients(patients, len(score))
    content = [score, truth]
    if called is not None:
        called = np.concatenate([called, np.zeros((len(score) - len(called), called.shape[1]), dtype=bool)])
        content.append(called.astype(np.float64))
    order = canonical_order(np.column_stack(content), codes)
    groupings = make_groupings(table, n=len(score), groups=groups, intersections=intersections)
    if not clustered:
        notes.append("no patient ids were given: every image counts as a patient, intervals may be too narrow")
    return ClassificationInput(
        kind,
        names,
        [""] if kind == "binary" else names,
        truth[order],
        score[order],
        [grouping.subset(order) for grouping in groupings],
        pd.factorize(codes[order])[0].astype(np.int64),
        clustered,
        notes,
        None if called is None else called[order],
    )


def canonical_order(values: FloatArray, patients: IntArray) -> IntArray:
    """An order of the cases (n,) that depends on their content only, never on row order or names.

    Args:
        values: (n, K) scores and labels.
        patients: (n,) patient codes; cases of equal content are ordered by what else their patients have.
    """
    values = np.where(np.isfinite(values), values, -np.inf)
    order = np.lexsort(values.T[::-1])
    changed = (values[order[1:]] != values[order[:-1]]).any(axis=1)
    rank = np.empty(len(values))
    rank[order] = np.concatenate([[0], np.cumsum(changed)])
    k = int(patients.max()) + 1
    size, total = np.bincount(patients, minlength=k), np.bincount(patients, weights=np.sqrt(rank + 1), minlength=k)
    return np.lexsort([patients, total[patients].round(6), size[patients], rank])


def _scores(y_score: ArrayLike) -> FloatArray:
    score = np.asarray(y_score, dtype=np.float64)
    if score.ndim not in {1, 2} or len(score) == 0:
        msg = f"y_score: expected shape (n,) or (n, classes) with n > 0, got {score.shape}"
        raise ValueError(msg)
    return score[:, None] if score.ndim == 1 else score


def _called(points: ArrayLike, score: FloatArray, kind: Kind) -> BoolArray:
    """Decisions (n, K) where every case has its own operating point; infinite ones call all or none."""
    values = np.asarray(points, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if kind == "multi_class":
        msg = "operating_point: of several classes the top one decides; expected None, got an array"
        raise ValueError(msg)
    if values.shape != score.shape:
        msg = f"operating_point: expected one per case, shape {score.shape}, got {values.shape}"
        raise ValueError(msg)
    undefined = int(np.count_nonzero(np.isnan(values) & np.isfinite(score)))
    if undefined:
        msg = f"operating_point: {undefined} of {values.size} are NaN though their case has a score"
        raise ValueError(msg)
    return np.asarray(score >= values)


def _by_kind(
    truth: NDArray[np.generic], score: FloatArray, classes: Sequence[str] | None, positive_class: str | None
) -> tuple[Kind, list[str], FloatArray, FloatArray]:
    if truth.ndim == 2:
        return _multi_label(truth, score, classes)
    width = score.shape[1]
    names = list(classes) if classes is not None else [f"class_{i}" for i in range(max(2, width))]
    if width not in {1, len(names)} or (width == 1 and len(names) != 2):
        msg = f"y_score: expected 1 column for 2 classes or {len(names)} columns for {names}, got {width}"
        raise ValueError(msg)
    index = _class_index(truth, names)
    if len(names) > 2:
        return "multi_class", names, _one_hot(index, len(names)), score
    if positive_class is not None and positive_class not in names:
        msg = f"positive_class: {positive_class!r} is not one of the classes {names}"
        raise ValueError(msg)
    positive = 1 if positive_class is None else names.index(positive_class)
    column = 0 if width == 1 else positive
    return "binary", names, (index == positive)[:, None].astype(np.float64), score[:, column : column + 1]


def _multi_label(
    truth: NDArray[np.generic], score: FloatArray, classes: Sequence[str] | None
) -> tuple[Kind, list[str], FloatArray, FloatArray]:
    values = truth.astype(np.float64)
    if values.shape != score.shape:
        msg = f"y_score: expected the shape of the multi-label y_true {values.shape}, got {score.shape}"
        raise ValueError(msg)
    stray = np.unique(values[np.isfinite(values) & (values != 0) & (values != 1)])
    if stray.size:
        msg = f"y_true: multi-label values must be 0, 1 or NaN, got {stray[:5].tolist()}"
        raise ValueError(msg)
    names = list(classes) if classes is not None else [f"class_{i}" for i in range(values.shape[1])]
    if len(names) != values.shape[1]:
        msg = f"classes: expected {values.shape[1]} names, one per column of y_true, got {len(names)}"
        raise ValueError(msg)
    return "multi_label", names, values, score


def _class_index(truth: NDArray[np.generic], names: list[str]) -> IntArray:
    if truth.dtype.kind in "biuf":
        values = truth.astype(np.float64)
        bad = ~np.isin(values, np.arange(len(names)))
        index = np.where(bad, -1, values).astype(np.int64)
    else:
        lookup = {name: i for i, name in enumerate(names)}
        index = np.array([lookup.get(str(value), -1) for value in truth], dtype=np.int64)
        bad = index < 0
    if bad.any():
        found = sorted({str(value) for value in truth[bad]})[:5]
        msg = f"y_true: {found} are no class; expected a class index 0..{len(names) - 1} or one of {names}"
        raise ValueError(msg)
    return index


def _one_hot(index: IntArray, width: int) -> FloatArray:
    return (index[:, None] == np.arange(width)).astype(np.float64)


def _with_failed(
    attributes: pd.DataFrame | Mapping[str, ArrayLike],
    patient_id: ArrayLike | None,
    truth: FloatArray,
    score: FloatArray,
    failed: pd.DataFrame | None,
) -> tuple[dict[str, NDArray[np.object_]], NDArray[np.object_] | None, FloatArray, FloatArray, list[str]]:
    """Append the failed cases as cases with an undefined score, and count what is left out."""
    table = {str(name): np.asarray(values, dtype=object) for name, values in attributes.items()}
    patients = None if patient_id is None else np.asarray(patient_id, dtype=object)
    notes = []
    undefined = int(np.count_nonzero(~np.isfinite(score).all(axis=1)))
    if undefined:
        notes.append(f"{undefined} of {len(score)} cases have a score that is NaN or infinite: left out")
    extra = 0 if failed is None else len(failed)
    if failed is not None and extra:
        notes.append(f"{extra} case(s) failed and have no prediction: left out")
        table = {name: np.concatenate([values, failed_column(failed, name)]) for name, values in table.items()}
        patients = None if patients is None else np.concatenate([patients, failed_column(failed, "patient_id")])
        truth = np.concatenate([truth, np.zeros((extra, truth.shape[1]))])
        score = np.concatenate([score, np.full((extra, score.shape[1]), np.nan)])
    return table, patients, truth, score, notes


def failed_column(failed: pd.DataFrame, name: str) -> NDArray[np.object_]:
    """A column of the failed cases; missing (None) throughout when the table lacks it."""
    if name in failed:
        return failed[name].to_numpy(dtype=object)
    return np.full(len(failed), None, dtype=object)
