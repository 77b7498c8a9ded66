"""Map of the favoured group: which group each FM works best for on each dataset, and where that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from . import plots, wording
from .plots import MARGIN, MUTED, SMALL, TITLE, Drawing, Sheet

_ROW = 19.0
_COLUMN = 54.0
_LEAST_WIDTH = 330.0
_NAME_LIMIT = 190.0
_HEAD_LIMIT = 120.0
_TURN = math.radians(45)


def favoured_heatmap(
    cells: pd.DataFrame,
    *,
    metric: str,
    attribute: str,
    row: str = "fm",
    column: str = "dataset",
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    missing: Mapping[tuple[str, str], str] | None = None,
    title: str = "",
) -> Drawing:
    """Draw a table of cells, each in the colour of its favoured group with the gap as a number.

    Full colour and bold: the interval of the gap excludes 0. Pale: it does not. Hatched: nothing was measured there or
    nothing can be compared, with the reason.

    Args:
        cells: of `fairmedfm_monai.fairness.favoured.favoured_groups`, at most one per row and column.
        metric: what the groups were compared by.
        attribute: whose groups they are.
        row: column of ``cells`` that names the row.
        column: column of ``cells`` that names the column.
        rows: every row of the map in order, also those without a cell; by default those of ``cells`` and ``missing``.
        columns: every column likewise.
        missing: (row, column) -> why there is no cell; "no result" otherwise.
        title: above the figure; by default made of metric and attribute.

    Raises:
        ValueError: when two cells share a place, or one stands in a row or column that is not listed.
    """
    absent = dict(missing or {})
    rows = _listed(rows, cells[row], [at[0] for at in absent])
    columns = _listed(columns, cells[column], [at[1] for at in absent])
    placed = _placed(cells, row, column, rows, columns)
    groups = sorted({name for cell in placed.values() for name in str(cell["groups"]).split("|") if name})
    codes = _codes(groups)
    title = title or f"Favoured group by {wording.readable(attribute)}: {wording.metric(metric).title}"
    why = {(r, c): _why(placed.get((r, c)), absent.get((r, c)) or "no result") for r in rows for c in columns}
    marks = _footnotes(why.values())
    left = MARGIN + max((plots.width_of(plots.shortened(name, _NAME_LIMIT)) for name in rows), default=0.0) + 8
    reach = max((plots.width_of(plots.shortened(name, _HEAD_LIMIT)) for name in columns), default=0.0)
    width = max(left + len(columns) * _COLUMN + reach * math.cos(_TURN) + MARGIN, _title_width(title), _LEAST_WIDTH)
    legend = _legend(groups, codes, placed, why)
    notes = [f"{mark}: {reason}" for reason, mark in marks.items()]
    foot = plots.Foot([text for _, text in legend], notes, width=width, swatch=18)
    top = MARGIN + TITLE + 14 + reach * math.sin(_TURN) + 10
    bottom = top + len(rows) * _ROW + 14
    sheet = Sheet(width, bottom + foot.height)
    sheet.text(MARGIN, MARGIN + TITLE, title, size=TITLE, bold=True)
    _headings(sheet, rows, columns, left, top)
    for (i, r), (j, c) in product(enumerate(rows), enumerate(columns)):
        x, y = left + j * _COLUMN, top + i * _ROW
        if reason := why[r, c]:
            _hatched(sheet, x, y, marks.get(reason, reason))
        else:
            _cell(sheet, x, y, placed[r, c], groups, codes, metric)
    foot.draw(sheet, bottom, lambda at, x, y: _swatch(sheet, x, y - 5, legend[at][0]))
    return Drawing(sheet.figure, _described(title, placed, why))


def _title_width(title: str) -> float:
    return plots.width_of(title, TITLE, bold=True) + 2 * MARGIN


def _listed(names: Sequence[str] | None, of_cells: pd.Series, of_missing: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*map(str, of_cells), *of_missing] if names is None else names))


def _placed(
    cells: pd.DataFrame, row: str, column: str, rows: Sequence[str], columns: Sequence[str]
) -> dict[tuple[str, str], dict[Any, Any]]:
    placed: dict[tuple[str, str], dict[Any, Any]] = {}
    for cell in cells.to_dict("records"):
        at = (str(cell[row]), str(cell[column]))
        if at in placed:
            msg = f"cells: several have {row} {at[0]} and {column} {at[1]}; choose among them first"
            raise ValueError(msg)
        if at[0] not in rows or at[1] not in columns:
            msg = f"cells: {row} {at[0]}, {column} {at[1]} has no place; list it in rows and columns"
            raise ValueError(msg)
        placed[at] = cell
    return placed


def _why(cell: Mapping[Any, Any] | None, absent: str) -> str:
    """Why a place is hatched; empty where it is not."""
    if cell is None:
        return absent
    return "" if math.isfinite(float(cell["gap"])) else str(cell["reason"])


def _footnotes(reasons: Any) -> dict[str, str]:
    """Reason -> mark, for reasons that are too wide for a field."""
    long = [text for text in dict.fromkeys(reasons) if plots.width_of(text, SMALL) > _COLUMN - 9]
    return {text: f"({position})" for position, text in enumerate(long, start=1)}


def _codes(groups: Sequence[str]) -> dict[str, str]:
    """The shortest beginning of each name that no other has, up to three letters; numbers where that does not do."""
    names = [wording.readable(group) for group in groups]
    for length in (1, 2, 3):
        short = [name[:length].strip() for name in names]
        if len(set(short)) == len(short):
            return dict(zip(groups, short, strict=True))
    return {group: str(position) for position, group in enumerate(groups, start=1)}


def _colour(group: str, groups: Sequence[str]) -> str:
    return plots.GROUP_COLOURS[groups.index(group) % len(plots.GROUP_COLOURS)]


def _headings(sheet: Sheet, rows: Sequence[str], columns: Sequence[str], left: float, top: float) -> None:
    for i, name in enumerate(rows):
        y = top + i * _ROW + _ROW / 2 + 3
        sheet.text(left - 8, y, plots.shortened(name, _NAME_LIMIT), align="right")
    for j, name in enumerate(columns):
        sheet.text(left + (j + 0.5) * _COLUMN, top - 5, plots.shortened(name, _HEAD_LIMIT), angle=45)


def _hatched(sheet: Sheet, x: float, y: float, text: str) -> None:
    sheet.missing(x + 0.5, y + 0.5, _COLUMN - 1, _ROW - 1)
    half = plots.width_of(text, SMALL) / 2 + 2.5
    sheet.box(x + _COLUMN / 2 - half, y + 4, 2 * half, _ROW - 8, fill="#ffffff")
    sheet.text(x + _COLUMN / 2, y + _ROW / 2 + 2.6, text, size=SMALL, colour=MUTED, align="center")


def _cell(
    sheet: Sheet,
    x: float,
    y: float,
    cell: Mapping[Any, Any],
    groups: Sequence[str],
    codes: Mapping[str, str],
    metric: str,
) -> None:
    group, sure = str(cell["favoured"]), bool(cell["evidence"])
    full = _colour(group, groups) if group else "#ffffff"
    fill = full if sure or not group else plots.tint(full)
    text = f"{codes.get(group, '=')} {wording.number(float(cell['gap']), metric, unit=False)}"
    sheet.box(x + 0.5, y + 0.5, _COLUMN - 1, _ROW - 1, fill=fill, edge="#ffffff" if group else plots.RULE)
    text = plots.shortened(text, _COLUMN - 4, SMALL)
    sheet.text(
        x + _COLUMN / 2, y + _ROW / 2 + 2.6, text, size=SMALL, colour=plots.ink_on(fill), align="center", bold=sure
    )


def _legend(
    groups: Sequence[str],
    codes: Mapping[str, str],
    placed: Mapping[tuple[str, str], Mapping[Any, Any]],
    why: Mapping[tuple[str, str], str],
) -> list[tuple[tuple[str, ...], str]]:
    """Looks and texts: one per group, then what the looks mean, as far as the figure has them."""
    items: list[tuple[tuple[str, ...], str]] = [
        ((_colour(group, groups),), f"{codes[group]}  best for {wording.readable(group)}") for group in groups
    ]
    if groups:
        some = _colour(groups[0], groups)
        items.append(((some, plots.tint(some)), "full colour, bold: interval of the gap excludes 0; pale: it does not"))
    if any(not cell["favoured"] and math.isfinite(float(cell["gap"])) for cell in placed.values()):
        items.append((("#ffffff",), "=  equally good"))
    if any(why.values()):
        items.append(((), "missing or not comparable"))
    return items


def _swatch(sheet: Sheet, x: float, y: float, look: tuple[str, ...]) -> None:
    if not look:
        sheet.missing(x, y, 18, 10)
    for position, colour in enumerate(look):
        wide = 18 / len(look)
        sheet.box(x + position * wide, y, wide, 10, fill=colour, edge=plots.RULE if colour == "#ffffff" else colour)


def _described(
    title: str, placed: Mapping[tuple[str, str], Mapping[Any, Any]], why: Mapping[tuple[str, str], str]
) -> str:
    sure = [str(cell["favoured"]) for cell in placed.values() if cell["evidence"]]
    counts = ", ".join(f"{wording.readable(name)} {sure.count(name)}" for name in dict.fromkeys(sure)) or "none"
    hatched = sum(1 for reason in why.values() if reason)
    return (
        f"{title}. {len(why) - hatched} of {len(why)} places can be compared; "
        f"beyond the interval of the gap: {counts}; {hatched} missing."
    )
