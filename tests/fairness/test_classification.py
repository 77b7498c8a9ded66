"""evaluate_classification: three kinds of problem, invariance, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from fairmedfm_monai.fairness import evaluate_classification

ATTRIBUTES = ["sex", "age", "race"]
FAST = {"n_bootstrap": 0}


def evaluate(table, **options):
    options = {"n_bootstrap": 60, "operating_point": 0.5, "patient_id": table.patient_id} | options
    attributes = options.pop("attributes", table[ATTRIBUTES])
    return evaluate_classification(table.label, table.score, attributes=attributes, **options)


def same(left, right, *, keys):
    """Both tables agree cell by cell, whatever the order of rows."""
    left, right = (table.sort_values(keys).reset_index(drop=True) for table in (left, right))
    pd.testing.assert_frame_equal(left, right, atol=1e-9, rtol=1e-9)


SUBGROUP_KEYS = ["attribute", "group", "metric"]
DISPARITY_KEYS = ["attribute", "metric", "statistic"]


@pytest.fixture(scope="module")
def report(patients):
    return evaluate(patients, intersections=[["sex", "age"]])


def test_shuffled_rows_change_nothing(patients, report):
    again = evaluate(patients.sample(frac=1, random_state=3), intersections=[["sex", "age"]])
    same(again.subgroups, report.subgroups, keys=SUBGROUP_KEYS)
    same(again.disparities, report.disparities, keys=DISPARITY_KEYS)


def test_order_of_groups_changes_nothing(patients, report):
    groups = {"sex": ["male", "female"], "race": ["asian", "black", "white"], "age": ["ge60", "lt60"]}
    again = evaluate(patients, groups=groups, intersections=[["sex", "age"]])
    same(again.subgroups, report.subgroups, keys=SUBGROUP_KEYS)
    same(again.disparities.drop(columns="reason"), report.disparities.drop(columns="reason"), keys=DISPARITY_KEYS)


def test_names_of_groups_and_patients_change_nothing(patients, report):
    renamed = patients.assign(
        sex=patients.sex.map({"female": "zz", "male": "aa"}),
        patient_id=patients.patient_id.map(lambda name: name[::-1]),
    )
    again = evaluate(renamed, intersections=[["sex", "age"]])
    columns = ["value", "ci_low", "ci_high", "n_cases", "n_patients"]
    for old, new in (("female", "zz"), ("male", "aa")):
        left, right = (
            r.subgroups[(r.subgroups.attribute == "sex") & (r.subgroups.group == name)][columns].to_numpy(dtype=float)
            for r, name in ((report, old), (again, new))
        )
        assert right == pytest.approx(left, abs=1e-12, nan_ok=True)
    numbers = ["value", "ci_low", "ci_high", "null_low", "null_high", "detectable", "p_value"]
    left, right = (r.disparities.query("attribute == 'sex'")[numbers].to_numpy(dtype=float) for r in (report, again))
    assert right == pytest.approx(left, abs=1e-12, nan_ok=True)


def test_groups_match_sklearn_and_unknown_is_its_own_row(patients, report):
    found = report.metrics()
    for name, rows in patients.groupby("race"):
        assert found[f"test/race/group/{name}/auc"] == pytest.approx(sk.roc_auc_score(rows.label, rows.score), abs=1e-9)
    named = [found[f"test/race/group/{name}/auc"] for name in ("white", "black", "asian")]
    assert found["test/race/disparity/gap/auc"] == pytest.approx(max(named) - min(named), abs=1e-12)
    unknown = report.subgroups.query("attribute == 'race' and group == 'unknown' and metric == 'auc'").iloc[0]
    assert unknown.n_cases == (patients.race == "unknown").sum()


def test_counts(patients, report):
    row = report.subgroups.query("attribute == 'sex' and group == 'female' and metric == 'auc'").iloc[0]
    rows = patients[patients.sex == "female"]
    assert (row.n_cases, row.n_patients) == (len(rows), rows.patient_id.nunique())
    assert (row.n_positives, row.n_negatives) == (rows.label.sum(), (1 - rows.label).sum())
    assert row.unit == "patient"


def test_fast_path_gives_the_same_values_without_resampling(patients, report):
    fast = evaluate(patients, intersections=[["sex", "age"]], **FAST)
    assert fast.metrics() == pytest.approx(report.metrics(), abs=1e-12)
    assert fast.disparities.p_value.isna().all()
    auc = fast.subgroups.query("metric == 'auc' and attribute == 'sex'")
    assert auc.ci_low.notna().all()
    auprc = fast.subgroups.query("metric == 'auprc'")
    assert auprc.reason.str.startswith("no interval: needs the bootstrap").all()


def test_every_gap_has_null_band_p_value_interval_and_detectable_difference(report):
    gaps = report.disparities.query("statistic == 'gap' and metric != 'ece_fairmedfm'")
    numbers = ["value", "ci_low", "ci_high", "null_low", "null_high", "detectable", "p_value", "p_adjusted"]
    assert gaps[numbers].notna().all(axis=None)
    assert (gaps.ci_low <= gaps.value + 1e-12).all()
    assert (gaps.value <= gaps.ci_high + 1e-12).all()
    assert (gaps.p_adjusted >= gaps.p_value - 1e-12).all()


def test_true_difference_is_found_and_no_difference_is_not():
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(300), 2)
    sex, hair = (rng.choice(list("ab"), 300)[patient] for _ in range(2))
    y = (rng.random(300) < 0.4)[patient]
    score = 1 / (1 + np.exp(-(rng.standard_normal(600) + np.where(sex == "a", 2.0, 0.6) * y)))
    report = evaluate_classification(
        y, score, attributes={"sex": sex, "hair": hair}, patient_id=patient, n_bootstrap=300
    )
    gaps = report.disparities.query("metric == 'auc' and statistic == 'gap'").set_index("attribute")
    assert gaps.p_adjusted["sex"] < 0.05 < gaps.p_adjusted["hair"]
    assert gaps.ci_low["sex"] > 0
    assert gaps.value["sex"] > gaps.null_high["sex"]
    assert gaps.ci_low["hair"] == 0


def test_scores_that_are_not_numbers_are_counted_and_left_out(patients):
    broken = patients.copy()
    broken.loc[broken.index[:3], "score"] = [np.nan, np.inf, -np.inf]
    report = evaluate(broken, **FAST)
    row = report.subgroups.query("attribute == 'overall' and metric == 'auc'").iloc[0]
    assert (row.n_failed, row.n_cases) == (3, len(patients) - 3)
    assert row.reason == "3 failed case(s) left out"
    rest = broken[np.isfinite(broken.score)]
    assert row.value == pytest.approx(sk.roc_auc_score(rest.label, rest.score), abs=1e-12)
    assert any("3 of" in note and "NaN or infinite" in note for note in report.notes)


def test_failed_cases_are_counted_in_their_groups(patients):
    failed = pd.DataFrame({"sex": ["female", "female", "male"], "age": "lt60", "race": None, "patient_id": "x"})
    report = evaluate(patients, failed=failed, **FAST)
    counts = report.subgroups.query("attribute == 'sex' and metric == 'auc'").set_index("group").n_failed
    assert counts.to_dict() == {"female": 2, "male": 1}


def test_group_with_one_class_and_group_without_a_case(patients):
    one_class = patients[(patients.race != "asian") | (patients.label == 0)]
    report = evaluate(one_class, groups={"race": ["white", "black", "asian", "martian"]}, n_bootstrap=30)
    rows = report.subgroups.query("attribute == 'race' and metric == 'auc'").set_index("group")
    assert np.isnan(rows.value["asian"])
    assert rows.reason["asian"] == "no positive case"
    assert rows.reason["martian"] == "no case"
    assert rows.n_cases["martian"] == 0
    gap = report.disparities.query("attribute == 'race' and metric == 'auc' and statistic == 'gap'").iloc[0]
    assert "asian (no positive case)" in gap.reason
    assert "martian (no case)" in gap.reason


def test_single_group_has_no_disparity_but_a_reason(patients):
    report = evaluate(patients, attributes={"site": np.full(len(patients), "here")}, **FAST)
    assert report.disparities.value.isna().all()
    assert report.disparities.reason.str.startswith("fewer than two groups").all()


def test_missing_patients_and_threshold_are_said(patients):
    report = evaluate(patients, patient_id=None, operating_point=None, **FAST)
    assert any("no patient ids" in note for note in report.notes)
    assert any("not calibrated here" in note for note in report.notes)
    assert set(report.subgroups.unit) == {"image"}


def test_patients_in_several_groups_are_said(patients):
    changed = patients.assign(age=np.where(np.arange(len(patients)) % 2, "lt60", "ge60"))
    report = evaluate(changed, n_bootstrap=20)
    assert any(note.startswith("age: some patients have images in several groups") for note in report.notes)


def test_percentile_intervals_are_near_the_analytic_ones(patients, report):
    percentile = evaluate(patients, percentile=True, n_bootstrap=800)
    query = "attribute == 'sex' and metric == 'auc'"
    left, right = (r.subgroups.query(query)[["ci_low", "ci_high"]].to_numpy() for r in (report, percentile))
    assert right == pytest.approx(left, abs=0.03)


def test_curves_end_in_the_corners(report, patients):
    curve = report.curves["roc"]["test"][""]["sex"]["female"]
    assert (curve["fpr"][0], curve["tpr"][0], curve["fpr"][-1], curve["tpr"][-1]) == (0, 0, 1, 1)
    rows = patients[patients.sex == "female"]
    assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(sk.roc_auc_score(rows.label, rows.score), abs=0.01)
    bins = report.curves["calibration"]["test"][""]["overall"]["all"]
    assert bins["n"].sum() == len(patients)


def multi_class(n=240, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    score = rng.gamma(1.0, size=(n, 3)) + 1.2 * np.eye(3)[y]
    return y, score / score.sum(axis=1, keepdims=True), rng.choice(["f", "m"], n)


def test_multi_class_matches_sklearn():
    y, score, sex = multi_class()
    found = evaluate_classification(y, score, attributes={"sex": sex}, classes=list("abc"), **FAST).metrics()
    for prefix, rows in (("test", slice(None)), ("test/sex/group/f", sex == "f")):
        truth, p = y[rows], score[rows]
        top = p.argmax(axis=1)
        expected = {
            "auc": sk.roc_auc_score(truth, p, multi_class="ovr", average="macro"),
            "accuracy": sk.accuracy_score(truth, top),
            "balanced_accuracy": sk.balanced_accuracy_score(truth, top),
            "f1": sk.f1_score(truth, top, average="macro"),
            "ppv": sk.precision_score(truth, top, average="macro"),
        }
        for name, value in expected.items():
            assert found[f"{prefix}/{name}"] == pytest.approx(value, abs=1e-9), name
    assert found["test/b/auc"] == pytest.approx(sk.roc_auc_score(y == 1, score[:, 1]), abs=1e-9)
    assert found["test/b/sensitivity"] == pytest.approx(sk.recall_score(y == 1, score.argmax(axis=1) == 1), abs=1e-9)


def test_multi_class_intervals_match_the_bootstrap():
    y, score, sex = multi_class(500)
    options = {"attributes": {"sex": sex}, "classes": list("abc"), "metrics": ["auc", "balanced_accuracy", "accuracy"]}
    analytic = evaluate_classification(y, score, **options, **FAST).subgroups.query("label == ''")
    resampled = evaluate_classification(y, score, **options, n_bootstrap=600, n_permutations=0, percentile=True)
    ends = resampled.subgroups.query("label == ''")[["ci_low", "ci_high"]].to_numpy()
    assert ends == pytest.approx(analytic[["ci_low", "ci_high"]].to_numpy(), abs=0.02)


def test_class_missing_in_a_group_leaves_its_macro_mean_undefined():
    y, score, sex = multi_class()
    keep = ~((sex == "f") & (y == 2))
    report = evaluate_classification(y[keep], score[keep], attributes={"sex": sex[keep]}, classes=list("abc"), **FAST)
    row = report.subgroups.query("label == '' and group == 'f' and metric == 'auc'").iloc[0]
    assert np.isnan(row.value)
    assert row.reason == "class c: no positive case"


def test_multi_label_has_a_block_per_label_and_a_mean():
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 3)) < 0.3).astype(float)
    score = np.clip(0.3 * truth + 0.7 * rng.random((200, 3)), 0, 1)
    truth[:5, 1] = np.nan
    report = evaluate_classification(
        truth,
        score,
        attributes={"sex": rng.choice(["f", "m"], 200)},
        classes=["effusion", "mass", "nodule"],
        operating_point={"effusion": 0.4, "mass": 0.5, "nodule": 0.6},
        **FAST,
    )
    found = report.metrics()
    known = np.isfinite(truth[:, 1])
    assert found["test/mass/auc"] == pytest.approx(sk.roc_auc_score(truth[known, 1], score[known, 1]), abs=1e-9)
    assert found["test/nodule/sensitivity"] == pytest.approx(sk.recall_score(truth[:, 2], score[:, 2] >= 0.6), abs=1e-9)
    complete = [sk.roc_auc_score(truth[known, i], score[known, i]) for i in range(3)]
    assert found["test/auc"] == pytest.approx(np.mean(complete), abs=1e-9)
    row = report.subgroups.query("label == 'mass' and attribute == 'overall' and metric == 'auc'").iloc[0]
    assert row.n_failed == 5


def test_class_names_and_positive_class():
    y = np.array(["finding", "none", "finding", "none"])
    score = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    report = evaluate_classification(
        y, score, attributes={"g": list("abab")}, classes=["finding", "none"], positive_class="finding", **FAST
    )
    assert report.metrics()["test/auc"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_score": np.zeros(3)}, "y_score: expected 4 rows"),
        ({"y_true": [0, 1, 2, 1]}, r"y_true: \['2'\] are no class"),
        ({"y_true": ["a", "b", "class_0", "class_1"]}, "are no class"),
        ({"positive_class": "tumour"}, "positive_class: 'tumour'"),
        ({"metrics": ["auroc"]}, r"metrics: \['auroc'\] do not exist"),
        ({"classes": ["a", "b", "c"]}, "expected 1 column for 2 classes or 3 columns"),
        ({"patient_id": ["a"]}, "patient_id: expected 4 values"),
        ({"y_true": np.zeros((4, 2)), "y_score": np.zeros((4, 3))}, "shape of the multi-label"),
        ({"y_true": np.full((4, 2), 2.0), "y_score": np.zeros((4, 2))}, "must be 0, 1 or NaN"),
        (
            {"y_true": np.zeros((4, 2)), "y_score": np.zeros((4, 2)), "operating_point": {"class_0": 0.5}},
            r"operating_point: no threshold for \['class_1'\]",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(change, message):
    options = {"y_true": [0, 1, 0, 1], "y_score": [0.1, 0.2, 0.3, 0.4], "attributes": {"g": list("abab")}} | change
    with pytest.raises(ValueError, match=message):
        evaluate_classification(**options)
