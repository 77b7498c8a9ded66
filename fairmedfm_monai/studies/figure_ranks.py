"""Ranks of what a study compares over its datasets: Friedman, Nemenyi, Wilcoxon with Holm's adjustment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.fairness.ranks import ALPHA, Nemenyi, WilcoxonHolm, nemenyi, wilcoxon_holm
from fairmedfm_monai.reporting import wording
from fairmedfm_monai.reporting.critical_difference import critical_difference

from .lookup import direction, title_of
from .picture import Group, Picture, compared
from .tables import Source, entry

if TYPE_CHECKING:
    from .spec import Column, FigureSpec

HEAD = ("better", "than", "wins", "losses", "ties", "median advantage", "p", "adjusted p")


def draw_ranks(spec: FigureSpec, column: Column, source: Source, name: str) -> Picture:
    """Rank what is compared within each block, and test.

    Args:
        spec: what is compared, over which blocks.
        column: the number to rank by.
        source: plan and numbers.
        name: of the file.

    Raises:
        ValueError: where neither direction of the number is better.
    """
    if not direction(column):
        msg = f"of {title_of(column)} neither direction is better: it cannot rank"
        raise ValueError(msg)
    higher = direction(column) > 0
    cells = compared(spec, source)
    scores = score_table(cells.groups, column, source)
    ranks = nemenyi(scores, higher_is_better=higher)
    pairs = wilcoxon_holm(scores, higher_is_better=higher)
    return Picture(
        name=name,
        title=spec.title,
        svg=critical_difference(ranks, title=f"Average ranks by {title_of(column)}").svg(),
        texts=(_friedman_text(ranks, column), *_nemenyi_text(ranks), _pairs_text(pairs)),
        notes=tuple(dict.fromkeys([*cells.notes, *ranks.friedman.notes, *pairs.notes, *_seeds_note(scores)])),
        head=HEAD,
        rows=tuple(_pair_row(row, column) for row in pairs.pairs.to_dict("records")),
        words=2,
    )


def score_table(groups: Sequence[Group], column: Column, source: Source) -> pd.DataFrame:
    """Mean over seeds, blocks as rows and what is compared as columns; NaN where a cell has no number."""
    blocks = list(dict.fromkeys(group.block for group in groups))
    names = list(dict.fromkeys(group.name for group in groups))
    scores = pd.DataFrame(math.nan, index=blocks, columns=names)
    for group in groups:
        found = entry(group.members, column, source).summary
        if found:
            scores.loc[group.block, group.name] = found.value
    return scores


def _seeds_note(scores: pd.DataFrame) -> list[str]:
    return ["Scores are means over seeds where a cell has several."] if scores.notna().any(axis=None) else []


def _friedman_text(ranks: Nemenyi, column: Column) -> str:
    found = ranks.friedman
    if found.scores.reason:
        return f"Ranks by {title_of(column)} cannot be compared: {found.scores.reason}."
    n, k = found.scores.table.shape
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in found.average_ranks.sort_values(kind="stable").items())
    head = f"Average ranks by {title_of(column)} of {k} over {n} datasets (1 is best): {told}."
    if math.isnan(found.chi2):
        return f"{head} Friedman's test is undefined: {found.reason}."
    return (
        f"{head} Friedman: chi² = {found.chi2:.2f}, {wording.p_value(found.p_chi2)}; "
        f"Iman and Davenport: F = {'∞' if math.isinf(found.f) else f'{found.f:.2f}'}, {wording.p_value(found.p_f)}."
    )


def _nemenyi_text(ranks: Nemenyi) -> list[str]:
    if not math.isfinite(ranks.critical_difference):
        return []
    head = f"Nemenyi: average ranks that are {ranks.critical_difference:.2f} or more apart differ at {ranks.alpha:g}"
    if not ranks.friedman.p_f < ranks.alpha:
        return [f"{head}; Friedman's test finds no difference, so no pair is called different."]
    names = list(ranks.friedman.average_ranks.sort_values(kind="stable").index)
    pairs = [
        f"{a} and {b} ({wording.p_value(float(ranks.p_values.loc[a, b]))})"
        for k, a in enumerate(names)
        for b in names[k + 1 :]
        if ranks.p_values.loc[a, b] < ranks.alpha
    ]
    return [f"{head}: {', '.join(pairs)}." if pairs else f"{head}; no pair does."]


def _pairs_text(found: WilcoxonHolm) -> str:
    if found.scores.reason or found.pairs.empty:
        return "Wilcoxon's signed-rank test with Holm's adjustment: nothing to compare."
    clear = found.pairs[found.pairs["p_adjusted"] < ALPHA]
    told = [_pair_text(row) for row in clear.to_dict("records")]
    head = f"Wilcoxon's signed-rank test, Holm's adjustment over {len(found.pairs)} pair(s): "
    return f"{head}{'; '.join(told)}." if told else f"{head}no pair differs at {ALPHA:g}."


def _pair_text(row: dict[Any, Any]) -> str:
    first, second = _ordered(row)
    return f"{first} better than {second} (adjusted {wording.p_value(float(row['p_adjusted']))})"


def _ordered(row: dict[Any, Any]) -> tuple[str, str]:
    a, b = str(row["method_a"]), str(row["method_b"])
    return (b, a) if float(row["median_advantage"]) < 0 else (a, b)


def _pair_row(row: dict[Any, Any], column: Column) -> tuple[str, ...]:
    advantage = float(row["median_advantage"])
    wins = (row["wins_b"], row["wins_a"]) if advantage < 0 else (row["wins_a"], row["wins_b"])
    numbers = (
        wording.p_value(float(row[name])).removeprefix("p ").removeprefix("= ") for name in ("p_value", "p_adjusted")
    )
    return (*_ordered(row), *map(str, wins), str(row["ties"]), wording.number(abs(advantage), column.metric), *numbers)
