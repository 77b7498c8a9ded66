"""The result of an evaluation: two tables, what a reader must know beside them, and flat metrics for trackers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.tests import adjust_p_values

OVERALL = "overall"
"""Name of the attribute of rows about everyone; its only group is ``all``."""
ALL = "all"
UNKNOWN = "unknown"

SUBGROUP_COLUMNS = (
    *("split", "prompt", "label", "attribute", "group", "metric", "value", "ci_low", "ci_high", "unit"),
    *("n_patients", "n_cases", "n_positives", "n_negatives", "n_failed", "reason"),
)
DISPARITY_COLUMNS = (
    *("split", "prompt", "label", "attribute", "metric", "statistic", "value", "ci_low", "ci_high"),
    *("null_low", "null_high", "detectable", "p_value", "p_adjusted", "reason"),
)
_TEXT_COLUMNS = ("split", "prompt", "label", "attribute", "group", "metric", "statistic", "unit", "reason")


@dataclass
class FairnessReport:
    """Subgroup evidence of one model on one or more splits.

    Attributes:
        subgroups: one row per split x prompt x label x attribute x group x metric, columns ``SUBGROUP_COLUMNS``. Rows
            about everyone have attribute ``overall`` and group ``all``; cases whose attribute is not known have the
            group ``unknown``. ``prompt`` and ``label`` are empty where there is none (``label`` is also empty for the
            macro average over classes). A value that cannot be estimated is NaN and ``reason`` says why.
        disparities: one row per split x prompt x label x attribute x metric x statistic, columns
            ``DISPARITY_COLUMNS``. ``null_low`` and ``null_high`` are the 5th and 95th percentile of the statistic when
            groups are shuffled among patients: what chance alone gives. ``detectable`` is the smallest true difference
            that a test set of this size shows with 80 % power (gaps only).
        notes: facts that a reader must see (exclusions, uncalibrated thresholds, units), one sentence each.
        settings: how the numbers were made (unit, bootstrap scheme, seed, operating point, families of tests, ...).
        curves: ``{"roc": {split: {label: {attribute: {group: {"fpr": array, "tpr": array}}}}}, "calibration": {...
            {"predicted": array, "observed": array, "n": array}}}``; empty for segmentation.
    """

    subgroups: pd.DataFrame
    disparities: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """Flat ``{key: value}`` of all finite values, for trackers and for the choice of a checkpoint.

        Keys are ``[<prompt>/]<split>/[<label>/]<metric>``, with ``<attribute>/group/<group>/`` or
        ``<attribute>/disparity/<statistic>/`` before the metric. Undefined values are left out.
        """
        flat: dict[str, float] = {}
        columns = ["prompt", "split", "label", "attribute", "group", "metric", "value"]
        for prompt, split, label, attribute, group, metric, value in self.subgroups[columns].itertuples(index=False):
            if math.isfinite(value):
                flat[subgroup_key(prompt, split, label, attribute, group, metric)] = float(value)
        columns = ["prompt", "split", "label", "attribute", "statistic", "metric", "value"]
        for prompt, split, label, attribute, name, metric, value in self.disparities[columns].itertuples(index=False):
            if math.isfinite(value):
                flat[disparity_key(prompt, split, label, attribute, name, metric)] = float(value)
        return flat

    def write(self, output_dir: str | Path) -> list[Path]:
        """Write ``subgroups.csv`` and ``disparities.csv`` to a folder (created when absent); returns the paths."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "subgroups.csv", folder / "disparities.csv"]
        write_table(self.subgroups, paths[0])
        write_table(self.disparities, paths[1])
        return paths


def subgroup_key(prompt: str, split: str, label: str, attribute: str, group: str, metric: str) -> str:
    """Tracker key of one value of a group, or of everyone when ``attribute`` is ``overall``."""
    scope = () if attribute == OVERALL else (attribute, "group", group)
    return "/".join(part for part in (prompt, split, label, *scope, metric) if part)


def disparity_key(prompt: str, split: str, label: str, attribute: str, statistic: str, metric: str) -> str:
    """Tracker key of one disparity."""
    return "/".join(part for part in (prompt, split, label, attribute, "disparity", statistic, metric) if part)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as CSV: columns in their fixed order, full float precision, undefined values as ``nan``."""
    table.to_csv(path, index=False, na_rep="nan", lineterminator="\n")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read ``subgroups.csv`` or ``disparities.csv``: empty text stays empty text, ``nan`` becomes NaN."""
    header = pd.read_csv(path, nrows=0).columns
    text = {name: str for name in _TEXT_COLUMNS if name in header}
    # Empty prompts and labels are names, not missing values; only numeric columns may be missing.
    values = {name: ["nan", ""] for name in header if name not in text}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=values)


def make_report(
    subgroup_rows: Sequence[Mapping[str, Any]],
    disparity_rows: Sequence[Mapping[str, Any]],
    *,
    notes: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    curves: Mapping[str, Any] | None = None,
) -> FairnessReport:
    """Build a report from rows; fixes the columns and adjusts the p-values."""
    subgroups = pd.DataFrame(list(subgroup_rows), columns=list(SUBGROUP_COLUMNS))
    disparities = pd.DataFrame(list(disparity_rows), columns=list(DISPARITY_COLUMNS))
    return _finish(FairnessReport(subgroups, disparities, list(notes), dict(settings or {}), dict(curves or {})))


def _finish(report: FairnessReport) -> FairnessReport:
    report.disparities["p_adjusted"] = adjust_p_values(report.disparities, report.settings.get("primary_metric", ""))
    return report


def merge_reports(reports: Iterable[FairnessReport]) -> FairnessReport:
    """Put reports of several splits, prompts or labels together; p-values are adjusted anew within each split.

    Raises:
        ValueError: if there is no report.
    """
    parts = list(reports)
    if not parts:
        msg = "merge_reports: expected at least one report, got none"
        raise ValueError(msg)
    subgroups = pd.concat([part.subgroups for part in parts], ignore_index=True)
    disparities = pd.concat([part.disparities for part in parts], ignore_index=True)
    settings: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    notes: list[str] = []
    for part in parts:
        settings |= part.settings
        notes += [note for note in part.notes if note not in notes]
        for kind, by_split in part.curves.items():
            curves.setdefault(kind, {}).update(by_split)
    return _finish(FairnessReport(subgroups, disparities, notes, settings, curves))
