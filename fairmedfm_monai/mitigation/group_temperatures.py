"""Probabilities calibrated by one temperature per group (Guo et al., ICML 2017, arXiv:1706.04599)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from scipy import special

from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.postprocess_rule import (
    MIN_CASES,
    POOLED,
    BoolArray,
    FloatArray,
    IntArray,
    Kind,
    Parameters,
    Rule,
)

RANGE = (0.01, 100.0)
"""Temperatures that are looked at. An optimum beyond means that there is none: classes that scores separate want 0,
scores that rank no better than chance want infinity."""
LOG_FLOOR = -100.0
"""Least logarithm of a probability, as in the cross-entropy of the evaluation."""
NO_OPTIMUM = f"no temperature between {RANGE[0]} and {RANGE[1]:.0f} is best"


def logits(probabilities: FloatArray) -> FloatArray:
    """Logits (n, C) up to a constant per case.

    Args:
        probabilities: (n,) of the positive class, which gives C = 2, or (n, C). NaN stays NaN.

    Raises:
        ValueError: values outside [0, 1].
    """
    finite = probabilities[np.isfinite(probabilities)]
    if finite.size and not (finite.min() >= 0 and finite.max() <= 1):
        msg = (
            f"scores: temperature_per_group needs probabilities in [0, 1], got {finite.min():.4g} to "
            f"{finite.max():.4g}; give the sigmoid or softmax of logits"
        )
        raise ValueError(msg)
    with np.errstate(divide="ignore", invalid="ignore"):
        if probabilities.ndim == 1:
            found = np.column_stack([np.log1p(-probabilities), np.log(probabilities)])
        else:
            found = np.log(probabilities)
    return np.maximum(found, LOG_FLOOR)


def optimal_temperature(z: FloatArray, labels: IntArray) -> float:
    """Temperature T that minimises the cross-entropy of ``softmax(z / T)``; NaN where ``RANGE`` holds none.

    The cross-entropy is convex in 1/T, so the one root of its derivative is the minimum.

    Args:
        z: (n, C) logits.
        labels: (n,) class index.
    """
    from scipy.optimize import brentq

    right = z[np.arange(len(z)), labels]

    def slope(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(((special.softmax(z * inverse, axis=1) * z).sum(axis=1) - right).mean())

    low, high = np.log(RANGE[0]), np.log(RANGE[1])
    if not (slope(low) > 0 > slope(high)):
        return float("nan")
    return float(np.exp(brentq(slope, low, high, xtol=1e-12, rtol=1e-14)))


class GroupTemperatures(Rule):
    """A temperature per group; ranks within a group stay, the most likely class stays."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {"min_cases": MIN_CASES}
    KINDS: ClassVar[tuple[Kind, ...]] = ("binary", "multi_class", "multi_label")
    METRICS: ClassVar[tuple[str, ...]] = ("ece", "bce")
    UNCHANGED: ClassVar[Parameters] = {"temperature": 1.0}

    def fit(
        self, scores: FloatArray, labels: IntArray, groups: Mapping[str, BoolArray]
    ) -> tuple[Parameters, dict[str, Parameters], dict[str, str]]:
        """One temperature each; a group without an optimum takes the pooled one, everyone without one stays as is."""
        z = logits(scores)
        best = {group: optimal_temperature(z[rows], labels[rows]) for group, rows in groups.items()}
        best[POOLED] = optimal_temperature(z, labels)
        reasons = {name: NO_OPTIMUM for name, value in best.items() if np.isnan(value)}
        found = {name: {"temperature": value} for name, value in best.items() if name not in reasons}
        return found.pop(POOLED, self.UNCHANGED), dict(found), reasons

    def apply(
        self, scores: FloatArray, codes: IntArray, parameters: Sequence[Parameters], drawn: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Probabilities at each case's temperature; decisions are left to the evaluation."""
        z = logits(scores) / np.array([float(part["temperature"]) for part in parameters])[codes][:, None]
        return (special.expit(z[:, 1] - z[:, 0]) if scores.ndim == 1 else special.softmax(z, axis=1)), None

    def told(self, parameters: Parameters) -> str:
        """The temperature."""
        return f"T {parameters['temperature']:.3f}"
