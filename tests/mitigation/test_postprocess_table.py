"""Post-processing of whole tables of predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import evaluate_predictions, read_predictions, write_predictions
from fairmedfm_monai.mitigation.mitigated import mitigate_predictions
from fairmedfm_monai.mitigation.postprocess import POSTPROCESSORS, Postprocess, fit_postprocess
from tests.mitigation.scored import scored, table_of


@pytest.fixture(scope="module")
def table():
    return table_of(scored(1200))


def test_thresholds_come_from_val_and_go_to_every_split(table):
    cases, meta = table
    new, described = mitigate_predictions(cases, meta, "threshold_per_group", attributes=["age"])
    val = cases[cases["split"] == "val"]
    fitted = fit_postprocess("threshold_per_group", val["score"], val["label"], val["age"])
    expected = cases["age"].map({group: part["threshold"] for group, part in fitted.parts[""].groups.items()})
    pd.testing.assert_series_equal(new["threshold"], expected, check_names=False)
    assert described["threshold_columns"] == ["threshold"]
    pd.testing.assert_frame_equal(new.drop(columns="threshold"), cases)
    assert Postprocess.from_json(described["mitigation"]).parts[""].groups == fitted.parts[""].groups


@pytest.mark.parametrize("name", POSTPROCESSORS)
def test_test_labels_are_not_looked_at(table, name):
    cases, meta = table
    flipped = cases.assign(label=cases["label"].where(cases["split"] == "val", 1 - cases["label"]))
    mine, theirs = (mitigate_predictions(part, meta, name, attributes=["age"])[0] for part in (cases, flipped))
    pd.testing.assert_frame_equal(mine.drop(columns="label"), theirs.drop(columns="label"))


def test_gaps_fall_where_they_should(table):
    cases, meta = table
    before = evaluate_predictions(cases, meta, n_bootstrap=0).metrics()
    for name, metric in [
        ("threshold_per_group", "specificity"),
        ("equalised_odds", "sensitivity"),
        ("temperature_per_group", "bce"),
    ]:
        after = evaluate_predictions(
            *mitigate_predictions(cases, meta, name, attributes=["age"]), n_bootstrap=0
        ).metrics()
        assert after[f"val/age/disparity/gap/{metric}"] < before[f"val/age/disparity/gap/{metric}"]
        if name != "temperature_per_group":
            assert after["test/auc"] == before["test/auc"]
    assert before["val/age/disparity/gap/sensitivity"] > 0.3


def test_positive_class_may_be_the_first(table):
    cases, meta = table
    swapped = meta | {"classes": ["yes", "no"]}
    named = cases.assign(label=np.where(cases["label"] == 1, "yes", "no"))
    mine, _ = mitigate_predictions(cases, meta, "threshold_per_group")
    theirs, _ = mitigate_predictions(named, swapped, "threshold_per_group")
    np.testing.assert_array_equal(mine["threshold"], theirs["threshold"])


def test_what_a_reader_must_know_is_said(table):
    cases, meta = table
    told = cases.assign(
        age=cases["age"].mask(cases.index % 4 == 0, "unknown"),
        failed=np.where(cases.index < 3, "truncated", ""),
        score=cases["score"].mask(cases.index < 3),
    )
    old = told["age"] == "old"
    told = told[~old | (told["split"] == "test")]
    new, described = mitigate_predictions(told, meta, "equalised_odds", attributes=["age"], seed=4)
    about = described["mitigation"]
    usable = told[told["failed"] == ""]
    pooled = usable[usable["age"].isin(["unknown", "old"])]
    for split, part in usable.groupby("split"):
        counts = pooled[pooled["split"] == split]["age"].value_counts().to_dict()
        assert about["pooled_cases"][split] == {"cases": len(part), "pooled": sum(counts.values()), "groups": counts}
    assert about["needs_attribute_at_inference"] is True
    assert about["fitted_on"] == "val"
    report = evaluate_predictions(new, described, n_bootstrap=0)
    banner = next(note for note in report.notes if note.startswith("Needs age at inference"))
    assert "mitigated after training by equalised_odds" in banner
    assert "must be told the age of each patient" in banner
    n = about["pooled_cases"]["test"]
    assert f"{n['pooled']} of {n['cases']} test cases (old {n['groups']['old']}, unknown" in banner
    notes = " ".join(report.notes)
    assert "not fitted anew for intervals" in notes
    assert "pooled parameters for old (no case)" in notes
    assert "by its id and seed 4" in notes
    assert report.settings["mitigation"].startswith("equalised_odds by age (objective balanced_accuracy")


def test_groups_fitted_on_few_cases_are_named(table):
    cases, meta = table
    few = cases[(cases["age"] != "old") | (cases["split"] == "test") | (cases.index < 90)]
    n = few[(few["age"] == "old") & (few["split"] == "val")]["label"].value_counts()
    assert 10 <= n.min() < 20
    _, described = mitigate_predictions(few, meta, "threshold_per_group")
    assert any("parameters of old come from fewer than 20" in note for note in described["mitigation"]["notes"])


def test_attributes_are_crossed(table):
    cases, meta = table
    new, described = mitigate_predictions(cases, meta, "threshold_per_group", attributes=["age", "sex"])
    assert len(described["mitigation"]["parts"][""]["groups"]) == 6
    assert new.groupby(["age", "sex"])["threshold"].nunique().eq(1).all()
    assert described["intersections"] == [["age", "sex"]]
    report = evaluate_predictions(new, described, n_bootstrap=0)
    assert "age__sex" in set(report.disparities["attribute"])


def test_several_classes_and_labels(table):
    cases, meta = table
    rng = np.random.default_rng(9)
    classes = ["a", "b", "c"]
    label = rng.integers(0, 3, len(cases))
    z = rng.standard_normal((len(cases), 3)) + np.eye(3)[label]
    score = np.exp(z * np.where(cases["age"] == "old", 3, 1)[:, None])
    score /= score.sum(axis=1, keepdims=True)
    scores = {f"score_{name}": score[:, i] for i, name in enumerate(classes)}
    wide = cases.drop(columns="score").assign(label=label, **scores)
    marked = meta | {"classes": classes, "positive_class": None}
    new, described = mitigate_predictions(wide, marked, "temperature_per_group")
    assert "threshold_columns" not in described
    before, after = (
        evaluate_predictions(*part, n_bootstrap=0).metrics() for part in [(wide, marked), (new, described)]
    )
    assert after["val/bce"] < before["val/bce"]
    assert after["test/accuracy"] == before["test/accuracy"]
    with pytest.raises(ValueError, match="for binary and multi_label problems, but this one is multi_class"):
        mitigate_predictions(wide, marked, "threshold_per_group")
    labels = {f"label_{name}": (label == i).astype(int) for i, name in enumerate(classes)}
    several = wide.drop(columns="label").assign(**labels)
    new, described = mitigate_predictions(several, marked | {"multi_label": True}, "threshold_per_group")
    assert described["threshold_columns"] == ["threshold_a", "threshold_b", "threshold_c"]
    found = evaluate_predictions(new, described, n_bootstrap=0).metrics()
    assert all(found[f"val/b/age/group/{group}/specificity"] >= 0.9 for group in ("young", "middle", "old"))


def test_file_round_trip_gives_the_same_report(table, tmp_path):
    new, described = mitigate_predictions(*table, "equalised_odds")
    again = read_predictions(write_predictions(new, described, tmp_path / "predictions.parquet"))
    mine, theirs = evaluate_predictions(new, described, n_bootstrap=0), evaluate_predictions(*again, n_bootstrap=0)
    pd.testing.assert_frame_equal(mine.subgroups, theirs.subgroups)
    assert mine.notes == theirs.notes
    with pytest.raises(ValueError, match=r"mitigated already \(equalised_odds\)"):
        mitigate_predictions(*again, "threshold_per_group")


@pytest.mark.parametrize(
    ("table_change", "meta_change", "options", "message"),
    [
        ({}, {"task": "segmentation"}, {}, "for classification, but these are predictions of a segmentation"),
        ({"split": "test"}, {}, {}, "fitted on the split 'val', but the table has test"),
        ({}, {}, {"attributes": ["race"]}, r"expected some of age, sex, each once, got \['race'\]"),
        ({}, {}, {"attributes": ["sex", "sex"]}, "each once"),
        ({}, {"attributes": {}}, {}, "expected some of none"),
        ({"threshold": 0.5}, {}, {}, r"column\(s\) \['threshold'\] are there already"),
        ({"failed": "broken"}, {}, {}, "nothing can be fitted on these 0 cases"),
    ],
)
def test_tables_that_will_not_do(table, table_change, meta_change, options, message):
    cases, meta = table
    with pytest.raises(ValueError, match=message):
        mitigate_predictions(cases.assign(**table_change), meta | meta_change, "threshold_per_group", **options)
