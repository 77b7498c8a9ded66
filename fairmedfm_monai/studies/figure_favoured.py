"""Which groups a metric favours, dataset by FM, and whether FMs and datasets agree."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from fairmedfm_monai.fairness.favoured import agreement, favoured_groups
from fairmedfm_monai.reporting import wording
from fairmedfm_monai.reporting.favoured import favoured_heatmap

from .collect import DONE
from .lookup import direction, title_of
from .picture import Group, Picture, compared
from .tables import Source

if TYPE_CHECKING:
    from .spec import Column, FigureSpec

BLOCK, NAME = "block", "compared"
HEAD = (BLOCK, NAME, "favoured", "least", "gap", "95 % interval", "evidence", "remark")


def draw_favoured(spec: FigureSpec, column: Column, source: Source, frame: pd.DataFrame, name: str) -> Picture:
    """Find the group that each cell favours and tell how far they agree.

    Args:
        spec: blocks (datasets) and what is compared within them (FMs).
        column: metric, split, prompt, label and attribute.
        source: plan and numbers.
        frame: the long table.
        name: of the file.

    Raises:
        ValueError: where the column names no attribute or neither direction is better.
    """
    if not column.attribute or not direction(column):
        msg = (
            f"{title_of(column)}: a figure of favoured groups needs an `attribute` and a metric with a better direction"
        )
        raise ValueError(msg)
    found = compared(spec, source)
    groups = found.groups
    chosen = _chosen(frame, groups, column)
    cells = favoured_groups(
        chosen,
        metric=column.metric,
        attribute=column.attribute,
        cells=(BLOCK, NAME),
        higher_is_better=direction(column) > 0,
    )
    independent = BLOCK if found.over == ("dataset",) else ""
    across_blocks = agreement(cells, across=BLOCK, by=(NAME,), unit=independent)
    across_names = agreement(cells, across=NAME, by=(BLOCK,), unit=independent)
    picture = favoured_heatmap(
        cells,
        metric=column.metric,
        attribute=column.attribute,
        rows=list(dict.fromkeys(group.name for group in groups)),
        columns=list(dict.fromkeys(group.block for group in groups)),
        row=NAME,
        column=BLOCK,
        missing=_missing(groups),
    )
    return Picture(
        name=name,
        title=spec.title,
        svg=picture.svg(),
        texts=(_summary(cells, column), *_agreements(across_blocks, NAME), *_agreements(across_names, BLOCK)),
        notes=found.notes,
        head=HEAD,
        rows=tuple(_row(row, column) for row in cells.to_dict("records")),
        words=4,
    )


def _chosen(frame: pd.DataFrame, groups: Sequence[Group], column: Column) -> pd.DataFrame:
    """The rows about the column's attribute with the names of block and what is compared."""
    named = {one.cell.key: (group.block, group.name) for group in groups for one in group.members}
    rows = frame[
        (frame["status"] == DONE)
        & frame["key"].isin(list(named))
        & (frame["split"] == column.split)
        & (frame["prompt"] == column.prompt)
        & (frame["label"] == column.label)
    ]
    return rows.assign(**{BLOCK: [named[key][0] for key in rows["key"]], NAME: [named[key][1] for key in rows["key"]]})


def _missing(groups: Sequence[Group]) -> dict[tuple[str, str], str]:
    """(name, block) -> why it may have no cell; also of pairs that the plan does not have."""
    pairs = product(dict.fromkeys(group.name for group in groups), dict.fromkeys(group.block for group in groups))
    return dict.fromkeys(pairs, "not planned") | {(group.name, group.block): group.missing for group in groups}


def _summary(cells: pd.DataFrame, column: Column) -> str:
    if cells.empty:
        return f"No cell has {title_of(column)} by {wording.readable(column.attribute)}."
    clear = cells[cells["evidence"].astype(bool)]
    head = f"{wording.metric(column.metric).title} differs between groups by {wording.readable(column.attribute)}"
    told = f"{head} beyond its interval in {len(clear)} of {len(cells)} cells"
    counts = ", ".join(f"{wording.readable(str(name))} {n}" for name, n in clear["favoured"].value_counts().items())
    return f"{told}, in favour of: {counts}." if counts else f"{told}."


def _agreements(table: pd.DataFrame, by: str) -> list[str]:
    """One sentence over the rows with evidence."""
    told = []
    for row in table.to_dict("records"):
        if not row["n_counted"]:
            continue
        favoured = wording.readable(str(row["favoured"])) or "none more than others"
        text = f"{row[by]}: {row['n_same']} of {row['n_counted']} favour {favoured}"
        p = wording.p_value(float(row["p_adjusted"]))
        told.append(f"{text} ({p}, adjusted)" if p else text)
    head = "Agreement of datasets" if by == NAME else "Agreement on each dataset (same patients: not tested)"
    return [f"{head}: {'; '.join(told)}."] if told else []


def _row(row: dict[Any, Any], column: Column) -> tuple[str, ...]:
    gap, low, high = (float(row[name]) for name in ("gap", "gap_low", "gap_high"))
    return (
        str(row[BLOCK]),
        str(row[NAME]),
        wording.readable(str(row["favoured"])) or "–",
        wording.readable(str(row["least"])) or "–",
        wording.number(gap, column.metric),
        wording.interval(low, high, column.metric) or "–",
        "yes" if row["evidence"] else "no",
        str(row["reason"]),
    )
