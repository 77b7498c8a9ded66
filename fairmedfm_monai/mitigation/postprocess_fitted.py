"""A fitted post-processing method: its parameters, what it does to predictions, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.mitigation.options import chosen
from fairmedfm_monai.mitigation.postprocess_rule import (
    POOLED,
    BoolArray,
    FloatArray,
    Kind,
    Parameters,
    Rule,
    group_names,
    rule_class,
    uniform_by_id,
)

Names = NDArray[np.object_]


@dataclass(frozen=True)
class Part:
    """What was fitted on one label (or on the whole binary or multi-class problem).

    Attributes:
        pooled: parameters of everyone together.
        groups: parameters of each group that has its own.
        reasons: why a group has none, and under ``pooled`` why the pooled ones change nothing.
        cases: cases of each group (and ``pooled``) that were there for the fit: ``positives`` and ``negatives``, of
            several classes ``cases``.
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
        return rule_class(self.name)(self.options)

    def apply(self, scores: ArrayLike, groups: ArrayLike, *, ids: ArrayLike | None = None) -> Processed:
        """Process predictions; a case's result depends on its own score, group and id only.

        Args:
            scores: (n,) score of the positive class, or (n, C), as in the fit.
            groups: (n,) group names; None, NaN, empty, ``unknown`` and names without a fit use the pooled parameters.
            ids: (n,) case ids, for methods that draw: the same id always draws the same.

        Raises:
            ValueError: shapes that do not fit, or no ids where the method draws.
        """
        values, names = np.asarray(scores, dtype=np.float64), group_names(groups)
        wide = values if values.ndim > 1 else values[:, None]
        columns = [wide] if self.kind == "multi_class" else list(wide.T)
        self._check(wide, columns, names, ids)
        found = [self._apply(label, column, names, ids) for label, column in zip(self.parts, columns, strict=True)]
        return found[0] if self.kind != "multi_label" else _side_by_side(found)

    def _check(self, wide: FloatArray, columns: Sequence[FloatArray], names: Names, ids: ArrayLike | None) -> None:
        if len(columns) != len(self.parts):
            msg = f"scores: expected {len(self.parts)} column(s) as in the fit, got shape {wide.shape}"
            raise ValueError(msg)
        if len(names) != len(wide):
            msg = f"groups: expected {len(wide)} names, one per case, got {len(names)}"
            raise ValueError(msg)
        if self.rule.RANDOM and (ids is None or len(np.asarray(ids, dtype=object)) != len(wide)):
            msg = f"ids: {self.name} draws by case id, so it needs an id for each of the {len(wide)} cases"
            raise ValueError(msg)

    def _apply(self, label: str, scores: FloatArray, names: Names, ids: ArrayLike | None) -> Processed:
        part, rule = self.parts[label], self.rule
        codes = pd.Index(list(part.groups), dtype=object).get_indexer(pd.Index(names, dtype=object)).astype(np.int64)
        drawn = uniform_by_id(ids, seed=self.seed, label=label) if rule.RANDOM and ids is not None else None
        # The pooled parameters stand last: code -1 finds them.
        new, thresholds = rule.apply(scores, codes, [*part.groups.values(), part.pooled], drawn)
        return Processed(new, thresholds, codes < 0)

    def told(self) -> str:
        """The parameters in one line for people."""
        lines = []
        for label, part in self.parts.items():
            values = {**part.groups, POOLED: part.pooled}
            text = ", ".join(f"{group} {self.rule.told(parameters)}" for group, parameters in values.items())
            lines.append(f"{label}: {text}" if label else text)
        return "; ".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything that :meth:`from_json` needs, as strict JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "options": dict(self.options),
            "seed": self.seed,
            "needs_attribute_at_inference": self.needs_attribute_at_inference,
            "parts": {label: asdict(part) for label, part in self.parts.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Postprocess:
        """The same object again; entries that :meth:`to_json` does not write are left alone.

        Raises:
            ValueError: an unknown method or option, or a missing entry.
        """
        missing = [key for key in ("name", "kind", "options", "seed", "parts") if key not in content]
        if missing:
            msg = f"post-processing: expected what `to_json` writes, but it lacks {', '.join(missing)}"
            raise ValueError(msg)
        options = chosen(content["name"], rule_class(content["name"]).OPTIONS, content["options"])
        parts = {label: Part(**part) for label, part in content["parts"].items()}
        return cls(content["name"], content["kind"], options, int(content["seed"]), parts)


def _side_by_side(found: Sequence[Processed]) -> Processed:
    thresholds = [part.thresholds for part in found if part.thresholds is not None]
    return Processed(
        np.column_stack([part.scores for part in found]),
        np.column_stack(thresholds) if thresholds else None,
        np.column_stack([part.pooled for part in found]),
    )
