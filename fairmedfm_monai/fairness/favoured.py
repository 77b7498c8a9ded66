"""Which group does a model work best for, and do models and datasets agree on it?

A difference counts as evidence only where the interval of the gap excludes 0; the others are shown, not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import bdtrc, betaincinv

from fairmedfm_monai.fairness.intervals import LEVEL
from fairmedfm_monai.fairness.registry import METRICS
from fairmedfm_monai.fairness.report import UNKNOWN
from fairmedfm_monai.fairness.tests import holm

RUN = "seed"
"""Column that tells runs of one cell apart."""
SEPARATOR = "|"
"""Between group names, which cannot hold it."""


def favoured_groups(
    results: pd.DataFrame,
    *,
    metric: str,
    attribute: str,
    cells: Sequence[str] = ("dataset", "fm"),
    higher_is_better: bool | None = None,
) -> pd.DataFrame:
    """Find the best group of each cell.

    Args:
        results: rows of the subgroup and the disparity tables of all runs, one below the other, with the columns of
            ``cells``, ``attribute``, ``group``, ``metric``, ``statistic``, ``value``, ``ci_low``, ``ci_high`` and
            optionally ``seed``. A row about a group has no statistic (empty or NaN), a row about a gap has ``gap``.
            Split, prompt and label must be chosen already: there may be one row per cell, seed and group.
        metric: what "best" is measured by.
        attribute: whose groups; the group ``unknown`` is never favoured.
        cells: columns that make a cell.
        higher_is_better: direction of the metric; by default the registry's.

    Returns:
        One row per cell that has a row about the attribute, in order of appearance: ``cells``, ``favoured`` (empty
        where there is none), ``least`` (the group that it works least for), ``gap`` with ``gap_low`` and ``gap_high``,
        ``evidence``, ``n_runs``, ``groups`` (those with a value, joined by ``SEPARATOR``), ``n_groups``, ``reason``.
        With several seeds the values are means over seeds and the interval reaches from the smallest to the largest
        end, since the seeds share their test patients; the difference is evidence when it is in every seed, for the
        same group. With more than two groups the evidence is that best and worst differ.

    Raises:
        ValueError: on missing columns, several rows for one group, or a metric of which neither direction is better.
    """
    better = METRICS[metric].higher_is_better if metric in METRICS else None
    better = better if higher_is_better is None else higher_is_better
    if better is None:
        msg = f"metric: {metric!r} has no better direction; pass higher_is_better"
        raise ValueError(msg)
    rows = _chosen(results, metric, attribute, cells)
    groups, gaps = rows[rows["statistic"] == ""], rows[rows["statistic"] == "gap"]
    groups = groups.assign(value=groups["value"].astype(float) * (1 if better else -1))
    gap_of = dict(_parts(gaps, cells))
    found = [
        {**dict(zip(cells, key, strict=True)), **_cell(part, gap_of.get(key, gaps[:0]))}
        for key, part in _parts(groups, cells)
    ]
    columns = ("favoured", "least", "gap", "gap_low", "gap_high", "evidence", "n_runs", "groups", "n_groups", "reason")
    return pd.DataFrame(found, columns=[*cells, *columns])


def _parts(table: pd.DataFrame, columns: Sequence[str]) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Rows by the values of the columns, in order of appearance; everything is one part when there is no column."""
    if not columns:
        return [((), table)]
    return [(tuple(key), part) for key, part in table.groupby(list(columns), sort=False)]


def _chosen(results: pd.DataFrame, metric: str, attribute: str, cells: Sequence[str]) -> pd.DataFrame:
    needed = [*cells, "attribute", "group", "metric", "statistic", "value", "ci_low", "ci_high"]
    absent = [name for name in needed if name not in results]
    if absent:
        msg = f"results: column(s) {', '.join(absent)} are missing; expected {', '.join(needed)}"
        raise ValueError(msg)
    rows = results[(results["metric"] == metric) & (results["attribute"] == attribute)]
    rows = rows if RUN in rows else rows.assign(**{RUN: 0})
    rows = rows if "reason" in rows else rows.assign(reason="")
    rows = rows.assign(group=rows["group"].fillna(""), statistic=rows["statistic"].fillna(""))
    rows = rows[rows["statistic"].isin(("", "gap"))]
    key = [*cells, RUN, "group", "statistic"]
    if (twice := rows.duplicated(key)).any():
        first = rows[twice].iloc[0]
        told = ", ".join(f"{name} {first[name]}" for name in key if first[name] != "")
        msg = (
            f"results: several rows for {told}; choose one split, prompt, label, usage and mitigation, or add to cells"
        )
        raise ValueError(msg)
    return rows[rows["group"] != UNKNOWN]


