"""Which epochs or runs cannot be improved in one number without losing in another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

BoolArray = NDArray[np.bool_]


def pareto_front(points: ArrayLike, directions: Sequence[float]) -> BoolArray:
    """Mark the points that no other point dominates.

    A point dominates another when it is at least as good in every number and better in one. Equal points do not
    dominate each other: all of them are on the front or none is.

    Args:
        points: (N, M) numbers, one row per epoch or run; a DataFrame of such columns works as well. A row with a NaN is
            never on the front and dominates nothing; infinities are compared like other numbers.
        directions: (M,) +1 where more is better, -1 where less is: ``selection_sign`` of the name of each column.

    Returns:
        (N,) True on the front, in the order of the rows; ``table[pareto_front(...)]`` picks them.

    Raises:
        ValueError: on points that are not a table, or directions of another length or value.
    """
    table = np.asarray(points, dtype=np.float64)
    signs = np.asarray(directions, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        msg = f"points: expected (N, M) numbers with M >= 1, one row per epoch or run, got shape {table.shape}"
        raise ValueError(msg)
    if signs.shape != table.shape[1:] or not np.isin(signs, (-1.0, 1.0)).all():
        msg = f"directions: expected +1 or -1 for each of the {table.shape[1]} columns of points, got {directions!r}"
        raise ValueError(msg)
    whole = np.flatnonzero(~np.isnan(table).any(axis=1))
    rivals = signs * table[whole]
    front = np.zeros(len(table), dtype=np.bool_)
    front[whole] = [not _dominated(point, rivals) for point in rivals]
    return front


def _dominated(point: NDArray[np.float64], rivals: NDArray[np.float64]) -> bool:
    return bool(((rivals >= point).all(axis=1) & (rivals > point).any(axis=1)).any())
