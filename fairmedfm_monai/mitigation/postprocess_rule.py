"""What a post-processing method has to know; fitting and applying it by group is the same for all of them."""

from __future__ import annotations

import difflib
import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.mitigation.options import Option

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Kind = Literal["binary", "multi_class", "multi_label"]
Parameters = Mapping[str, Any]
"""Of one group, as JSON."""

MIN_CASES = Option(10, "fewest positives and negatives (several classes: cases) of a group for parameters of its own")
POOLED = "(pooled)"
"""Stands for everyone together where group names stand; no group can be called so."""

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


class Rule(ABC):
    """One method, on the cases of one label.

    Args:
        options: all of ``OPTIONS`` with their values.
    """

    OPTIONS: ClassVar[Mapping[str, Option]]
    KINDS: ClassVar[tuple[Kind, ...]] = ("binary", "multi_label")
    METRICS: ClassVar[tuple[str, ...]]
    """Whose gaps it is meant to change."""
    UNCHANGED: ClassVar[Parameters]
    """Parameters of a label that nothing can be fitted on."""
    RANDOM: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.check()

    def check(self) -> None:
        """Refuse options that are out of range (``ValueError``)."""
        if self.options["min_cases"] < 1:
            msg = f"`mitigation_options`: min_cases must be at least 1, but got {self.options['min_cases']}"
            raise ValueError(msg)

    @abstractmethod
    def fit(
        self, scores: FloatArray, labels: IntArray, groups: Mapping[str, BoolArray]
    ) -> tuple[Parameters, dict[str, Parameters], dict[str, str]]:
        """Fit everyone together and each group.

        Args:
            scores: (n,) or, of several classes, (n, C); finite.
            labels: (n,) class index; both (or at least two) classes occur.
            groups: members (n,) of each group that can be fitted.

        Returns:
            Pooled parameters, those of the groups, and why a group (or ``pooled``) has none after all.
        """

    @abstractmethod
    def apply(
        self, scores: FloatArray, codes: IntArray, parameters: Sequence[Parameters], drawn: FloatArray | None
    ) -> tuple[FloatArray, FloatArray | None]:
        """Scores as they become, and each case's operating point where the method sets it.

        Args:
            scores: (n,) or (n, C).
            codes: (n,) position in ``parameters``; -1 is the last.
            parameters: of the groups, then the pooled ones.
            drawn: (n,) in [0, 1), for methods that decide at random.
        """

    @abstractmethod
    def told(self, parameters: Parameters) -> str:
        """Parameters for people."""


def group_names(groups: ArrayLike) -> NDArray[np.object_]:
    """Names (n,) of groups; None, NaN and empty become ``unknown``."""
    column = pd.Series(np.asarray(groups, dtype=object), dtype=object)
    return column.where(column.notna() & (column != ""), UNKNOWN).map(str).to_numpy(dtype=object)


def uniform_by_id(ids: ArrayLike, *, seed: int, label: str) -> FloatArray:
    """Numbers (n,) in [0, 1) that depend on the case's id, the seed and the label only."""
    texts = [f"{seed}\x1f{label}\x1f{case}".encode() for case in np.asarray(ids, dtype=object)]
    whole = [int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 11 for text in texts]
    return np.array(whole, dtype=np.float64) * 2.0**-53


def too_few(labels: IntArray, *, kind: Kind, least: int) -> str:
    """Why these cases cannot be fitted on; empty when they can.

    Args:
        labels: (n,) class index.
        kind: of several classes, at least two must occur; of two, both.
        least: cases needed, of each of two classes or of several together.
    """
    if labels.size == 0:
        return "no case"
    if kind == "multi_class":
        if np.unique(labels).size < 2:
            return "one class only"
        return f"{labels.size} cases, fewer than {least}" if labels.size < least else ""
    for name, n in (("positive", int(np.count_nonzero(labels))), ("negative", int(np.count_nonzero(labels == 0)))):
        if n == 0:
            return f"no {name} case"
        if n < least:
            return f"{n} {name} case{'s' if n > 1 else ''}, fewer than {least}"
    return ""


def counted(labels: IntArray, kind: Kind) -> dict[str, int]:
    """How many cases there are of what a fit needs."""
    if kind == "multi_class":
        return {"cases": labels.size}
    return {"positives": int(np.count_nonzero(labels)), "negatives": int(np.count_nonzero(labels == 0))}


def rule_class(name: str) -> type[Rule]:
    """The method of a name.

    Raises:
        ValueError: there is none; lists those that there are with their meaning.
    """
    if name not in POSTPROCESSORS:
        near = difflib.get_close_matches(str(name), POSTPROCESSORS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        listed = "; ".join(f"{key} ({meaning})" for key, (_, _, meaning) in POSTPROCESSORS.items())
        msg = (
            f"`mitigation` after training must be one of the methods below, but got {name!r}.{hint} Methods: {listed}. "
            "Methods of training are for `--mitigation` of a bundle's train.json"
        )
        raise ValueError(msg)
    module, kind, _ = POSTPROCESSORS[name]
    found: type[Rule] = getattr(importlib.import_module(module, __package__), kind)
    return found
