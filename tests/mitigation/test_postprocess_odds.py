"""Equalised odds against fairlearn's own predictor."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from fairlearn.postprocessing import ThresholdOptimizer
from sklearn.base import BaseEstimator, ClassifierMixin

from fairmedfm_monai.mitigation import postprocess_fitted
from fairmedfm_monai.mitigation.postprocess import Postprocess, fit_postprocess
from tests.mitigation.scored import scored


class FirstColumn(ClassifierMixin, BaseEstimator):
    """A model whose score is its input."""

    def fit(self, X: pd.DataFrame, y: np.ndarray) -> FirstColumn:
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        p = np.asarray(X)[:, 0]
        return np.column_stack([1 - p, p])


def fairlearn_fit(cases: pd.DataFrame, objective: str) -> ThresholdOptimizer:
    model = FirstColumn().fit(cases[["score"]], cases["label"])
    optimizer = ThresholdOptimizer(
        estimator=model,
        constraints="equalized_odds",
        objective=f"{objective}_score",
        prefit=True,
        predict_method="predict_proba",
    )
    return optimizer.fit(cases[["score"]], cases["label"], sensitive_features=cases["group"])


def fit(cases: pd.DataFrame, **options) -> Postprocess:
    return fit_postprocess("equalised_odds", cases["score"], cases["label"], cases["group"], **options)


def chances(fitted: Postprocess, cases: pd.DataFrame) -> np.ndarray:
    """Probability of a positive decision: the share of draws whose threshold the score reaches."""
    part = fitted.parts[""]
    found = np.empty(len(cases))
    for row, (group, score) in enumerate(zip(cases["group"], cases["score"], strict=True)):
        parameters = part.groups.get(group, part.pooled)
        reached = [float(t) <= score for t in parameters["thresholds"]]
        shares = np.diff([0.0, *parameters["cumulative"]])
        found[row] = shares[reached].sum()
    return found


def gaps(called: pd.Series, cases: pd.DataFrame) -> np.ndarray:
    """Largest difference between groups of the share called positive, among negatives and among positives."""
    rates = called.groupby([cases["label"], cases["group"]]).mean().groupby("label")
    return (rates.max() - rates.min()).to_numpy()


@pytest.mark.parametrize("objective", ["balanced_accuracy", "accuracy"])
@pytest.mark.parametrize("decimals", [None, 1])
def test_chances_are_those_of_fairlearn(objective, decimals):
    cases, other = scored(decimals=decimals), scored(seed=1, decimals=decimals)
    theirs = fairlearn_fit(cases, objective)
    # Scores on fairlearn's own thresholds too, where `>` and `>=` differ.
    mixtures = theirs.interpolated_thresholder_.interpolation_dict.items()
    edges = [(group, mixture[f"operation{i}"].threshold) for group, mixture in mixtures for i in (0, 1)]
    other = pd.concat(
        [other, pd.DataFrame([edge for edge in edges if np.isfinite(edge[1])], columns=["group", "score"])]
    )
    expected = theirs._pmf_predict(other[["score"]], sensitive_features=other["group"])[:, 1]
    mine = chances(fit(cases, options={"objective": objective}), other)
    np.testing.assert_allclose(mine, expected, atol=1e-12)
    assert 0 < ((expected > 0) & (expected < 1)).mean() < 1


def test_decisions_are_those_of_fairlearn_with_its_draws(monkeypatch):
    cases, other = scored(), scored(seed=1)
    expected = fairlearn_fit(cases, "balanced_accuracy").predict(
        other[["score"]], sensitive_features=other["group"], random_state=7
    )
    draws = np.random.RandomState(7).rand(len(other))
    monkeypatch.setattr(postprocess_fitted, "uniform_by_id", lambda ids, **_: draws)
    done = fit(cases).apply(other["score"], other["group"], ids=other["case_id"])
    np.testing.assert_array_equal((other["score"] >= done.thresholds).astype(int), expected)


def test_pooled_parameters_are_those_of_one_group():
    cases = scored()
    one = cases.assign(group="everyone")
    expected = fairlearn_fit(one, "balanced_accuracy")._pmf_predict(cases[["score"]], sensitive_features=one["group"])[
        :, 1
    ]
    np.testing.assert_allclose(chances(fit(cases), cases.assign(group="unknown")), expected, atol=1e-12)


def test_expected_rates_are_equal_on_val():
    cases = scored(900)
    chance = pd.Series(chances(fit(cases), cases))
    np.testing.assert_allclose(gaps(chance, cases), 0, atol=1e-9)
    assert gaps(cases["score"] >= 0.5, cases).max() > 0.3


def test_draws_depend_on_id_and_seed_and_have_the_right_share():
    cases = scored()
    fitted = [fit(cases, seed=seed) for seed in range(60)]
    decisions = [
        cases["score"] >= f.apply(cases["score"], cases["group"], ids=cases["case_id"]).thresholds for f in fitted
    ]
    chance = chances(fitted[0], cases)
    share = np.mean(decisions, axis=0)
    np.testing.assert_array_equal(share[chance > 1 - 1e-12], 1.0)
    np.testing.assert_array_equal(share[chance < 1e-12], 0.0)
    middle = (chance > 0.2) & (chance < 0.8)
    # Independent draws: the mean over m cases and 60 seeds lies within 5 standard errors.
    error = np.sqrt((chance * (1 - chance))[middle].sum() / 60) / middle.sum()
    assert abs((share - chance)[middle].mean()) < 5 * error
    assert share[middle].min() > 0
    assert share[middle].max() < 1


def test_without_fairlearn_fitting_says_what_to_install_and_applying_works(monkeypatch):
    cases = scored()
    stored = fit(cases).to_json()
    monkeypatch.setitem(sys.modules, "fairlearn.postprocessing", None)
    with pytest.raises(ModuleNotFoundError, match="needs fairlearn to be fitted: pip install fairlearn"):
        fit(cases)
    done = Postprocess.from_json(stored).apply(cases["score"], cases["group"], ids=cases["case_id"])
    assert done.thresholds is not None
    assert not done.pooled.any()
