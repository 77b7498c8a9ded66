"""Critical difference diagram: average ranks over datasets, and which of them no test tells apart (Demsar 2006)."""

from __future__ import annotations

import math

import pandas as pd

from fairmedfm_monai.fairness.ranks import Nemenyi

from . import plots
from .plots import BODY, INK, LEADING, MARGIN, MUTED, SMALL, TITLE, Drawing, Sheet
from .wording import p_value

_AXIS = 380.0
_STEP = 16.0
_CLIQUE_STEP = 7.0
_REACH = 22.0
_LABEL_LIMIT = 190.0


def critical_difference(result: Nemenyi, *, title: str = "Average ranks") -> Drawing:
    """Draw the diagram: best rank on the left, thick bars join methods that are less than the difference apart.

    Args:
        result: of `fairmedfm_monai.fairness.ranks.nemenyi`. Without statistics the figure says why, in a hatched field.
        title: above the figure.
    """
    ranks = result.friedman.average_ranks.dropna().sort_values(kind="stable")
    labels = [f"{plots.shortened(str(name), _LABEL_LIMIT)}  {rank:.2f}" for name, rank in ranks.items()]
    side = max((plots.width_of(label) for label in labels), default=0.0) + _REACH
    width = max(_AXIS + 2 * side, plots.width_of(title, TITLE, bold=True)) + 2 * MARGIN
    head = _wrapped_head(result, title, width)
    notes = plots.paragraphs(result.friedman.notes, width - 2 * MARGIN - 14)
    top = MARGIN + len(head) * BODY * LEADING + TITLE
    bottom = top + (_diagram_height(len(ranks), result) if len(ranks) else 46.0)
    sheet = Sheet(width, bottom + len(notes) * SMALL * LEADING + MARGIN)
    sheet.text(MARGIN, MARGIN + TITLE, title, size=TITLE, bold=True)
    sheet.lines(MARGIN + TITLE, head[1:], size=BODY)
    if len(ranks):
        _draw(sheet, result, ranks, labels, top=top, left=MARGIN + side)
    else:
        _draw_nothing(sheet, top)
    _notes(sheet, result, notes, bottom)
    return Drawing(sheet.figure, _described(result, ranks))


def _wrapped_head(result: Nemenyi, title: str, width: float) -> list[str]:
    first = result.friedman
    n, k = first.scores.table.shape
    text = f"{k} methods on {n} datasets, rank 1 is best."
    if math.isfinite(first.chi2):
        text += f" Friedman: chi² {first.chi2:.2f}, {p_value(first.p_chi2)}; F {_f(first.f)}, {p_value(first.p_f)}."
    elif first.reason:
        text += f" {'No ranks' if first.scores.reason else 'Friedman'}: {first.reason}."
    return [title, *plots.wrapped(text, width - 2 * MARGIN, BODY)]


def _f(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _diagram_height(methods: int, result: Nemenyi) -> float:
    return 66.0 + len(result.cliques) * _CLIQUE_STEP + math.ceil(methods / 2) * _STEP + 10.0


def _draw(sheet: Sheet, result: Nemenyi, ranks: pd.Series, labels: list[str], *, top: float, left: float) -> None:
    k = len(ranks)

    def place(rank: float) -> float:
        return left + (rank - 1) / (k - 1) * _AXIS

    axis = top + 54.0
    _bar(sheet, result, left, place(1 + min(result.critical_difference, k - 1)), top + 22.0)
    sheet.line([left, left + _AXIS], [axis, axis], width=1.2)
    for tick in range(1, k + 1):
        sheet.line([place(tick)] * 2, [axis - 5, axis], width=1.2)
        sheet.text(place(tick), axis - 8, str(tick), size=SMALL, colour=MUTED, align="center")
    y = axis + 4.0
    for clique in result.cliques:
        y += _CLIQUE_STEP
        ends = [place(float(ranks[name])) for name in (clique[0], clique[-1])]
        sheet.line([ends[0] - 3, ends[1] + 3], [y, y], colour=plots.PALETTE[1], width=3.4)
    first = axis + 8.0 + len(result.cliques) * _CLIQUE_STEP + _STEP * 0.8
    half = math.ceil(k / 2)
    for position, (rank, label) in enumerate(zip(ranks, labels, strict=True)):
        on_left = position < half
        y = first + _STEP * (position if on_left else k - 1 - position)
        end = left - _REACH if on_left else left + _AXIS + _REACH
        sheet.line([place(rank), place(rank), end], [axis, y, y], colour=INK, width=0.9)
        sheet.text(end + (-4 if on_left else 4), y + 3, label, align="right" if on_left else "left")


def _bar(sheet: Sheet, result: Nemenyi, start: float, end: float, y: float) -> None:
    """The critical difference as a length of the axis; where it is longer than the axis, the text says so."""
    k = len(result.friedman.average_ranks)
    longer = result.critical_difference > k - 1
    sheet.line([start, end], [y, y], colour=plots.PALETTE[0], width=2.0)
    for x in (start,) if longer else (start, end):
        sheet.line([x, x], [y - 4, y + 4], colour=plots.PALETTE[0], width=2.0)
    text = f"critical difference {result.critical_difference:.2f} (Nemenyi, alpha {result.alpha:g})"
    sheet.text(start, y - 7, text + (", longer than the axis" if longer else ""), size=SMALL, colour=MUTED)


def _draw_nothing(sheet: Sheet, top: float) -> None:
    sheet.missing(MARGIN, top + 6, sheet.width - 2 * MARGIN, 32)
    half = plots.width_of("no ranks") / 2 + 6
    sheet.box(sheet.width / 2 - half, top + 13, 2 * half, 18, fill="#ffffff")
    sheet.text(sheet.width / 2, top + 25.5, "no ranks", align="center")


def _notes(sheet: Sheet, result: Nemenyi, notes: list[str], top: float) -> None:
    """What a reader must know; a hatched square stands before what was left out."""
    left_out = set(result.friedman.scores.notes())
    starts = {plots.wrapped(note, sheet.width - 2 * MARGIN - 14)[0] for note in left_out}
    for position, line in enumerate(notes, start=1):
        y = top + position * SMALL * LEADING
        if line in starts:
            sheet.missing(MARGIN, y - 6.5, 8, 7)
        sheet.text(MARGIN + 14, y, line, size=SMALL, colour=MUTED)


def _described(result: Nemenyi, ranks: pd.Series) -> str:
    if ranks.empty:
        return f"No ranks: {result.friedman.reason}"
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.items())
    cliques = "; ".join(" = ".join(clique) for clique in result.cliques) or "none"
    return (
        f"Average ranks over {len(result.friedman.scores.table)} datasets: {told}. "
        f"Critical difference {result.critical_difference:.2f}. Not told apart: {cliques}."
    )
