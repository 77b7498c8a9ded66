"""What all post-processing methods have in common: unknown, absent and one-class groups, JSON, orders and names."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.mitigation.postprocess import POSTPROCESSORS, Postprocess, fit_postprocess
from tests.mitigation.scored import GROUPS, scored

NAMES = list(POSTPROCESSORS)


def fit(name: str, cases: pd.DataFrame, **options) -> Postprocess:
    return fit_postprocess(name, cases["score"], cases["label"], cases["group"], **options)


def outcome(fitted: Postprocess, cases: pd.DataFrame) -> np.ndarray:
    """Everything that changes for a case: its score and its threshold."""
    done = fitted.apply(cases["score"], cases["group"], ids=cases["case_id"])
    parts = [done.scores, done.pooled.astype(float)]
    return np.column_stack(parts if done.thresholds is None else [*parts, done.thresholds])


@pytest.mark.parametrize("name", NAMES)
def test_renamed_groups_change_nothing(name):
    cases, other = scored(), scored(seed=1)
    renamed = {"young": "zz", "middle": "b", "old": "a"}
    mine = outcome(fit(name, cases), other)
    again = outcome(
        fit(name, cases.assign(group=cases["group"].map(renamed))), other.assign(group=other["group"].map(renamed))
    )
    np.testing.assert_array_equal(mine, again)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_cases_changes_nothing(name):
    cases, other = scored(), scored(seed=1)
    mine = outcome(fit(name, cases), other)
    order = np.random.default_rng(0).permutation(len(cases))
    np.testing.assert_allclose(outcome(fit(name, cases.iloc[order]), other), mine, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(outcome(fit(name, cases), other.iloc[order]), mine[order])


@pytest.mark.parametrize("name", NAMES)
def test_json_round_trip(name):
    cases, other = scored(), scored(seed=1)
    fitted = fit(name, cases, seed=3)
    text = json.dumps(fitted.to_json(), allow_nan=False)
    again = Postprocess.from_json(json.loads(text))
    assert again.to_json() == fitted.to_json()
    np.testing.assert_array_equal(outcome(again, other), outcome(fitted, other))
    assert again.needs_attribute_at_inference is True


@pytest.mark.parametrize("name", NAMES)
def test_who_has_no_parameters_gets_the_pooled_ones(name):
    cases = scored()
    cases.loc[cases["group"] == "old", "label"] = 1
    cases["group"] = cases["group"].mask(cases.index % 10 == 0, None)
    part = fit(name, cases, declared=[*GROUPS, "oldest"]).parts[""]
    assert set(part.groups) == {"young", "middle"}
    assert part.reasons == {"old": "no negative case", "oldest": "no case"}
    assert part.cases["oldest"] == {"positives": 0, "negatives": 0}
    other = scored(seed=1)
    fitted = fit(name, cases, declared=[*GROUPS, "oldest"])
    found = {
        group: fitted.apply(other["score"], [group] * len(other), ids=other["case_id"])
        for group in ("old", "oldest", "never heard of", "unknown", None, float("nan"), "", "young")
    }
    young = found.pop("young")
    assert not young.pooled.any()
    first = found["old"]
    for done in found.values():
        assert done.pooled.all()
        np.testing.assert_array_equal(done.scores, first.scores)
        if first.thresholds is not None:
            np.testing.assert_array_equal(done.thresholds, first.thresholds)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_cases_count_for_the_pooled_parameters_only(name):
    cases = scored()
    extra = scored(200, seed=5).assign(group="unknown")
    alone, both = fit(name, cases).parts[""], fit(name, pd.concat([cases, extra])).parts[""]
    assert alone.groups == both.groups
    assert alone.pooled != both.pooled


@pytest.mark.parametrize("name", NAMES)
def test_nan_scores_are_left_out_of_the_fit_and_stay(name):
    cases = scored()
    broken = pd.concat([cases, cases.iloc[:50].assign(score=np.nan), cases.iloc[:5].assign(label=np.nan)])
    assert fit(name, broken).parts == fit(name, cases).parts
    done = fit(name, cases).apply([np.nan, 0.5], ["young", "young"], ids=["a", "b"])
    assert np.isnan(done.scores).tolist() == [True, False]


@pytest.mark.parametrize("name", NAMES)
def test_small_groups_are_pooled_with_the_number(name):
    cases = scored()
    few = cases[(cases["group"] != "old") | (cases["label"] == 0) | (cases.index < 20)]
    n = int(((few["group"] == "old") & (few["label"] == 1)).sum())
    assert 0 < n < 10
    assert fit(name, few).parts[""].reasons == {"old": f"{n} positive cases, fewer than 10"}
    assert "fewer" not in fit(name, few, options={"min_cases": n}).parts[""].reasons.get("old", "")


@pytest.mark.parametrize("name", NAMES)
def test_each_label_has_its_own_fit(name):
    first, second = scored(), scored(seed=1)
    scores = np.column_stack([first["score"], second["score"], first["score"]])
    labels = np.column_stack([first["label"], second["label"], np.zeros(len(first))]).astype(float)
    labels[:7, 0] = np.nan
    fitted = fit_postprocess(name, scores, labels, first["group"], classes=["a", "b", "never"])
    assert fitted.kind == "multi_label"
    assert fitted.parts["a"] == fit(name, first.iloc[7:]).parts[""]
    assert fitted.parts["never"].reasons == dict.fromkeys([*sorted(GROUPS), "(pooled)"], "no positive case")
    done = fitted.apply(scores, first["group"], ids=first["case_id"])
    assert done.scores.shape == done.pooled.shape == scores.shape
    np.testing.assert_allclose(done.scores[:, 2], scores[:, 2], rtol=1e-12)
    assert done.pooled.any(axis=0).tolist() == [False, False, True]
    if done.thresholds is not None:
        assert set(done.thresholds[:, 2]) == {0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "threshold_per_grup"}, "Did you mean 'threshold_per_group'"),
        ({"options": {"rul": 1}}, "did you mean 'rule'"),
        ({"options": {"rule": "f1"}}, "rule of threshold_per_group cannot be 'f1'"),
        ({"options": {"target": 1.0}}, "target must lie between 0 and 1"),
        ({"options": {"min_cases": 0}}, "min_cases must be at least 1"),
        ({"name": "equalised_odds", "options": {"grid_size": 0}}, "grid_size must be at least 1"),
        ({"labels": [0, 2, 1]}, r"expected 0 or 1, got \[2.0\]"),
        ({"labels": [1, 1, 1]}, "nothing can be fitted on these 3 cases: no negative case"),
        ({"groups": ["a"]}, "one per case, got 3, 3 and 1"),
        ({"scores": np.ones((3, 3)) / 3}, "for binary and multi_label problems, but this one is multi_class"),
        ({"scores": np.ones((3, 2)), "labels": np.ones((3, 3))}, r"the shape of the labels \(3, 3\)"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {"name": "threshold_per_group", "scores": [0.1, 0.2, 0.3], "labels": [0, 0, 1], "groups": ["a"] * 3}
    with pytest.raises(ValueError, match=message):
        fit_postprocess(**(given | change))


def test_bad_use_is_refused():
    cases = scored()
    fitted = fit("equalised_odds", cases)
    with pytest.raises(ValueError, match="expected 2 names, one per case, got 1"):
        fitted.apply([0.1, 0.2], ["young"], ids=["a", "b"])
    with pytest.raises(ValueError, match="needs an id for each of the 2 cases"):
        fitted.apply([0.1, 0.2], ["young", "old"])
    with pytest.raises(ValueError, match=r"expected 1 column\(s\) as in the fit"):
        fitted.apply(np.ones((2, 2)), ["young", "old"], ids=["a", "b"])
    with pytest.raises(ValueError, match="lacks seed, parts"):
        Postprocess.from_json({"name": "equalised_odds", "kind": "binary", "options": {}})


def test_fitting_and_applying_need_no_torch():
    code = (
        "import sys\nfrom fairmedfm_monai.mitigation.mitigated import mitigate_predictions\n"
        "from fairmedfm_monai.mitigation.postprocess import fit_postprocess\n"
        "fit_postprocess('threshold_per_group', [.1, .9], [0, 1], ['a', 'a'])\n"
        "assert not {'torch', 'monai', 'fairlearn', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
