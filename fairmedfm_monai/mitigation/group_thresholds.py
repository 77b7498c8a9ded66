"""Each group at its own operating point, all chosen by the same rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from fairmedfm_monai.fairness.predictions import threshold_at_specificity
from fairmedfm_monai.mitigation.options import Option
from fairmedfm_monai.mitigation.postprocess_rule import (
    MIN_CASES,
    BoolArray,
    FloatArray,
    IntArray,
    Parameters,
    Rule,
)


def threshold_at_sensitivity(y: BoolArray, score: FloatArray, *, sensitivity: float) -> float:
    """Highest threshold at which ``score >= threshold`` keeps the sensitivity.

    Args:
        y: (n,) whether a case is positive; at least one is.
        score: (n,) finite scores.
        sensitivity: the least share of positives at or above the threshold, above 0.
    """
    positive = np.sort(score[y])[::-1]
    needed = int(np.ceil(sensitivity * positive.size * (1 - 1e-12)))
    return float(positive[needed - 1])


class GroupThresholds(Rule):
    """A threshold per group at the same specificity (or sensitivity) on the cases it is fitted on."""

    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "rule": Option(
            "specificity",
            "what the groups have in common",
            {"specificity": "as the pooled operating point", "sensitivity": "equal opportunity"},
        ),
        "target": Option(0.90, "the least value of it, in (0, 1)"),
        "min_cases": MIN_CASES,
    }
    METRICS: ClassVar[tuple[str, ...]] = ("specificity", "sensitivity")
    UNCHANGED: ClassVar[Parameters] = {"threshold": 0.5}

    def check(self) -> None:
        """A share of 0 or 1 would give no threshold or that of a single case."""
        super().check()
        if not 0 < self.options["target"] < 1:
            msg = f"`mitigation_options`: target must lie between 0 and 1, but got {self.options['target']}"
            raise ValueError(msg)

    def fit(
        self, scores: FloatArray, labels: IntArray, groups: Mapping[str, BoolArray]
    ) -> tuple[Parameters, dict[str, Parameters], dict[str, str]]:
        """One threshold each."""
        own = {group: self._threshold(scores[rows], labels[rows]) for group, rows in groups.items()}
        return self._threshold(scores, labels), own, {}

    def _threshold(self, scores: FloatArray, labels: IntArray) -> Parameters:
        target = float(self.options["target"])
        if self.options["rule"] == "sensitivity":
            return {"threshold": threshold_at_sensitivity(labels == 1, scores, sensitivity=target)}
        return {"threshold": threshold_at_specificity(labels, scores, specificity=target)}

    def apply(
        self, scores: FloatArray, codes: IntArray, parameters: Sequence[Parameters], drawn: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """The scores stay, each case has the threshold of its group."""
        return scores, np.array([float(part["threshold"]) for part in parameters])[codes]

    def told(self, parameters: Parameters) -> str:
        """The threshold."""
        return f"{parameters['threshold']:.3f}"
