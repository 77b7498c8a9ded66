"""Subgroup evidence: how well a model works for each group of patients, how sure that is, and what chance alone gives.

Works on tables and arrays from any tool; needs numpy, scipy and pandas only.
"""

from __future__ import annotations

from fairmedfm_monai.fairness.classification import evaluate_classification
from fairmedfm_monai.fairness.pareto import pareto_front
from fairmedfm_monai.fairness.predictions import evaluate_predictions, read_predictions, write_predictions
from fairmedfm_monai.fairness.report import (
    DISPARITY_COLUMNS,
    SUBGROUP_COLUMNS,
    FairnessReport,
    merge_reports,
    read_table,
    write_table,
)
from fairmedfm_monai.fairness.segmentation import evaluate_segmentation
from fairmedfm_monai.fairness.selection import check_selection, selection_names, selection_sign
from fairmedfm_monai.fairness.surface import segmentation_record

__all__ = [
    "DISPARITY_COLUMNS",
    "SUBGROUP_COLUMNS",
    "FairnessReport",
    "check_selection",
    "evaluate_classification",
    "evaluate_predictions",
    "evaluate_segmentation",
    "merge_reports",
    "pareto_front",
    "read_predictions",
    "read_table",
    "segmentation_record",
    "selection_names",
    "selection_sign",
    "write_predictions",
    "write_table",
]
