"""Are the differences more than chance? Permutation p-values and their correction for many tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

FAMILIES = (
    "gaps of the primary metric over all attributes, labels and prompts of a split: Holm; "
    "all other disparities of the split: Benjamini-Hochberg (exploratory)"
)
"""What ``p_adjusted`` was adjusted over."""


def permutation_p_value(value: float, null: FloatArray, *, larger_is_worse: bool) -> float:
    """One-sided p-value ``(1 + #{null at least as extreme}) / (1 + #null)``; never 0 (Phipson & Smyth 2010).

    Args:
        value: observed statistic.
        null: (R,) statistic under shuffled groups; NaN entries are left out.
        larger_is_worse: whether large values speak against fairness (gaps) or small ones (ratio, worst group).

    Returns:
        p in (0, 1], NaN when nothing can be compared.
    """
    null = null[np.isfinite(null)]
    if not np.isfinite(value) or null.size == 0:
        return float("nan")
    # Equal statistics differ in the last bits when sums run in another order: they must count as equal.
    slack = 1e-12 * max(1.0, abs(value))
    extreme = null >= value - slack if larger_is_worse else null <= value + slack
    return float((1 + np.count_nonzero(extreme)) / (1 + null.size))


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down adjustment (Holm 1979): family-wise error. NaN stays NaN and is not counted.

    Args:
        p_values: (K,) p-values of one family.
    """
    return _step(p_values, lambda p, m: np.maximum.accumulate(p * (m - np.arange(p.size))))


def benjamini_hochberg(p_values: ArrayLike) -> FloatArray:
    """Benjamini-Hochberg's step-up adjustment (1995): false discovery rate. NaN stays NaN and is not counted.

    Args:
        p_values: (K,) p-values of one family.
    """
    return _step(p_values, lambda p, m: np.minimum.accumulate((p * m / np.arange(1, p.size + 1))[::-1])[::-1])


def _step(p_values: ArrayLike, rule: object) -> FloatArray:
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    if order.size:
        adjusted[order] = np.minimum(rule(p[order], order.size), 1.0)  # type: ignore[operator]
    return adjusted


def adjust_p_values(disparities: pd.DataFrame, primary_metric: str) -> FloatArray:
    """Adjust ``p_value`` within the families of ``FAMILIES``.

    Args:
        disparities: table with the columns ``split``, ``metric``, ``statistic`` and ``p_value``.
        primary_metric: the metric whose gaps form the confirmatory family.

    Returns:
        (rows,) adjusted p-values, NaN where ``p_value`` is.
    """
    p = disparities["p_value"].to_numpy(dtype=np.float64)
    split = disparities["split"].to_numpy()
    primary = ((disparities["metric"] == primary_metric) & (disparities["statistic"] == "gap")).to_numpy(dtype=bool)
    adjusted = np.full(p.shape, np.nan)
    for name in dict.fromkeys(split.tolist()):
        here = split == name
        adjusted[here & primary] = holm(p[here & primary])
        adjusted[here & ~primary] = benjamini_hochberg(p[here & ~primary])
    return adjusted
