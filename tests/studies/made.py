"""Folders of studies with made-up results: what collecting and showing them is tested with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from fairmedfm_monai.fairness.report import DISPARITY_COLUMNS, SUBGROUP_COLUMNS, write_table
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.jobs import Job, job_folder
from fairmedfm_monai.studies.plan import PlannedCell

HASH = "0123456789abcdef"
CASE_ID = "case-of-secret-patient-17"


def planned(cell, status="ready", reason=""):
    return PlannedCell(cell, status, reason, Path("data") / cell.dataset, 0.0, HASH)


def cell(dataset="papila", fm="clip", usage="linear_probe", **more):
    return Cell(dataset=dataset, task=more.pop("task", "classification"), fm=fm, usage=usage, **more)


def group_row(value, *, attribute="overall", group="all", metric="auc", split="test", half=0.05, reason="", **more):
    low, high = (value - half, value + half) if half is not None else (math.nan, math.nan)
    blank = {"prompt": "", "label": "", "unit": "patient", "n_patients": 50, "n_cases": 60, "n_failed": 0}
    blank |= {"n_positives": 20, "n_negatives": 40}
    row = {"split": split, "attribute": attribute, "group": group, "metric": metric, "value": value, "reason": reason}
    return blank | row | {"ci_low": low, "ci_high": high} | more


def gap_row(value, *, attribute="sex", statistic="gap", metric="auc", split="test", half=0.04, reason="", **more):
    low, high = (value - half, value + half) if half is not None else (math.nan, math.nan)
    blank = {"prompt": "", "label": "", "p_value": 0.5, "p_adjusted": 0.9}
    row = {"split": split, "attribute": attribute, "statistic": statistic, "metric": metric, "value": value}
    return blank | row | {"ci_low": low, "ci_high": high, "reason": reason} | more


def binary_rows(auc, gap):
    """AUC of everyone and by sex, and its gap, on both splits."""
    groups, gaps = [], []
    for split in ("val", "test"):
        groups.append(group_row(auc, split=split))
        groups.append(group_row(auc + gap / 2, attribute="sex", group="male", split=split))
        groups.append(group_row(auc - gap / 2, attribute="sex", group="female", split=split))
        gaps.append(gap_row(gap, split=split))
    return groups, gaps


def finish(output, made, groups, gaps, *, banners=(), report=True):
    """Write the folder of a cell that is done."""
    job = Job(job_folder(output, made.key), HASH)
    job.start(made.to_json(), {})
    job.eval_dir.mkdir(parents=True)
    write_table(pd.DataFrame(groups, columns=list(SUBGROUP_COLUMNS)), job.eval_dir / "subgroups.csv")
    write_table(pd.DataFrame(gaps, columns=list(DISPARITY_COLUMNS)), job.eval_dir / "disparities.csv")
    told = {"banners": list(banners), "tags": {"stamps": list(banners)}}
    (job.eval_dir / "run.json").write_text(json.dumps(told), encoding="utf-8")
    if report:
        (job.eval_dir / "report.html").write_text(f"<p>{made.key}</p>", encoding="utf-8")
    (job.eval_dir / "predictions.csv").write_text(f"case_id\n{CASE_ID}\n", encoding="utf-8")
    job.finish({"seconds": {"evaluate": 1.0}, "versions": {}, "stamps": list(banners), "failed_cases": 0})


def fail(output, made, stage="train", error=f"ValueError: case {CASE_ID} has no label"):
    """Write the folder of a cell that failed; its message names a case."""
    job = Job(job_folder(output, made.key), HASH)
    job.start(made.to_json(), {})
    job.fail(stage, error)
