"""Files of predictions, operating points, evaluation of all splits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_predictions, read_predictions, write_predictions
from fairmedfm_monai.fairness.predictions import threshold_at_specificity


@pytest.fixture(scope="module")
def table(patients):
    return patients.assign(split=np.where(patients.patient_id.str[1:].astype(int) < 60, "val", "test"))


def test_file_round_trip(table, meta, tmp_path):
    path = write_predictions(table, meta, tmp_path / "out" / "predictions.parquet")
    again, found = read_predictions(path)
    assert found == meta
    pd.testing.assert_frame_equal(again, table.reset_index(drop=True), check_dtype=False)
    assert list(path.parent.iterdir()) == [path]


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.parquet: no such file"):
        read_predictions(tmp_path / "missing.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        read_predictions(broken)
    foreign = tmp_path / "foreign.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    with pytest.raises(ValueError, match="no 'fairmedfm' entry"):
        read_predictions(foreign)


@pytest.mark.parametrize("decimals", [6, 1])
def test_threshold_is_the_lowest_that_keeps_the_specificity(decimals):
    rng = np.random.default_rng(0)
    y, score = rng.random(200) < 0.3, rng.random(200).round(decimals)
    point = threshold_at_specificity(y, score)
    specificity = [(score[~y] < t).mean() for t in np.append(np.unique(score), 2.0)]
    assert (score[~y] < point).mean() >= 0.9
    assert point == np.append(np.unique(score), 2.0)[np.flatnonzero(np.array(specificity) >= 0.9)[0]]


def test_threshold_above_all_scores_and_without_negatives():
    assert threshold_at_specificity([0, 0, 1], [0.5, 0.5, 0.5]) > 0.5
    assert np.isnan(threshold_at_specificity([1, 1], [0.2, 0.4]))


def test_operating_point_comes_from_val(table, meta):
    report = evaluate_predictions(table, meta, n_bootstrap=0)
    val = table[table.split == "val"]
    point = threshold_at_specificity(val.label, val.score)
    assert report.settings["operating_point"] == point
    assert report.settings["operating_point_source"] == "val: pooled specificity 0.90"
    found = report.metrics()
    assert found["val/specificity"] >= 0.9
    test = table[(table.split == "test") & (table.label == 1)]
    assert found["test/sensitivity"] == pytest.approx((test.score >= point).mean(), abs=1e-12)
    assert list(dict.fromkeys(report.subgroups.split)) == ["val", "test"]


def test_given_operating_point_and_none(table, meta):
    assert evaluate_predictions(table, meta, operating_point=0.3, n_bootstrap=0).settings["operating_point"] == 0.3
    report = evaluate_predictions(table[table.split == "test"], meta, n_bootstrap=0)
    assert report.settings["operating_point"] == 0.5
    assert "operating point 0.5: not calibrated here" in report.notes


def test_failed_rows_notices_and_unit(table, meta):
    failed = table.copy()
    failed.loc[failed.index[-2:], ["failed", "score"]] = ["case: truncated", np.nan]
    marked = meta | {"notice": "semi-synthetic", "stamps": ["random weights"], "unit": "image"}
    report = evaluate_predictions(failed, marked, n_bootstrap=0)
    row = report.subgroups.query("split == 'test' and attribute == 'overall' and metric == 'auc'").iloc[0]
    assert row.n_failed == 2
    assert row.unit == "image"
    assert report.notes[:2] == ["semi-synthetic", "random weights"]


def test_multi_class_and_multi_label_tables(table, meta):
    rng = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    y = rng.integers(0, 3, len(table))
    score = rng.random((len(table), 3)) + np.eye(3)[y]
    score /= score.sum(axis=1, keepdims=True)
    scores = {f"score_{name}": score[:, i] for i, name in enumerate(classes)}
    wide = table.assign(label=y, **scores)
    report = evaluate_predictions(wide, meta | {"classes": classes, "positive_class": None}, n_bootstrap=0)
    assert report.settings["operating_point_source"] == "none: the top class decides"
    assert {"test/a/auc", "test/auc"} <= set(report.metrics())
    labels = {f"label_{name}": (y == i).astype(int) for i, name in enumerate(classes)}
    wide = table.drop(columns=["label", "score"]).assign(**labels, **scores)
    marked = meta | {"classes": classes, "positive_class": None, "multi_label": True}
    report = evaluate_predictions(wide, marked, n_bootstrap=0)
    assert set(report.settings["operating_point"]) == set(classes)
    assert report.metrics()["val/b/specificity"] >= 0.9


def test_segmentation_table(meta):
    rng = np.random.default_rng(0)
    cases = pd.DataFrame(
        {
            "case_id": np.arange(40),
            "patient_id": np.arange(40) // 2,
            "split": np.repeat(["val", "test"], 20),
            "sex": np.tile(["female", "male"], 20),
            "label": "kidney",
            "prompt": "box",
            "dice": rng.random(40),
            "failed": "",
        }
    )
    seg = {"task": "segmentation", "attributes": {"sex": ["female", "male"]}, "labels": {"kidney": 1}}
    report = evaluate_predictions(cases, seg, n_bootstrap=0)
    assert report.metrics()["box/val/kidney/dice"] == pytest.approx(cases.dice[:20].mean(), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "detection"}, r"meta\['task'\]"),
        ({"attributes": {"site": ["a"]}}, r"missing column\(s\) \['site'\]"),
        ({"classes": ["a", "b", "c"]}, "score_a"),
    ],
)
def test_bad_tables_say_what_is_missing(table, meta, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(table, meta | change, n_bootstrap=0)


def test_split_in_which_everything_failed_is_refused(table, meta):
    failed = table.assign(failed=np.where(table.split == "val", "case: broken", ""))
    with pytest.raises(ValueError, match=r"all .* cases of split 'val' failed"):
        evaluate_predictions(failed, meta, operating_point=0.5, n_bootstrap=0)
