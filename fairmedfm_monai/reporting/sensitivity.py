"""How much a model's answer depends on who prompts it: Dice against jitter and click position, per group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fairmedfm_monai.catalog.prompt_kinds import PromptKind, parse_kind
from fairmedfm_monai.fairness.report import ALL, OVERALL, UNKNOWN

from . import figures, wording
from .curves import Panel

METRIC = "dice"


@dataclass(frozen=True)
class Sweep:
    """One property of a prompt at several strengths.

    Attributes:
        title: for people.
        lead: what is swept.
        panels: one per attribute, a line per group.
        levels: the strengths as text, from the easiest prompt to the hardest.
        rows: (group, Dice per level, loss from the first to the last level); the gap of an attribute stands under its
            groups.
        emphasised: positions of the rows about everyone and about gaps.
    """

    title: str
    lead: str
    panels: list[Panel]
    levels: list[str]
    rows: list[tuple[str, list[str], str]]
    emphasised: frozenset[int]


def sweeps(subgroups: pd.DataFrame, disparities: pd.DataFrame) -> list[Sweep]:
    """All sweeps that a run holds: kinds that differ in nothing but jitter, or in nothing but the click's depth.

    Args:
        subgroups: rows of one split.
        disparities: rows of the same split.
    """
    values = _means(subgroups[subgroups["metric"] == METRIC])
    gaps = _means(disparities[(disparities["metric"] == METRIC) & (disparities["statistic"] == "gap")], ["attribute"])
    kinds = [kind for kind in map(_parse, dict.fromkeys(subgroups["prompt"])) if kind is not None]
    found = []
    for base in dict.fromkeys(kind.base for kind in kinds):
        plain = [kind for kind in kinds if kind.base == base and not (kind.clicks or kind.negatives or kind.components)]
        jittered = {kind.name: kind.jitter for kind in plain if base in ("box", "mask")}
        depths = {kind.name: 100 - kind.depth for kind in plain if kind.depth is not None}
        for levels, title, lead, unit in (
            (jittered, f"{wording.heading(base)} against jitter", _JITTER[base == "mask"], "% jitter"),
            (depths, "Position of the click", _DEPTH, "% off centre"),
        ):
            ordered = dict(sorted(levels.items(), key=lambda item: item[1]))
            if len(ordered) > 1:
                found.append(_sweep(values, gaps, ordered, title=title, lead=lead, unit=unit))
    return found


_JITTER = {
    False: "Each side of the reference's tight box is moved at random by up to this share of the box.",
    True: "The outline of the reference mask is moved at random by up to this share of the object's depth.",
}
_DEPTH = "One click, from the deepest point of the object (0 %) to its border (100 %)."


def _parse(name: str) -> PromptKind | None:
    """The kind of that name; None for prompts of another tool's table."""
    try:
        return parse_kind(name)
    except ValueError:
        return None


def _means(table: pd.DataFrame, keys: list[str] | None = None) -> pd.Series:
    """Value per prompt, attribute and group: the mean over labels, which has the label "" where there are several."""
    several = set(table.loc[table["label"] == "", "prompt"])
    rows = table[(table["label"] == "") | ~table["prompt"].isin(several)]
    return rows.groupby(["prompt", *(keys or ["attribute", "group"])], sort=False)["value"].mean()


def _sweep(values: pd.Series, gaps: pd.Series, levels: Mapping[str, int], *, title: str, lead: str, unit: str) -> Sweep:
    attributes: dict[str, list[str]] = {}
    for _, attribute, group in values.index:
        groups = attributes.setdefault(str(attribute), [])
        if group not in (*groups, UNKNOWN):
            groups.append(str(group))
    highest = max(levels.values())
    panels: list[Panel] = []
    rows: list[tuple[str, list[str], str]] = []
    emphasised: set[int] = set()
    for attribute, groups in attributes.items():
        lines = []
        for group in groups:
            dice = [float(values.get((kind, attribute, group), math.nan)) for kind in levels]
            name = "everyone" if group == ALL else wording.readable(group)
            if group == ALL:
                emphasised.add(len(rows))
            rows.append((name, [wording.number(value, METRIC) for value in dice], _loss(dice)))
            known = [(level / highest, value) for level, value in zip(levels.values(), dice, strict=True)]
            points = np.array([point for point in known if math.isfinite(point[1])], dtype=float).reshape(-1, 2)
            lines.append(figures.Line(name, points[:, 0], points[:, 1], f"loss {_loss(dice)}"))
        if attribute == OVERALL or "__" in attribute:
            continue
        gap = [float(gaps.get((kind, attribute), math.nan)) for kind in levels]
        emphasised.add(len(rows))
        change = gap[-1] - gap[0]
        text = f"{change:+.3f}".replace("-", "−") if math.isfinite(change) else "–"
        rows.append((f"gap by {wording.readable(attribute)}", [wording.number(value, METRIC) for value in gap], text))
        panels.append(_panel(attribute, lines, unit, highest))
    named = [f"{level} %" for level in levels.values()]
    return Sweep(title, lead, panels, named, rows, frozenset(emphasised))


def _loss(dice: list[float]) -> str:
    return wording.number(dice[0] - dice[-1], METRIC)


def _panel(attribute: str, lines: list[figures.Line], unit: str, highest: int) -> Panel:
    described = f"Dice against {unit} by {wording.readable(attribute)}: " + "; ".join(
        f"{line.name} {line.note}" for line in lines
    )
    svg = figures.panel(lines, x_title=unit, y_title="Dice", description=described, x_high=float(highest))
    legend = [(figures.swatch(position), line.name, line.note) for position, line in enumerate(lines)]
    return Panel(wording.heading(attribute), svg, legend)
