"""Subgroup evidence for segmentation, from per-case scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.groups import encode_patients, make_groupings
from fairmedfm_monai.fairness.inputs import canonical_order
from fairmedfm_monai.fairness.label_mean import IS_MEAN, add_label_means
from fairmedfm_monai.fairness.overlap import SegmentationProblem, failure, false_alarm
from fairmedfm_monai.fairness.registry import CLICK_METRICS, FAILURE_DICE, SEGMENTATION_METRICS, check_metrics
from fairmedfm_monai.fairness.report import FairnessReport, make_report
from fairmedfm_monai.fairness.tables import Sample, Tables, permutations_for, resampling_settings

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

PRIMARY_METRIC = "dice"
EMPTY_POLICY = (
    "an empty reference is left out of all scores and counted in false_alarm_rate; an empty prediction of a non-empty "
    "reference scores 0, has no distances and counts in failure_rate"
)


def evaluate_segmentation(
    cases: pd.DataFrame,
    *,
    attributes: pd.DataFrame | Mapping[str, ArrayLike] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    patient_id: ArrayLike | None = None,
    split: str = "test",
    intersections: Sequence[Sequence[str]] = (),
    n_bootstrap: int = 1000,
    seed: int = 0,
    metrics: Sequence[str] | None = None,
    n_permutations: int | None = None,
) -> FairnessReport:
    """Measure segmentations on everyone, on every group and between groups, per prompt and label.

    Where a prompt has several labels and ``cases`` a ``case_id``, the label "" is the mean of a case over its labels.

    Args:
        cases: one row per case (and label and prompt) with ``dice`` in [0, 1] and any of ``iou``, ``nsd``, ``hd95``,
            ``hd95_pooled``, ``hd``, ``assd`` (mm), ``filled_box_dice``, and of prompts with correction clicks
            ``clicks85``, ``clicks90`` (number) and ``reached85``, ``reached90`` (share of objects); optional
            ``label``, ``prompt``, ``case_id``, ``empty_reference``, ``empty_prediction``, ``patient_id``, ``failed``
            (reason, empty when fine; a failed row without a label counts for every label). Rows whose Dice is missing
            for no declared reason count as failed.
        attributes: one column of group names per attribute, rows as in ``cases``; default: the columns of ``cases``
            named in ``groups``.
        groups: declared groups per attribute.
        patient_id: one patient per row; default the column of ``cases``; without either, every row is a patient.
        split: name of the split in the tables.
        intersections: attributes to cross.
        n_bootstrap: replicates; 0 = analytic intervals only, no permutation.
        seed: seed of resampling.
        metrics: subset of ``SEGMENTATION_METRICS``; default all that the columns allow.
        n_permutations: shuffles; default ``n_bootstrap`` or more.

    Raises:
        ValueError: on missing columns, a Dice outside [0, 1], undeclared groups or unknown metrics.
    """
    table = _check(cases)
    columns = pd.DataFrame(dict(_own_attributes(table, groups) if attributes is None else attributes))
    if len(columns.columns) and len(columns) != len(table):
        msg = f"attributes: expected {len(table)} rows, one per row of cases, got {len(columns)}"
        raise ValueError(msg)
    patients = patient_id if patient_id is not None else table.get("patient_id")
    table, source = add_label_means(table)
    attributes = {str(name): columns[name].to_numpy(dtype=object)[source] for name in columns}
    patients = None if patients is None else np.asarray(patients, dtype=object)[source]
    groupings = make_groupings(attributes, n=len(table), groups=groups, intersections=intersections)
    codes, clustered = encode_patients(patients, len(table))
    names = check_metrics(list(metrics) if metrics is not None else None, SEGMENTATION_METRICS)
    blocks = _blocks(table)
    permutations = permutations_for(n_bootstrap, len(groupings) * len(blocks))
    permutations = permutations if n_permutations is None else n_permutations
    shared = Sample(
        groupings=groupings,
        patients=codes,
        clustered=clustered,
        failed=np.zeros(len(table), dtype=bool),
        split=split,
        n_bootstrap=n_bootstrap,
        n_permutations=permutations,
        seed=seed,
    )
    if not clustered:
        shared.note("no patient ids were given: every image counts as a patient, intervals may be too narrow")
    tables = Tables()
    for prompt, label, rows in blocks:
        _add_block(tables, shared, table, names, prompt, label, rows)
    settings = resampling_settings(shared) | {
        "task": "segmentation",
        "primary_metric": PRIMARY_METRIC,
        "empty_policy": EMPTY_POLICY,
        "failure": f"Dice below {FAILURE_DICE} on a non-empty reference",
    }
    if "nsd_tolerance" in table:
        settings["nsd_tolerance_mm"] = sorted(set(table["nsd_tolerance"].dropna().astype(float)))
    return make_report(tables.subgroups, tables.disparities, notes=shared.notes, settings=settings)


def _check(cases: pd.DataFrame) -> pd.DataFrame:
    if "dice" not in cases or len(cases) == 0:
        msg = f"cases: expected at least one row and a column 'dice', got {len(cases)} rows, columns {list(cases)}"
        raise ValueError(msg)
    table = cases.reset_index(drop=True).copy()
    dice = table["dice"].to_numpy(dtype=np.float64)
    known = dice[np.isfinite(dice)]
    if known.size and (known.min() < 0 or known.max() > 1):
        msg = f"cases['dice']: expected values in [0, 1], got {known.min()} .. {known.max()}; divide percentages by 100"
        raise ValueError(msg)
    for name in ("prompt", "label", "failed"):
        table[name] = table[name].fillna("").astype(str) if name in table else ""
    empty = table["n_ref_voxels"].eq(0) if "n_ref_voxels" in table else pd.Series(data=False, index=table.index)
    table["empty_reference"] = table["empty_reference"].eq(True) if "empty_reference" in table else empty
    if "empty_prediction" in table:
        table["empty_prediction"] = table["empty_prediction"].eq(True)
    else:
        table["empty_prediction"] = table["n_pred_voxels"].eq(0) if "n_pred_voxels" in table else table["dice"].eq(0)
    return table


def _own_attributes(table: pd.DataFrame, groups: Mapping[str, Sequence[str]] | None) -> pd.DataFrame:
    missing = [name for name in (groups or {}) if name not in table]
    if missing:
        msg = f"groups: {missing} are no columns of cases {list(table)}; pass attributes= or add the columns"
        raise ValueError(msg)
    return table[list(groups or {})]


def _blocks(table: pd.DataFrame) -> list[tuple[str, str, IntArray]]:
    """Rows of every prompt and label in order of appearance, the mean over labels first.

    Failed rows without a label belong to all blocks.
    """
    failed = (table["failed"] != "").to_numpy()
    loose = failed & (table["label"] == "").to_numpy() & ~table[IS_MEAN].to_numpy(dtype=bool)
    named = table[~loose]
    if named.empty:
        return [("", "", np.flatnonzero(loose))]
    pairs = list(dict.fromkeys(zip(named["prompt"], named["label"], strict=True)))
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    pairs.sort(key=lambda pair: (prompts.index(pair[0]), pair[1] != ""))
    found = []
    for prompt, label in pairs:
        match = ((table["prompt"] == prompt) & (table["label"] == label)).to_numpy() & ~loose
        found.append((prompt, label, np.flatnonzero(match | loose)))
    return found


def _add_block(
    tables: Tables, shared: Sample, table: pd.DataFrame, names: tuple[str, ...], prompt: str, label: str, rows: IntArray
) -> None:
    block = table.iloc[rows]
    values = _columns(block)
    empty = block["empty_reference"].to_numpy(dtype=bool)
    failed = (block["failed"] != "").to_numpy() | (~np.isfinite(values["dice"]) & ~empty)
    if failed.any():
        where = "/".join(part for part in (prompt, label) if part) or "segmentation"
        shared.note(f"{where}: {int(failed.sum())} of {failed.size} cases failed or have no score: left out")
    order = canonical_order(np.column_stack([values["dice"], values["failure_rate"]]), shared.patients[rows])
    problem = SegmentationProblem(
        {name: column[order] for name, column in values.items()},
        tuple(name for name in names if name.removesuffix("_median") in values),
    )
    sample = replace(
        shared,
        groupings=[grouping.subset(rows[order]) for grouping in shared.groupings],
        patients=pd.factorize(shared.patients[rows][order])[0].astype(np.int64),
        failed=failed[order],
    )
    tables.add(problem, sample, ~empty[order], prompt=prompt, label=label)


def _columns(block: pd.DataFrame) -> dict[str, FloatArray]:
    """Scores per case (n,), undefined (NaN) where the reference is empty; infinite distances count as undefined."""
    empty_reference = block["empty_reference"].to_numpy(dtype=bool)
    empty_prediction = block["empty_prediction"].to_numpy(dtype=bool)
    found = {}
    for name in SEGMENTATION_METRICS:
        if name in block:
            column = block[name].to_numpy(dtype=np.float64)
            column = np.where(empty_reference | ~np.isfinite(column), np.nan, column)
            if name not in CLICK_METRICS or np.isfinite(column).any():
                found[name] = column
    found["failure_rate"] = failure(found["dice"], empty_reference)
    found["false_alarm_rate"] = false_alarm(empty_reference, empty_prediction)
    return found
