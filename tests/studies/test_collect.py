from __future__ import annotations

import json
import math
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_predictions
from fairmedfm_monai.reporting import write_report
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.collect import COLUMNS, collect, current, write_long
from fairmedfm_monai.studies.jobs import Job, job_folder

from .made import CASE_ID, HASH, binary_rows, cell, fail, finish, planned


def test_every_number_of_a_real_evaluation_is_there_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    label = np.arange(120) % 2
    table = pd.DataFrame(
        {"case_id": [f"{CASE_ID}-{k}" for k in range(120)], "patient_id": np.arange(120), "failed": ""}
    )
    table = table.assign(split="test", sex=["female", "male", "male"] * 40, label=label, score=rng.random(120))
    meta = {"task": "classification", "classes": ["no", "yes"], "attributes": {"sex": ["female", "male"]}}
    report = evaluate_predictions(table, meta, n_bootstrap=20)
    made = cell(seed=3, attributes=("sex", "age"), mitigation="group_dro", options={"eta": 0.1}, label="wide")
    job = Job(job_folder(tmp_path, made.key), HASH)
    job.start(made.to_json(), {})
    write_report(report, job.eval_dir, title="made", banners=["tiny: no meaning", "second"], predictions=table)
    job.finish({})

    frame = collect(current([planned(made)], tmp_path), tmp_path)

    assert list(frame.columns) == list(COLUMNS)
    groups, gaps = frame[frame["statistic"] == ""], frame[frame["statistic"] != ""]
    assert len(groups) == len(report.subgroups)
    assert len(gaps) == len(report.disparities)
    for part, original in ((groups, report.subgroups), (gaps, report.disparities)):
        for name in set(original.columns):
            pd.testing.assert_series_equal(
                part[name].reset_index(drop=True), original[name].reset_index(drop=True), check_dtype=False
            )
    assert set(frame["status"]) == {"done"}
    assert set(frame["stamps"]) == {"tiny: no meaning | second"}
    assert set(frame["attributes"]) == {"sex+age"}
    assert set(frame["options"]) == {'{"eta": 0.1}'}
    assert set(frame["cell_label"]) == {"wide"}
    assert set(frame["seed"]) == {3}
    assert not frame.astype(str).apply(lambda column: column.str.contains(CASE_ID)).any(axis=None)


def test_every_field_of_a_cell_is_a_column():
    names = {"cell_label" if one.name == "label" else one.name for one in fields(Cell)}
    assert names <= set(COLUMNS)


def test_cells_without_numbers_are_rows_that_say_why(tmp_path):
    plan = [
        planned(cell("adni"), "no data", "make it with `prepare adni`"),
        planned(cell(fm="sam"), "not offered", "sam is a model for segmentation"),
    ]
    frame = collect(current(plan, tmp_path), tmp_path)
    assert frame["status"].tolist() == ["no data", "not offered"]
    assert frame["reason"].tolist() == [one.reason for one in plan]
    assert frame["value"].isna().all()


def test_what_ran_after_the_plan_was_made_counts(tmp_path):
    done, failed, stopped, never = (cell(seed=seed) for seed in range(4))
    finish(tmp_path, done, *binary_rows(0.8, 0.1))
    fail(tmp_path, failed)
    Job(job_folder(tmp_path, stopped.key), HASH).start(stopped.to_json(), {})
    plan = [planned(done, "left out", "by only"), *map(planned, (failed, stopped)), planned(never, "done")]
    found = current(plan, tmp_path)
    assert [one.status for one in found] == ["done", "failed", "interrupted", "ready"]
    assert found[0].reason == ""


def test_results_of_other_settings_are_not_taken(tmp_path):
    made = cell()
    finish(tmp_path, made, *binary_rows(0.8, 0.1))
    file = job_folder(tmp_path, made.key) / "cell.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hash": "other"}), encoding="utf-8")
    assert current([planned(made)], tmp_path)[0].status == "ready"


def test_a_failure_is_told_by_stage_and_type_alone(tmp_path):
    made = cell()
    fail(tmp_path, made, stage="evaluate")
    reason = current([planned(made)], tmp_path)[0].reason
    assert "evaluate" in reason
    assert "ValueError" in reason
    assert CASE_ID not in reason


def test_results_that_cannot_be_read_are_a_status(tmp_path):
    made = cell()
    finish(tmp_path, made, *binary_rows(0.8, 0.1))
    (job_folder(tmp_path, made.key) / "eval" / "disparities.csv").unlink()
    frame = collect(current([planned(made)], tmp_path), tmp_path)
    assert frame["status"].tolist() == ["unreadable"]
    assert "FileNotFoundError" in frame["reason"].item()


@pytest.mark.parametrize("kind", ["results.parquet", "results.csv"])
def test_the_files_hold_the_same_table(kind, tmp_path):
    finish(tmp_path, cell(), *binary_rows(0.1 + 0.2, 0.1))
    frame = collect(current([planned(cell()), planned(cell("adni"), "no data", "advice")], tmp_path), tmp_path)
    write_long(frame, tmp_path)
    path = tmp_path / kind
    read = (
        pd.read_parquet(path)
        if kind.endswith("parquet")
        else pd.read_csv(path, keep_default_na=False, na_values=["nan"])
    )
    assert len(read) == len(frame)
    everyone = read[(read["attribute"] == "overall") & (read["split"] == "test")]
    assert everyone["value"].item() == 0.1 + 0.2
    assert math.isnan(read.loc[read["status"] == "no data", "value"].item())
