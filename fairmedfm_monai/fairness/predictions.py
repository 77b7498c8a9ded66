"""The table of all cases that everything can be recomputed from: read, write, evaluate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.classification import NOT_CALIBRATED, evaluate_classification
from fairmedfm_monai.fairness.registry import FIXED_SPECIFICITY
from fairmedfm_monai.fairness.report import FairnessReport, merge_reports
from fairmedfm_monai.fairness.segmentation import evaluate_segmentation

FloatArray = NDArray[np.float64]
METADATA_KEY = b"fairmedfm"
CALIBRATION_SPLIT = "val"


def write_predictions(table: pd.DataFrame, meta: Mapping[str, Any], path: str | Path) -> Path:
    """Write a table as Parquet with ``meta`` as JSON in the schema's metadata; the file appears whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = pa.Table.from_pandas(table, preserve_index=False)
    data = data.replace_schema_metadata({**(data.schema.metadata or {}), METADATA_KEY: json.dumps(meta).encode()})
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    pq.write_table(data, partial)
    partial.replace(target)
    return target


def read_predictions(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table of predictions and its metadata.

    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: when it is no Parquet file or holds no metadata of this package.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = Path(path)
    if not source.is_file():
        msg = f"{source}: no such file; expected the predictions.parquet of an evaluation"
        raise FileNotFoundError(msg)
    try:
        data = pq.read_table(source)
    except pa.ArrowInvalid as error:
        msg = f"{source}: not a readable Parquet file ({error})"
        raise ValueError(msg) from error
    text = (data.schema.metadata or {}).get(METADATA_KEY)
    if text is None:
        msg = f"{source}: no {METADATA_KEY.decode()!r} entry in the schema metadata; write it with write_predictions"
        raise ValueError(msg)
    return data.to_pandas(), json.loads(text)


def threshold_at_specificity(y: ArrayLike, score: ArrayLike, *, specificity: float = FIXED_SPECIFICITY) -> float:
    """Lowest threshold at which ``score >= threshold`` keeps the specificity, over everyone.

    Args:
        y: (n,) 0/1.
        score: (n,) finite scores.
        specificity: the least share of negatives below the threshold.

    Returns:
        One of the scores, or a number just above the highest one where no score will do; NaN without negatives.
    """
    truth, values = np.asarray(y, dtype=bool), np.asarray(score, dtype=np.float64)
    negative = np.sort(values[~truth])
    if negative.size == 0:
        return float("nan")
    candidates = np.unique(values)
    called = negative.size - np.searchsorted(negative, candidates, side="left")
    allowed = candidates[called <= (1 - specificity) * negative.size * (1 + 1e-12)]
    return float(allowed[0]) if allowed.size else float(np.nextafter(candidates[-1], np.inf))


def evaluate_predictions(
    table: pd.DataFrame,
    meta: Mapping[str, Any],
    *,
    operating_point: float | Mapping[str, float] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    n_permutations: int | None = None,
) -> FairnessReport:
    """Evaluate every split of a table of predictions.

    The operating point of a classifier is the given one, else each case's own where the table has them, else the one
    at which the pooled specificity on ``val`` is 0.90 (``score >= threshold``), else 0.5 with the note "not calibrated
    here".

    Args:
        table: ``case_id``, ``patient_id``, ``split``, attribute columns, ``failed`` (reason, empty when fine) and, for
            classification, ``label`` (class index; multi-label ``label_<class>``) and ``score`` (binary) or
            ``score_<class>``; for segmentation ``label``, ``prompt``, ``dice`` and more, see ``evaluate_segmentation``.
        meta: ``task``, ``classes``, ``positive_class``, ``multi_label``, ``attributes`` (name -> groups),
            ``intersections``, ``unit``, ``notice``, ``stamps``, as written beside the table. With post-processing
            also ``threshold_columns`` (operating points by case, one column per label) and ``mitigation`` (``text``
            and ``notes`` for readers).
        operating_point: threshold, or one per class for multi-label.
        n_bootstrap: replicates; 0 = analytic intervals only, no permutation.
        seed: seed of resampling.
        metrics: subset of the metrics; default all.
        n_permutations: shuffles; default ``n_bootstrap`` or more.

    Raises:
        ValueError: when columns or entries are missing.
    """
    require_columns(table, meta)
    options = {"n_bootstrap": n_bootstrap, "seed": seed, "metrics": metrics, "n_permutations": n_permutations}
    splits = list(dict.fromkeys(table["split"].astype(str)))
    splits.sort(key=lambda name: ({"train": 0, "val": 1, "test": 2}.get(name, 3), name))
    if meta["task"] == "segmentation":
        reports = [_segmentation(table[table["split"] == split], meta, split, options) for split in splits]
        return _with_notices(merge_reports(reports), meta)
    point, source = _operating_point(table, meta, operating_point)
    reports = [_classification(table[table["split"] == split], meta, split, point, options) for split in splits]
    report = _with_notices(merge_reports(reports), meta)
    report.settings["operating_point_source"] = source
    if source.startswith(CALIBRATION_SPLIT) and CALIBRATION_SPLIT in splits:
        report.notes.append(f"{source}: decisions on {CALIBRATION_SPLIT} itself are not independent of it")
    return report


def require_columns(table: pd.DataFrame, meta: Mapping[str, Any]) -> None:
    """Refuse (``ValueError``) a table without rows or without a column that its description asks for."""
    if meta.get("task") not in {"classification", "segmentation"}:
        msg = f"meta['task']: expected 'classification' or 'segmentation', got {meta.get('task')!r}"
        raise ValueError(msg)
    needed = ["split", *meta.get("attributes", {})]
    needed += _columns(meta) if meta["task"] == "classification" else ["dice"]
    needed += meta.get("threshold_columns") or []
    missing = [name for name in needed if name not in table]
    if missing or table.empty:
        msg = f"predictions: {len(table)} rows, missing column(s) {missing}; found {list(table)}"
        raise ValueError(msg)


def _columns(meta: Mapping[str, Any]) -> list[str]:
    classes = list(meta.get("classes") or [])
    if meta.get("multi_label"):
        return [f"label_{name}" for name in classes] + [f"score_{name}" for name in classes]
    return ["label", "score"] if len(classes) <= 2 else ["label", *(f"score_{name}" for name in classes)]


def failed_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows (n,) without a usable prediction."""
    if "failed" not in table:
        return np.zeros(len(table), dtype=bool)
    return (table["failed"].fillna("").astype(str) != "").to_numpy()


def prediction_arrays(table: pd.DataFrame, meta: Mapping[str, Any]) -> tuple[FloatArray, FloatArray]:
    """Truth and scores: (n,) and (n,) binary, (n,) and (n, C) multi-class, (n, C) twice multi-label."""
    names = _columns(meta)
    if meta.get("multi_label"):
        half = len(names) // 2
        return table[names[:half]].to_numpy(dtype=np.float64), table[names[half:]].to_numpy(dtype=np.float64)
    scores = table[names[1:]].to_numpy(dtype=np.float64)
    return table["label"].to_numpy(), scores[:, 0] if len(names) == 2 else scores


def positive_index(meta: Mapping[str, Any]) -> int:
    """Index of the positive one of two classes."""
    classes = list(meta.get("classes") or ["0", "1"])
    return classes.index(meta["positive_class"]) if meta.get("positive_class") else 1


def _operating_point(
    table: pd.DataFrame, meta: Mapping[str, Any], given: float | Mapping[str, float] | None
) -> tuple[float | dict[str, float] | list[str] | None, str]:
    """The operating point, or the columns that hold those of the cases, and where it comes from."""
    if given is not None:
        return (dict(given) if isinstance(given, Mapping) else float(given)), "given"
    if meta.get("threshold_columns"):
        return list(meta["threshold_columns"]), f"{CALIBRATION_SPLIT}: by case, see mitigation"
    if len(meta.get("classes") or []) > 2 and not meta.get("multi_label"):
        return None, "none: the top class decides"
    val = table[(table["split"] == CALIBRATION_SPLIT) & ~failed_rows(table)]
    source = f"{CALIBRATION_SPLIT}: pooled specificity {FIXED_SPECIFICITY:.2f}"
    if val.empty:
        return None, NOT_CALIBRATED
    truth, score = prediction_arrays(val, meta)
    if not meta.get("multi_label"):
        usable = np.isfinite(score)
        positive = class_index(truth, meta) == positive_index(meta)
        point = threshold_at_specificity(positive[usable], score[usable])
        return (point, source) if np.isfinite(point) else (None, NOT_CALIBRATED)
    points = {}
    for column, name in enumerate(meta["classes"]):
        usable = np.isfinite(score[:, column]) & np.isfinite(truth[:, column])
        point = threshold_at_specificity(truth[usable, column] == 1, score[usable, column])
        points[name] = point if np.isfinite(point) else 0.5
    return points, source


def class_index(truth: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[np.int64]:
    """Class indices (n,) of a column that holds indices or names."""
    if truth.dtype.kind in "biuf":
        return truth.astype(np.int64)
    classes = list(meta["classes"])
    return np.array([classes.index(str(value)) for value in truth], dtype=np.int64)


def _classification(
    table: pd.DataFrame,
    meta: Mapping[str, Any],
    split: str,
    point: float | Mapping[str, float] | list[str] | None,
    options: dict[str, Any],
) -> FairnessReport:
    bad = failed_rows(table)
    good, attributes = table[~bad], dict(meta.get("attributes", {}))
    if good.empty:
        msg = f"predictions: all {len(table)} cases of split {split!r} failed; the reasons are in the column 'failed'"
        raise ValueError(msg)
    truth, score = prediction_arrays(good, meta)
    patients = good["patient_id"].to_numpy() if _by_patient(table, meta) else None
    return evaluate_classification(
        truth,
        score,
        attributes=good[list(attributes)],
        groups=attributes,
        patient_id=patients,
        classes=meta.get("classes"),
        positive_class=None if meta.get("multi_label") else meta.get("positive_class"),
        split=split,
        operating_point=good[point].to_numpy(dtype=np.float64) if isinstance(point, list) else point,
        intersections=meta.get("intersections", ()),
        failed=table[bad] if bad.any() else None,
        **options,
    )


def _segmentation(table: pd.DataFrame, meta: Mapping[str, Any], split: str, options: dict[str, Any]) -> FairnessReport:
    attributes = dict(meta.get("attributes", {}))
    return evaluate_segmentation(
        table if _by_patient(table, meta) else table.drop(columns="patient_id", errors="ignore"),
        groups=attributes,
        split=split,
        intersections=meta.get("intersections", ()),
        **options,
    )


def _by_patient(table: pd.DataFrame, meta: Mapping[str, Any]) -> bool:
    return meta.get("unit", "patient") == "patient" and "patient_id" in table


def _with_notices(report: FairnessReport, meta: Mapping[str, Any]) -> FairnessReport:
    notices = [str(text) for text in [meta.get("notice"), *(meta.get("stamps") or [])] if text]
    mitigation = meta.get("mitigation") or {}
    report.notes = list(dict.fromkeys([*notices, *mitigation.get("notes", []), *report.notes]))
    if mitigation.get("text"):
        report.settings["mitigation"] = mitigation["text"]
    return report
