from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special
from sklearn.metrics import log_loss, roc_auc_score

from fairmedfm_monai.mitigation.group_temperatures import logits, optimal_temperature
from fairmedfm_monai.mitigation.postprocess import fit_postprocess
from tests.mitigation.scored import scored


def reference(scores: np.ndarray, labels: np.ndarray) -> float:
    """Temperature by a general minimiser of scikit-learn's cross-entropy."""

    def loss(log_temperature: float) -> float:
        if scores.ndim == 1:
            return log_loss(labels, special.expit(special.logit(scores) / np.exp(log_temperature)), labels=[0, 1])
        scaled = special.softmax(np.log(scores) / np.exp(log_temperature), axis=1)
        return log_loss(labels, scaled, labels=range(scores.shape[1]))

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}).x))


def multi_class(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, n)
    group = rng.choice(["a", "b"], n)
    z = rng.standard_normal((n, 4)) + 1.2 * np.eye(4)[label]
    return special.softmax(z * np.where(group == "a", 3.0, 0.4)[:, None], axis=1), label, group


def test_binary_optimum_is_that_of_scipy():
    cases = scored()
    part = fit_postprocess("temperature_per_group", cases["score"], cases["label"], cases["group"]).parts[""]
    for group, rows in cases.groupby("group"):
        expected = reference(rows["score"].to_numpy(), rows["label"].to_numpy())
        assert part.groups[group]["temperature"] == pytest.approx(expected, rel=1e-5)
    expected = reference(cases["score"].to_numpy(), cases["label"].to_numpy())
    assert part.pooled["temperature"] == pytest.approx(expected, rel=1e-5)


def test_multi_class_optimum_is_that_of_scipy_and_the_top_class_stays():
    scores, labels, groups = multi_class()
    fitted = fit_postprocess("temperature_per_group", scores, labels, groups)
    assert fitted.kind == "multi_class"
    done = fitted.apply(scores, groups)
    for group in ("a", "b"):
        rows = groups == group
        expected = reference(scores[rows], labels[rows])
        assert fitted.parts[""].groups[group]["temperature"] == pytest.approx(expected, rel=1e-5)
        assert log_loss(labels[rows], done.scores[rows]) < log_loss(labels[rows], scores[rows])
    np.testing.assert_array_equal(done.scores.argmax(axis=1), scores.argmax(axis=1))
    np.testing.assert_allclose(done.scores.sum(axis=1), 1.0, rtol=1e-12)
    assert done.thresholds is None


def test_scaled_logits_scale_the_temperature():
    scores, labels, _ = multi_class()
    z = np.log(scores)
    assert optimal_temperature(3 * z, labels) == pytest.approx(3 * optimal_temperature(z, labels), rel=1e-9)
    # A constant per case is no information.
    assert optimal_temperature(z + np.arange(len(z))[:, None], labels) == pytest.approx(
        optimal_temperature(z, labels), rel=1e-9
    )


def test_loss_of_every_group_falls_on_val_and_ranks_within_groups_stay():
    cases = scored()
    fitted = fit_postprocess("temperature_per_group", cases["score"], cases["label"], cases["group"])
    done = fitted.apply(cases["score"], cases["group"])
    for _, rows in cases.groupby("group"):
        new = done.scores[rows.index]
        assert log_loss(rows["label"], new) < log_loss(rows["label"], rows["score"])
        assert roc_auc_score(rows["label"], new) == pytest.approx(
            roc_auc_score(rows["label"], rows["score"]), abs=1e-12
        )


def test_separable_and_inverted_groups_have_no_temperature():
    cases = scored()
    cases.loc[cases["group"] == "old", "score"] = np.where(cases["label"] == 1, 0.9, 0.1)[cases["group"] == "old"]
    young = cases["group"] == "young"
    cases.loc[young, "score"] = 1 - cases.loc[young, "score"]
    part = fit_postprocess("temperature_per_group", cases["score"], cases["label"], cases["group"]).parts[""]
    assert part.reasons == dict.fromkeys(["old", "young"], "no temperature between 0.01 and 100 is best")
    assert list(part.groups) == ["middle"]
    old = cases[cases["group"] == "old"]
    alone = fit_postprocess("temperature_per_group", old["score"], old["label"], old["group"])
    assert alone.parts[""].pooled == {"temperature": 1.0}
    assert "(pooled)" in alone.parts[""].reasons
    np.testing.assert_allclose(alone.apply(old["score"], old["group"]).scores, old["score"], rtol=1e-12)


def test_zeros_and_ones_are_finite():
    cases = scored().assign(score=lambda table: table["score"].round(1))
    assert {0.0, 1.0} <= set(cases["score"])
    fitted = fit_postprocess("temperature_per_group", cases["score"], cases["label"], cases["group"])
    assert np.isfinite(fitted.apply(cases["score"], cases["group"]).scores).all()
    assert logits(np.array([0.0, 1.0])).tolist() == [[0.0, -100.0], [-100.0, 0.0]]


def test_scores_must_be_probabilities():
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\], got -2 to 3; give the sigmoid or softmax"):
        fit_postprocess("temperature_per_group", [-2.0, 3.0], [0, 1], ["a", "a"])
