from __future__ import annotations

import numpy as np
import pytest

from fairmedfm_monai.mitigation.group_thresholds import threshold_at_sensitivity
from fairmedfm_monai.mitigation.postprocess import fit_postprocess
from tests.mitigation.scored import scored

TENTHS = np.arange(1, 11) / 10


def by_hand(**options):
    """Group a: negatives 0.1 ... 1.0, positives 0.05 higher; group b: all of it halved."""
    scores = np.concatenate([TENTHS, TENTHS + 0.05, TENTHS / 2, TENTHS / 2 + 0.025])
    labels = np.tile(np.repeat([0, 1], 10), 2)
    groups = np.repeat(["a", "b"], 20)
    return fit_postprocess("threshold_per_group", scores, labels, groups, options=options)


def test_specificity_by_hand():
    """Of ten negatives one may be called: the lowest score above the second highest negative, 0.9."""
    part = by_hand().parts[""]
    assert part.groups == {"a": {"threshold": pytest.approx(0.95)}, "b": {"threshold": pytest.approx(0.475)}}
    # Of twenty negatives two may be called (1.0 and 0.9): the lowest score above 0.8.
    assert part.pooled == {"threshold": pytest.approx(0.85)}
    three_in_four = by_hand(target=0.7).parts[""]
    assert three_in_four.groups["a"]["threshold"] == pytest.approx(0.75)


def test_sensitivity_by_hand():
    """Of ten positives eight must be called: the eighth highest, 0.35."""
    part = by_hand(rule="sensitivity", target=0.8).parts[""]
    assert part.groups == {"a": {"threshold": pytest.approx(0.35)}, "b": {"threshold": pytest.approx(0.175)}}


@pytest.mark.parametrize("decimals", [6, 1])
@pytest.mark.parametrize("target", [0.5, 0.8, 0.95])
def test_sensitivity_is_kept_by_the_highest_such_threshold(decimals, target):
    rng = np.random.default_rng(0)
    y, score = rng.random(200) < 0.3, rng.random(200).round(decimals)
    point = threshold_at_sensitivity(y, score, sensitivity=target)
    enough = [t for t in np.unique(score) if (score[y] >= t).mean() >= target]
    assert point == max(enough)


@pytest.mark.parametrize(("rule", "label"), [("specificity", 0), ("sensitivity", 1)])
def test_gap_of_what_is_equalised_falls_on_val(rule, label):
    cases = scored(1200)
    fitted = fit_postprocess(
        "threshold_per_group", cases["score"], cases["label"], cases["group"], options={"rule": rule, "target": 0.8}
    )
    done = fitted.apply(cases["score"], cases["group"])
    right = ((cases["score"] >= done.thresholds) == cases["label"])[cases["label"] == label]
    pooled = ((cases["score"] >= fitted.parts[""].pooled["threshold"]) == cases["label"])[cases["label"] == label]
    groups = cases["group"][cases["label"] == label]
    after, before = right.groupby(groups).mean(), pooled.groupby(groups).mean()
    # No ties: every group is within one case of the target.
    assert ((after >= 0.8) & (after < 0.8 + 1 / groups.value_counts().loc[after.index])).all()
    assert before.max() - before.min() > 0.3
    np.testing.assert_array_equal(done.scores, cases["score"])
