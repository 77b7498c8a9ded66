"""Who belongs to which group: attributes, intersections and patients as integer codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fairmedfm_monai.fairness.report import ALL, OVERALL, UNKNOWN

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Grouping:
    """One attribute (or intersection) of all cases.

    Attributes:
        name: attribute, e.g. ``sex`` or ``sex__age``.
        groups: group names in their declared order, without ``unknown``.
        codes: (n,) index into ``groups``; -1 where the group is not known.
    """

    name: str
    groups: tuple[str, ...]
    codes: IntArray

    def subset(self, rows: IntArray) -> Grouping:
        """The same grouping of some rows only."""
        return Grouping(self.name, self.groups, self.codes[rows])


def overall(n: int) -> Grouping:
    """Everyone in one group."""
    return Grouping(OVERALL, (ALL,), np.zeros(n, dtype=np.int64))


def make_groupings(
    attributes: pd.DataFrame | Mapping[str, ArrayLike],
    *,
    n: int,
    groups: Mapping[str, Sequence[str]] | None = None,
    intersections: Sequence[Sequence[str]] = (),
) -> list[Grouping]:
    """Code every attribute, then every intersection of attributes.

    Args:
        attributes: one column (n,) of group names per attribute; None, NaN, empty text and ``unknown`` all mean that
            the group is not known.
        n: number of cases.
        groups: declared groups per attribute, in display order; a declared group without a case is kept. Attributes
            without a declaration have the groups that occur, sorted.
        intersections: attribute names to cross, e.g. ``[["sex", "age"]]`` gives ``sex__age`` with ``female__ge60``.

    Raises:
        ValueError: on a column of wrong length, a value outside the declared groups, a declared attribute without a
            column or a reserved name.
    """
    table = {str(name): _column(attributes, name, n) for name in attributes}
    declared = {name: tuple(map(str, values)) for name, values in (groups or {}).items()}
    missing = sorted(set(declared) - set(table))
    if missing:
        msg = f"attributes: no column for the declared attribute(s) {missing}; found {sorted(table)}"
        raise ValueError(msg)
    groupings = {name: _code(name, values, declared.get(name)) for name, values in table.items()}
    crossed = [_cross([_pick(groupings, name) for name in names]) for names in intersections]
    return [*groupings.values(), *crossed]


def _column(attributes: pd.DataFrame | Mapping[str, ArrayLike], name: object, n: int) -> NDArray[np.object_]:
    values = np.asarray(attributes[name], dtype=object)  # type: ignore[index]
    if values.shape != (n,):
        msg = f"attributes[{name!r}]: expected {n} values, one per case, got shape {values.shape}"
        raise ValueError(msg)
    if str(name) == OVERALL:
        msg = f"attributes: the name {OVERALL!r} is reserved for the rows about everyone; rename the column"
        raise ValueError(msg)
    return values


def _code(name: str, values: NDArray[np.object_], declared: tuple[str, ...] | None) -> Grouping:
    codes, seen = pd.factorize(values, use_na_sentinel=True)
    names = [str(value) for value in seen]
    known = sorted({value for value in names if value not in {"", UNKNOWN}})
    order = declared if declared is not None else tuple(known)
    order = tuple(group for group in order if group != UNKNOWN)
    stray = sorted(set(known) - set(order))
    if stray:
        msg = (
            f"attributes[{name!r}]: {stray[:10]} not among the declared groups {list(order)}; map the raw values to "
            f"these groups or to {UNKNOWN!r}"
        )
        raise ValueError(msg)
    position = {group: index for index, group in enumerate(order)}
    lookup = np.array([*(position.get(value, -1) for value in names), -1], dtype=np.int64)
    return Grouping(name, order, lookup[codes])


def _pick(groupings: Mapping[str, Grouping], name: str) -> Grouping:
    if name not in groupings:
        msg = f"intersections: {name!r} is not an attribute; choose from {sorted(groupings)}"
        raise ValueError(msg)
    return groupings[name]


def _cross(parts: Sequence[Grouping]) -> Grouping:
    if len(parts) < 2:
        msg = f"intersections: expected at least two attributes each, got {[part.name for part in parts]}"
        raise ValueError(msg)
    codes, names = parts[0].codes, list(parts[0].groups)
    for part in parts[1:]:
        unknown = (codes < 0) | (part.codes < 0)
        codes = np.where(unknown, -1, codes * len(part.groups) + part.codes)
        names = [f"{left}__{right}" for left in names for right in part.groups]
    return Grouping("__".join(part.name for part in parts), tuple(names), codes)


def compact(codes: IntArray) -> tuple[IntArray, int]:
    """The same codes (m,) without gaps, in the same order, and how many there are; linear in their number."""
    present = np.bincount(codes) > 0
    return (np.cumsum(present) - 1)[codes], int(np.count_nonzero(present))


def encode_patients(patient_id: ArrayLike | None, n: int) -> tuple[IntArray, bool]:
    """Patients as codes 0..K-1 in order of first appearance, and whether ids were given.

    Without ids (or where an id is missing) every case counts as a patient of its own.

    Raises:
        ValueError: when the number of ids is not ``n``.
    """
    if patient_id is None:
        return np.arange(n, dtype=np.int64), False
    values = np.asarray(patient_id, dtype=object)
    if values.shape != (n,):
        msg = f"patient_id: expected {n} values, one per case, got shape {values.shape}"
        raise ValueError(msg)
    codes, seen = pd.factorize(values, use_na_sentinel=True)
    alone = np.flatnonzero(codes < 0)
    codes = codes.astype(np.int64)
    codes[alone] = len(seen) + np.arange(alone.size)
    return codes, True
