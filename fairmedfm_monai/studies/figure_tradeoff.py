"""Utility against unfairness of what a study compares, one panel per dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.fairness.pareto import pareto_front
from fairmedfm_monai.reporting import wording
from fairmedfm_monai.reporting.tradeoff import tradeoff

from .lookup import direction, title_of
from .picture import Group, Picture, compared
from .tables import Entry, Source, entry

if TYPE_CHECKING:
    from .spec import Column, FigureSpec

_ENDS = {"": "value", "_low": "low", "_high": "high"}


def draw_tradeoff(spec: FigureSpec, utility: Column, gap: Column, source: Source, name: str) -> Picture:
    """Draw both numbers of every cell, and name those that cannot be improved in one without losing in the other.

    Args:
        spec: what is compared, and the panels.
        utility: number of the upright axis.
        gap: number of the other one.
        source: plan and numbers.
        name: of the file.

    Raises:
        ValueError: where neither direction of a number is better.
    """
    signs = [direction(utility), direction(gap)]
    if 0 in signs:
        msg = f"of {title_of((utility, gap)[signs.index(0)])} neither direction is better: it is no trade-off"
        raise ValueError(msg)
    cells = compared(spec, source)
    columns = ["panel", "name", "reason", *(f"{one}{end}" for one in ("utility", "gap") for end in _ENDS)]
    points = pd.DataFrame(_points(cells.groups, utility, gap, source), columns=columns)
    known = points[["utility", "gap"]].notna().all(axis=1)
    drawn = points[points["panel"].isin(points[known]["panel"])]
    return Picture(
        name=name,
        title=spec.title,
        svg=_picture(drawn, utility, gap) if len(drawn) else "",
        texts=(_front_text(drawn, signs),),
        notes=(
            *cells.notes,
            "The front compares point estimates; whether two points differ is for their intervals to say.",
            *_empty_panels(points[~points.index.isin(drawn.index)]),
        ),
        head=("panel", "name", title_of(utility), "95 % interval", title_of(gap), "95 % interval", "remark"),
        rows=tuple(_row(row, utility, gap) for row in drawn.to_dict("records")),
        words=2,
    )


def _picture(points: pd.DataFrame, utility: Column, gap: Column) -> str:
    return tradeoff(
        points,
        utility=title_of(utility),
        gap=title_of(gap),
        utility_higher=direction(utility) > 0,
        gap_higher=direction(gap) > 0,
        title=f"{title_of(utility)} and {title_of(gap)}",
    ).svg()


def _empty_panels(points: pd.DataFrame) -> list[str]:
    """Panels without a point, by what is missing: they are not drawn."""
    why = {str(panel): "; ".join(dict.fromkeys(part["reason"])) for panel, part in points.groupby("panel", sort=False)}
    return [
        f"Without a point and not drawn ({reason}): {', '.join(panel for panel in why if why[panel] == reason)}."
        for reason in dict.fromkeys(why.values())
    ]


def _points(groups: Sequence[Group], utility: Column, gap: Column, source: Source) -> list[dict[str, Any]]:
    points = []
    for group in groups:
        found = {name: entry(group.members, column, source) for name, column in (("utility", utility), ("gap", gap))}
        reasons = dict.fromkeys(one.missing for one in found.values() if one.summary is None)
        point: dict[str, Any] = {"panel": group.block, "name": group.name, "reason": "; ".join(reasons)}
        for name, one in found.items():
            point |= _numbers(name, one)
        points.append(point)
    return points


def _numbers(name: str, found: Entry) -> dict[str, float]:
    return {
        f"{name}{ending}": getattr(found.summary, field) if found.summary else math.nan
        for ending, field in _ENDS.items()
    }


def _front_text(points: pd.DataFrame, signs: list[int]) -> str:
    if points.empty:
        return "No cell has both numbers."
    told = []
    for panel, part in points.groupby("panel", sort=False):
        front = part[pareto_front(part[["utility", "gap"]].to_numpy(dtype=float), signs)]
        known = int(part[["utility", "gap"]].notna().all(axis=1).sum())
        told.append(f"{panel}: {', '.join(front['name'])} (of {known})")
    return f"On the Pareto front: {'; '.join(told)}."


def _row(row: dict[Any, Any], utility: Column, gap: Column) -> tuple[str, ...]:
    texts = []
    for name, column in (("utility", utility), ("gap", gap)):
        texts.append(wording.number(row[name], column.metric))
        texts.append(wording.interval(row[f"{name}_low"], row[f"{name}_high"], column.metric) or "–")
    return (row["panel"], row["name"], *texts, row["reason"])
