"""Small multiples of whole distributions: ROC curves per group, cumulative Dice per group."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.fairness.registry import FAILURE_DICE

from . import figures, wording

_MAX_POINTS = 400


@dataclass(frozen=True)
class Panel:
    """One small picture with its legend: entries are (line sample, group, note)."""

    title: str
    svg: str
    legend: list[tuple[str, str, str]]


def roc_panels(curves: Mapping[str, Any], table: pd.DataFrame) -> list[Panel]:
    """ROC curves of one split and label, one panel per attribute.

    Args:
        curves: ``{attribute: {group: {"fpr": array, "tpr": array}}}``.
        table: rows of ``subgroups`` of the same split and label, for the AUC in the legend.
    """
    auc = table[table["metric"] == "auc"].set_index(["attribute", "group"])["value"]
    panels = []
    for attribute, groups in curves.items():
        lines = []
        for group, curve in groups.items():
            fpr, tpr = _thin(np.asarray(curve["fpr"], float), np.asarray(curve["tpr"], float))
            note = f"AUC {wording.number(float(auc.get((attribute, group), math.nan)), 'auc')}"
            lines.append(figures.Line(wording.readable(group), fpr, tpr, note))
        if lines and attribute != "overall":
            described = f"ROC curves by {wording.readable(attribute)}: " + "; ".join(
                f"{k.name} {k.note}" for k in lines
            )
            svg = figures.panel(
                lines, x_title="1 − specificity", y_title="sensitivity", description=described, diagonal=True
            )
            panels.append(_panel(attribute, svg, lines))
    return panels


def dice_panels(cases: pd.DataFrame, attributes: Mapping[str, list[str]]) -> list[Panel]:
    """Cumulative distribution of Dice per group, one panel per attribute; low and left is better.

    Args:
        cases: predictions of one split, prompt and label with the columns ``dice`` and one per attribute.
        attributes: attribute -> groups in order.
    """
    scored = cases[cases["dice"].notna()]
    panels = []
    for attribute, groups in attributes.items():
        lines = []
        for group in groups:
            values = np.sort(scored.loc[scored[attribute] == group, "dice"].to_numpy(dtype=float))
            if values.size:
                share = np.arange(1, values.size + 1) / values.size
                failed = float(np.mean(values < FAILURE_DICE))
                note = f"n {values.size}, {100 * failed:.0f} % below {FAILURE_DICE:g}"
                x, y = _thin(np.r_[0.0, values, 1.0], np.r_[0.0, share, 1.0])
                lines.append(figures.Line(wording.readable(group), x, y, note))
        if lines:
            described = f"Cumulative Dice by {wording.readable(attribute)}: " + "; ".join(
                f"{k.name} {k.note}" for k in lines
            )
            svg = figures.panel(lines, x_title="Dice", y_title="share of cases", description=described, step=True)
            panels.append(_panel(attribute, svg, lines))
    return panels


def _panel(attribute: str, svg: str, lines: list[figures.Line]) -> Panel:
    legend = [(figures.swatch(position), line.name, line.note) for position, line in enumerate(lines)]
    return Panel(wording.heading(attribute), svg, legend)


def _thin(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most ``_MAX_POINTS`` points, first and last kept: more cannot be seen and make the file large."""
    if len(x) <= _MAX_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, _MAX_POINTS).astype(int))
    return x[keep], y[keep]
