"""Forest plots: groups as rows, numbers as text columns, intervals as a shared strip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.report import OVERALL, UNKNOWN

from . import figures, wording

BOX_AXIS = figures.Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
"""Dice of model, box and readers are compared on the whole range."""


@dataclass(frozen=True)
class Row:
    """One row of a forest plot, ready to print.

    Attributes:
        name: the group.
        value: the estimate as text.
        exact: the estimate in full precision, empty where there is none.
        cells: further text columns: interval, patients, cases, positives (classification).
        svg: the strip.
        muted: shown in grey: not estimable, or the group is not known.
        reason: why there is no value or what limits it; empty otherwise.
    """

    name: str
    value: str
    exact: str
    cells: list[str]
    svg: str
    muted: bool = False
    reason: str = ""


@dataclass
class Forest:
    """A forest plot of one metric.

    Attributes:
        name: of the metric in tables.
        title: of the metric for people.
        meaning: one half-sentence about it.
        headers: of the text columns.
        sections: (attribute, rows) in the order of the card; the first section is everyone.
        scale: tick labels.
        blank: a strip with nothing but grid and overall line, for the rows that name an attribute.
    """

    name: str
    title: str
    meaning: str
    headers: list[str]
    sections: list[tuple[str, list[Row]]] = field(default_factory=list)
    scale: str = ""
    blank: str = ""


def forest(table: pd.DataFrame, name: str, *, with_positives: bool) -> Forest | None:
    """Forest plot of one metric over all attributes.

    Args:
        table: rows of ``subgroups`` of one split, prompt and label.
        name: the metric.
        with_positives: add a column with the number of positive cases (classification).

    Returns:
        None when no row has a value.
    """
    rows = table[table["metric"] == name]
    if not rows["value"].notna().any():
        return None
    shown = wording.metric(name)
    numbers = rows[["value", "ci_low", "ci_high"]].to_numpy(dtype=float)
    axis = figures.axis_for(numbers.ravel().tolist(), bounds=shown.bounds)
    overall = rows.loc[rows["attribute"] == OVERALL, "value"]
    reference = float(overall.iloc[0]) if len(overall) else math.nan
    headers = ["95 % interval", "patients", "cases", *(["positives"] if with_positives else [])]
    digits = 2 if axis.high - axis.low < 5 else 0
    plot = Forest(name, shown.title, shown.meaning, headers, scale=figures.scale(axis, digits=digits))
    plot.blank = figures.strip(axis, math.nan, math.nan, math.nan, reference=reference)
    for attribute, part in rows.groupby("attribute", sort=False):
        lines = [_row(row, axis, reference, with_positives=with_positives) for row in part.to_dict("records")]
        plot.sections.append((_attribute(str(attribute)), lines))
    return plot


def _attribute(name: str) -> str:
    return "Everyone" if name == OVERALL else wording.heading(name)


def _row(row: dict[Any, Any], axis: figures.Axis, reference: float, *, with_positives: bool) -> Row:
    name, value, low, high = row["metric"], float(row["value"]), float(row["ci_low"]), float(row["ci_high"])
    group = "all" if row["attribute"] == OVERALL else wording.readable(row["group"])
    estimable = math.isfinite(value) and math.isfinite(low)
    muted = not estimable or row["group"] == UNKNOWN
    colour = figures.GREY if muted else figures.PALETTE[0]
    described = f"{wording.metric(name).title}, {group}: {wording.number(value, name)}"
    if span := wording.interval(low, high, name):
        described += f", 95 % interval {span}"
    strip = figures.strip(axis, value, low, high, reference=reference, colour=colour, description=described)
    cells = [span, *(_count(row[key]) for key in ("n_patients", "n_cases"))]
    if with_positives:
        cells.append(_count(row["n_positives"]))
    exact = repr(value) if math.isfinite(value) else ""
    reason = "" if estimable else str(row["reason"] or "")
    return Row(group, wording.number(value, name), exact, cells, strip, muted, reason)


def _count(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) else "–"


def paired(
    table: pd.DataFrame,
    labels: Sequence[str],
    *,
    model: str = "dice",
    box: str = "filled_box_dice",
    readers: dict[str, float] | None = None,
) -> list[dict[str, str]]:
    """Model against the filled box (and the readers) for everyone, one entry per label.

    Args:
        table: rows of ``subgroups`` of one split and prompt.
        labels: which labels, in order.
        model: metric of the model.
        box: metric of the filled box.
        readers: label -> mean Dice between human readers, where the dataset has it.

    Returns:
        Entries with ``label``, ``model``, ``interval``, ``box``, ``difference``, ``readers`` and ``svg``.
    """
    everyone = table[table["attribute"] == OVERALL].set_index(["label", "metric"])
    entries = []
    for label in labels:
        if (label, model) not in everyone.index or (label, box) not in everyone.index:
            continue
        row, box_value = everyone.loc[(label, model)], float(everyone.loc[(label, box), "value"])
        value, reader = float(row["value"]), (readers or {}).get(label, math.nan)
        name = wording.readable(label) if label else "all labels"
        described = f"{name}: model {wording.number(value, 'dice')}, filled box {wording.number(box_value, 'dice')}"
        strip = figures.strip(
            BOX_AXIS,
            value,
            float(row["ci_low"]),
            float(row["ci_high"]),
            reference=box_value,
            mark=reader,
            colour=figures.PALETTE[1] if value < box_value else figures.PALETTE[0],
            description=described,
        )
        entries.append(
            {
                "label": name,
                "model": wording.number(value, "dice"),
                "box": wording.number(box_value, "dice"),
                "interval": wording.interval(float(row["ci_low"]), float(row["ci_high"]), "dice"),
                "difference": f"{value - box_value:+.3f}".replace("-", "−"),
                "readers": wording.number(reader, "dice") if math.isfinite(reader) else "",
                "svg": strip,
            }
        )
    return entries
