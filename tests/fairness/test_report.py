"""Columns, keys and files of a report."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import (
    DISPARITY_COLUMNS,
    SUBGROUP_COLUMNS,
    evaluate_classification,
    evaluate_segmentation,
    merge_reports,
    read_table,
)


@pytest.fixture(scope="module")
def report(patients):
    return evaluate_classification(
        patients.label,
        patients.score,
        attributes=patients[["sex", "age"]],
        groups={"sex": ["female", "male", "other"], "age": ["lt60", "ge60"]},
        patient_id=patients.patient_id,
        intersections=[["sex", "age"]],
        n_bootstrap=50,
    )


def test_columns_are_fixed(report):
    assert tuple(report.subgroups.columns) == SUBGROUP_COLUMNS
    assert tuple(report.disparities.columns) == DISPARITY_COLUMNS
    assert SUBGROUP_COLUMNS[:6] == ("split", "prompt", "label", "attribute", "group", "metric")


def test_metric_keys_and_values(report):
    found = report.metrics()
    for key in (
        "test/auc",
        "test/sex/group/female/auc",
        "test/sex/disparity/worst/auc",
        "test/sex__age/group/female__ge60/sensitivity",
        "test/sex/disparity/equalized_odds_score/sensitivity_specificity",
    ):
        assert math.isfinite(found[key])
    assert all(math.isfinite(value) for value in found.values())
    assert not any("/other/" in key for key in found)
    assert found["test/sex/disparity/worst/auc"] == min(
        found["test/sex/group/female/auc"], found["test/sex/group/male/auc"]
    )


def test_every_undefined_cell_has_a_reason(report):
    for table in (report.subgroups, report.disparities):
        undefined = table[table.value.isna()]
        assert (undefined.reason != "").all()
    assert (report.subgroups[report.subgroups.group == "other"].reason == "no case").all()
    gap = report.disparities.query("attribute == 'sex' and metric == 'auc' and statistic == 'gap'").iloc[0]
    assert gap.reason == "without other (no case)"


def test_prompt_and_label_come_first_in_segmentation_keys():
    cases = pd.DataFrame({"dice": [0.5, 0.7, 0.6, 0.9], "label": "kidney", "prompt": "box"})
    found = evaluate_segmentation(cases, attributes={"sex": ["f", "m", "f", "m"]}, n_bootstrap=0).metrics()
    assert found["box/test/kidney/dice"] == pytest.approx(0.675)
    assert found["box/test/kidney/sex/group/f/dice"] == pytest.approx(0.55)
    assert found["box/test/kidney/sex/disparity/gap/dice"] == pytest.approx(0.25)


def test_tables_survive_the_file(report, tmp_path):
    paths = report.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["subgroups.csv", "disparities.csv"]
    pd.testing.assert_frame_equal(read_table(paths[0]), report.subgroups, check_dtype=False)
    pd.testing.assert_frame_equal(read_table(paths[1]), report.disparities, check_dtype=False)
    assert paths[0].read_text(encoding="utf-8").splitlines()[0] == ",".join(SUBGROUP_COLUMNS)


def test_merging_keeps_all_rows_and_adjusts_within_splits(patients):
    parts = [
        evaluate_classification(
            patients.label, patients.score, attributes=patients[["sex"]], split=split, n_bootstrap=50, seed=seed
        )
        for seed, split in enumerate(("val", "test"))
    ]
    merged = merge_reports(parts)
    assert len(merged.subgroups) == sum(len(part.subgroups) for part in parts)
    assert merged.disparities.p_adjusted.to_numpy() == pytest.approx(
        np.concatenate([part.disparities.p_adjusted for part in parts]), nan_ok=True
    )
    assert set(merged.curves["roc"]) == {"val", "test"}
    assert len(merged.notes) == len(set(merged.notes))
    with pytest.raises(ValueError, match="at least one report"):
        merge_reports([])