def _cell(groups: pd.DataFrame, gaps: pd.DataFrame) -> dict[str, Any]:
    """The row of one cell; values are signed so that more is better."""
    values = groups.set_index([RUN, "group"])["value"].unstack("group")  # noqa: PD010 - nothing to aggregate
    whole = values.dropna(axis=1)
    named = {"n_runs": len(values), "groups": SEPARATOR.join(whole.columns), "n_groups": whole.shape[1]}
    empty = {"favoured": "", "least": "", "gap": math.nan, "gap_low": math.nan, "gap_high": math.nan, "evidence": False}
    told = groups[groups["value"].isna()].drop_duplicates("group").set_index("group")["reason"].to_dict()
    absent = [f"{name} ({told.get(name) or 'no value'})" for name in values.columns.difference(whole.columns)]
    without = f"without {', '.join(absent)}" if absent else ""
    if whole.shape[1] < 2:
        return {**empty, **named, "reason": "; ".join(filter(None, ("fewer than two groups have a value", without)))}
    mean = whole.mean()
    ends = gaps.set_index(RUN).reindex(whole.index)[["ci_low", "ci_high"]].astype(float)
    low, high = ends["ci_low"].min(skipna=False), ends["ci_high"].max(skipna=False)
    cell = {**empty, **named, "gap": float(mean.max() - mean.min()), "gap_low": float(low), "gap_high": float(high)}
    if (mean == mean.max()).sum() > 1:
        return {**cell, "reason": "; ".join(filter(None, ("several groups are equally good", without)))}
    best = str(mean.idxmax())
    same = bool((whole.idxmax(axis=1) == best).all())
    beyond = bool(low > 0)
    reasons = ("" if same else "seeds favour different groups", _undecided(float(low)), without)
    cell |= {"favoured": best, "least": str(mean.idxmin()), "evidence": same and beyond}
    return {**cell, "reason": "; ".join(filter(None, reasons))}


def _undecided(low: float) -> str:
    if math.isnan(low):
        return "the gap has no interval"
    return "" if low > 0 else "the interval of the gap holds 0"


def agreement(
    cells: pd.DataFrame, *, across: str, by: Sequence[str] = (), only_evidence: bool = True, unit: str = "dataset"
) -> pd.DataFrame:
    """How many cells favour the same group?

    Across datasets, which have different patients, the share is tested: a sign test for two groups; for G groups
    ``p = min(1, G P(X >= n_same))``, X binomial with chance 1 / G, which for two groups is the sign test. FMs on one
    dataset see the same patients and agree for that reason alone, so their share has neither interval nor p-value.

    Args:
        cells: what `favoured_groups` returned.
        across: column whose values are compared, e.g. ``fm`` or ``dataset``.
        by: columns that make a row, e.g. ``("dataset",)`` for the agreement of FMs on each dataset.
        only_evidence: count differences beyond the interval only; otherwise every cell that favours a group.
        unit: column whose values have different patients.

    Returns:
        One row per value of ``by``: ``n_cells``, ``n_favoured`` (cells with a best group), ``n_evidence``,
        ``n_counted``, ``favoured`` (the group that most of them favour; empty on a tie), ``n_same``, ``share``,
        ``ci_low``, ``ci_high`` (Clopper & Pearson 1934), ``p_value``, ``p_adjusted`` (Holm over the rows), ``counts``
        (text), ``reason``.

    Raises:
        ValueError: on columns that do not exist, or several cells for one value of ``across`` in a row.
    """
    absent = [name for name in (across, *by) if name not in cells]
    if absent:
        msg = f"across, by: cells has no column {', '.join(absent)}; it has {', '.join(map(str, cells.columns))}"
        raise ValueError(msg)
    if (twice := cells.duplicated([*by, across])).any():
        first = cells[twice].iloc[0]
        told = ", ".join(f"{name} {first[name]}" for name in (*by, across))
        msg = f"by: several cells have {told}; name the columns that tell them apart, or choose among the cells"
        raise ValueError(msg)
    rows = [
        {**dict(zip(by, key, strict=True)), **_share(part, independent=across == unit, only_evidence=only_evidence)}
        for key, part in _parts(cells, by)
    ]
    columns = ("n_cells", "n_favoured", "n_evidence", "n_counted", "favoured", "n_same", "share", "ci_low", "ci_high")
    table = pd.DataFrame(rows, columns=[*by, *columns, "p_value", "p_adjusted", "counts", "reason"])
    return table.assign(p_adjusted=holm(table["p_value"].to_numpy(dtype=np.float64)))


def _share(part: pd.DataFrame, *, independent: bool, only_evidence: bool) -> dict[str, Any]:
    named = part[part["favoured"] != ""]
    counted = named[named["evidence"].astype(bool)] if only_evidence else named
    n = len(counted)
    counts = counted["favoured"].value_counts(sort=False).sort_values(ascending=False, kind="stable")
    top = int(counts.iloc[0]) if n else 0
    leaders = [str(name) for name in counts.index[counts == top]]
    row: dict[str, Any] = {
        "n_cells": len(part),
        "n_favoured": len(named),
        "n_evidence": int(named["evidence"].astype(bool).sum()),
        "n_counted": n,
        "favoured": leaders[0] if len(leaders) == 1 else "",
        "n_same": top,
        "share": top / n if n else math.nan,
        "counts": ", ".join(f"{name} {count}" for name, count in counts.items()),
    }
    if not n:
        return {**row, "reason": "no difference beyond its interval" if only_evidence else "no cell favours a group"}
    tied = "" if len(leaders) == 1 else f"as many cells favour {' as '.join(leaders)}"
    if not independent:
        return {**row, "reason": "; ".join(filter(None, (tied, "not tested: the cells share their patients")))}
    groups = set(SEPARATOR.join(counted["groups"]).split(SEPARATOR))
    chance = 1 / int(counted["n_groups"].min())
    p = min(1.0, len(groups) * float(bdtrc(top - 1, n, chance)))
    low, high = clopper_pearson(top, n)
    return {**row, "ci_low": low, "ci_high": high, "p_value": p, "reason": tied}


def clopper_pearson(successes: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a rate (Clopper & Pearson 1934).

    Args:
        successes: from 0 to ``n``.
        n: number of independent trials, > 0.
        level: of the interval.
    """
    tail = (1 - level) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high
