"""Mitigation after training: parameters per group, fitted on validation predictions and applied to any others.

Nothing is trained again. All of these methods need the group of a patient when the model is used; who has none, and
groups that could not be fitted, get the parameters of everyone together (``pooled``), and are counted.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.mitigation.options import chosen
from fairmedfm_monai.mitigation.postprocess_rule import Kind, Parameters, Rule, support

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

POSTPROCESSORS = {
    "threshold_per_group": (
        ".group_thresholds",
        "GroupThresholds",
        "each group has its own threshold, all at the same specificity or sensitivity",
    ),
    "temperature_per_group": (
        ".group_temperatures",
        "GroupTemperatures",
        "each group's probabilities are calibrated by one temperature (Guo et al. 2017)",
    ),
    "equalised_odds": (
        ".equalised_odds",
        "EqualisedOdds",
        "randomised thresholds with equal sensitivity and specificity in all groups (Hardt et al. 2016)",
    ),
}
"""Name -> module, class and meaning."""


@dataclass(frozen=True)
class Part:
    """What was fitted on one label (or on the whole binary or multi-class problem).

    Attributes:
        pooled: parameters of everyone together.
        groups: parameters of each group that has its own.
        reasons: why a group has none, and under ``pooled`` why the pooled ones are those of doing nothing.
        cases: cases that each group was fitted on; for 0/1 labels as ``{"positives": n, "negatives": n}``.
    """

    pooled: Parameters
    groups: Mapping[str, Parameters]
    reasons: Mapping[str, str]
    cases: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Processed:
    """Predictions after the method.

    Attributes:
        scores: (n,) or (n, C), as they were or as they are now; NaN stays NaN.
        thresholds: operating point of each case in the same shape, infinite where a case is called either way; None
            where the method leaves decisions to others.
        pooled: (n,), for several labels (n, C): cases that the pooled parameters were used for.
    """

    scores: FloatArray
    thresholds: FloatArray | None
    pooled: BoolArray


@dataclass(frozen=True)
class Postprocess:
    """A fitted method; :func:`fit_postprocess` makes one.

    Attributes:
        name: as in ``POSTPROCESSORS``.
        kind: ``binary``, ``multi_class`` or ``multi_label``.
        options: of the method.
        seed: of random decisions.
        parts: what was fitted, by label; the only one of a binary or multi-class problem is called "".
    """

    name: str
    kind: Kind
    options: Mapping[str, Any]
    seed: int
    parts: Mapping[str, Part]

    needs_attribute_at_inference: ClassVar[bool] = True

    @property
    def rule(self) -> Rule:
        """The method itself."""
        return _rule(self.name, self.options)

    def apply(self, scores: ArrayLike, groups: ArrayLike, *, ids: ArrayLike | None = None) -> Processed:
        """Process predictions; a case's result depends on its own score, group and id only.

        Args:
            scores: (n,) probability of the positive class, or (n, C), as in the fit.
            groups: (n,) group names; None, NaN, empty, ``unknown`` and names without a fit use the pooled parameters.
            ids: (n,) case ids; random decisions are drawn by them.

        Raises:
            ValueError: shapes that do not fit, or no ids where the method draws at random.
        """
        values, names = np.asarray(scores, dtype=np.float64), group_names(groups)
        wide = values if values.ndim > 1 else values[:, None]
        if self.kind == "multi_label" and wide.shape[1] != len(self.parts):
            msg = f"scores: expected {len(self.parts)} columns ({', '.join(self.parts)}), got shape {values.shape}"
            raise ValueError(msg)
        if len(names) != len(wide):
            msg = f"groups: expected {len(wide)} names, one per case, got {len(names)}"
            raise ValueError(msg)
        if self.rule.random and ids is None:
            msg = f"ids: {self.name} decides some cases at random, by their ids; give the case ids"
            raise ValueError(msg)
        columns = [wide] if self.kind == "multi_class" else list(wide.T)
        found = [
            self._apply(part, column, names, ids, label)
            for (label, part), column in zip(self.parts.items(), columns, strict=True)
        ]
        if self.kind != "multi_label":
            return found[0]
        thresholds = [part.thresholds for part in found if part.thresholds is not None]
        return Processed(
            np.column_stack([part.scores for part in found]),
            np.column_stack(thresholds) if thresholds else None,
            np.column_stack([part.pooled for part in found]),
        )

    def _apply(
        self, part: Part, scores: FloatArray, names: NDArray[np.object_], ids: ArrayLike | None, label: str
    ) -> Processed:
        fitted = list(part.groups)
        codes = pd.Index(fitted, dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
        # The pooled parameters stand last, so that code -1 finds them.
        parameters = [*part.groups.values(), part.pooled]
        drawn = Draws(self.seed, label, ids)
        new, thresholds = self.rule.apply(scores, codes, parameters, drawn)
        return Processed(new, thresholds, codes < 0)

    def to_json(self) -> dict[str, Any]:
        """Everything that :meth:`from_json` needs, as strict JSON."""
        parts = {
            label: {
                "pooled": dict(part.pooled),
                "groups": {group: dict(parameters) for group, parameters in part.groups.items()},
                "reasons": dict(part.reasons),
                "cases": {group: dict(cases) for group, cases in part.cases.items()},
            }
            for label, part in self.parts.items()
        }
        return {
            "name": self.name,
            "kind": self.kind,
            "options": dict(self.options),
            "seed": self.seed,
            "needs_attribute_at_inference": self.needs_attribute_at_inference,
            "parts": parts,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Postprocess:
        """The same object again; entries that :meth:`to_json` does not write are left alone.

        Raises:
            ValueError: an unknown method or option, or a missing entry.
        """
        missing = [key for key in ("name", "kind", "options", "seed", "parts") if key not in content]
        if missing:
            msg = f"post-processing: expected the JSON that `to_json` writes, but it lacks {', '.join(missing)}"
            raise ValueError(msg)
        _rule(content["name"], content["options"])
        parts = {label: Part(**part) for label, part in content["parts"].items()}
        return cls(content["name"], content["kind"], dict(content["options"]), int(content["seed"]), parts)
