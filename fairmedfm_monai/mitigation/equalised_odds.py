"""Equal sensitivity and specificity in all groups by randomised thresholds (Hardt et al. 2016, arXiv:1610.02413).

The optimisation is fairlearn's ``ThresholdOptimizer`` on finished scores. Its result is kept as a few numbers per
group, so that a fitted method is applied without fairlearn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.postprocess_rule import (
    MIN_CASES,
    POOLED,
    BoolArray,
    FloatArray,
    IntArray,
    Parameters,
    Rule,
)


class EqualisedOdds(Rule):
    """Each case gets one of its group's thresholds, drawn by its id.

    The parameters of a group are ``thresholds`` (K,), rising from minus to plus infinity, and ``cumulative`` (K,): a
    case with the drawn number u has the first threshold with ``u <= cumulative``. The share of draws that call a score
    positive is the probability that fairlearn gives it.
    """

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "objective": Option(
            "balanced_accuracy",
            "what is best among the points that all groups can reach",
            {"balanced_accuracy": "mean of sensitivity and specificity", "accuracy": "share of right decisions"},
        ),
        "grid_size": Option(1000, "steps of the false-positive rate"),
        "min_cases": MIN_CASES,
    }
    METRICS: ClassVar[tuple[str, ...]] = ("sensitivity", "specificity")
    UNCHANGED: ClassVar[Parameters] = {"thresholds": [0.5], "cumulative": [1.0]}
    RANDOM: ClassVar[bool] = True

    def check(self) -> None:
        """A grid needs a step."""
        super().check()
        if self.options["grid_size"] < 1:
            msg = f"`mitigation_options`: grid_size must be at least 1, but got {self.options['grid_size']}"
            raise ValueError(msg)

    def fit(
        self, scores: FloatArray, labels: IntArray, groups: Mapping[str, BoolArray]
    ) -> tuple[Parameters, dict[str, Parameters], dict[str, str]]:
        """The groups together; everyone as if there were one group."""
        everyone = np.full(labels.size, POOLED, dtype=object)
        pooled = self._optimum(scores, labels, everyone)[POOLED]
        if not groups:
            return pooled, {}, {}
        names = np.full(labels.size, None, dtype=object)
        for group, rows in groups.items():
            names[rows] = group
        member = np.asarray([name is not None for name in names])
        return pooled, self._optimum(scores[member], labels[member], names[member]), {}

    def _optimum(self, scores: FloatArray, labels: IntArray, names: NDArray[np.object_]) -> dict[str, Parameters]:
        optimizer = threshold_optimizer(
            objective=f"{self.options['objective']}_score", grid_size=self.options["grid_size"]
        )
        optimizer.fit(scores[:, None], labels, sensitive_features=names.astype(str))
        mixtures = optimizer.interpolated_thresholder_.interpolation_dict
        return {str(group): _parameters(mixture) for group, mixture in mixtures.items()}

    def apply(
        self, scores: FloatArray, codes: IntArray, parameters: Sequence[Parameters], drawn: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """The scores stay, each case has the threshold that was drawn for it."""
        width = max(len(part["thresholds"]) for part in parameters)
        thresholds, cumulative = np.full((len(parameters), width), np.inf), np.ones((len(parameters), width))
        for row, part in enumerate(parameters):
            thresholds[row, : len(part["thresholds"])] = [float(value) for value in part["thresholds"]]
            cumulative[row, : len(part["cumulative"])] = part["cumulative"]
        step = (np.asarray(drawn)[:, None] > cumulative[codes]).sum(axis=1)
        return scores, thresholds[codes, step]

    def told(self, parameters: Parameters) -> str:
        """The finite thresholds with their probabilities."""
        shares = np.diff([0.0, *parameters["cumulative"]])
        values = [float(value) for value in parameters["thresholds"]]
        names = {-np.inf: "always", np.inf: "never"}
        told = [f"{names.get(v, f'{v:.3f}')} (p {s:.2f})" for v, s in zip(values, shares, strict=True) if s > 0]
        return " or ".join(told)


def _parameters(mixture: Mapping[str, Any]) -> Parameters:
    """Fairlearn's mixture of two thresholds and a constant, as one rising list of thresholds."""
    parts = [(mixture["operation0"].threshold, mixture["p0"]), (mixture["operation1"].threshold, mixture["p1"])]
    (low, share), (high, _) = sorted(parts, key=lambda part: part[0])
    ignored, constant = float(mixture.get("p_ignore", 0.0)), float(mixture.get("prediction_constant", 0.0))
    kept = [0.0, float(share), float(mixture["p0"] + mixture["p1"])]
    # fairlearn calls `score > threshold` positive; here it is `>=` everywhere.
    thresholds = [-np.inf, *(np.nextafter(value, np.inf) if np.isfinite(value) else value for value in (low, high))]
    return {
        "thresholds": [_json(value) for value in [*thresholds, np.inf]],
        "cumulative": [*(ignored * constant + (1 - ignored) * part for part in kept), 1.0],
    }


def _json(value: float) -> float | str:
    """Strict JSON knows no infinity."""
    return float(value) if np.isfinite(value) else str(float(value))


def threshold_optimizer(*, objective: str, grid_size: int) -> Any:
    """Fairlearn's optimiser on scores (n, 1) that are there already.

    Raises:
        ModuleNotFoundError: fairlearn is not installed.
    """
    try:
        from fairlearn.postprocessing import ThresholdOptimizer
        from sklearn.base import BaseEstimator
    except ModuleNotFoundError as error:
        msg = "mitigation 'equalised_odds' needs fairlearn to be fitted: pip install fairlearn"
        raise ModuleNotFoundError(msg, name=error.name) from error

    class Scores(BaseEstimator):
        """The scores themselves as a fitted model."""

        def fit(self, X: FloatArray, y: IntArray) -> Scores:
            return self

        def decision_function(self, X: FloatArray) -> FloatArray:
            return np.asarray(X)[:, 0]

        def __sklearn_is_fitted__(self) -> bool:
            return True

    return ThresholdOptimizer(
        estimator=Scores(),
        constraints="equalized_odds",
        objective=objective,
        grid_size=grid_size,
        prefit=True,
        predict_method="decision_function",
    )
