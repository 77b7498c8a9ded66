"""The figures of a study, each with its result in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

from .picture import Picture
from .tables import Source

if TYPE_CHECKING:
    from .spec import Column, FigureSpec


def figure_columns(spec: FigureSpec) -> list[Column]:
    """The numbers that a figure needs."""
    return [column for column in (spec.utility, spec.gap, spec.column) if column is not None]


def draw(spec: FigureSpec, source: Source, frame: pd.DataFrame, position: int) -> Picture:
    """Draw one figure.

    What cannot be drawn, e.g. because neither direction of a number is better, is told in words: the rest of the page
    does not depend on it.

    Args:
        spec: what to draw.
        source: plan and numbers.
        frame: the long table.
        position: of the figure in the study, for its file name.
    """
    name = spec.name or f"{spec.kind}-{position + 1}"
    try:
        return _DRAWERS[spec.kind](spec, source, frame, name)
    except ValueError as error:
        return Picture(name=name, title=spec.title, texts=(f"Not drawn: {error}.",))


def _ranks(spec: FigureSpec, source: Source, _: pd.DataFrame, name: str) -> Picture:
    from .figure_ranks import draw_ranks

    return draw_ranks(spec, _given(spec.column, "column"), source, name)


def _favoured(spec: FigureSpec, source: Source, frame: pd.DataFrame, name: str) -> Picture:
    from .figure_favoured import draw_favoured

    return draw_favoured(spec, _given(spec.column, "column"), source, frame, name)


def _tradeoff(spec: FigureSpec, source: Source, _: pd.DataFrame, name: str) -> Picture:
    from .figure_tradeoff import draw_tradeoff

    return draw_tradeoff(spec, _given(spec.utility, "utility"), _given(spec.gap, "gap"), source, name)


def _given(column: Column | None, name: str) -> Column:
    if column is None:
        msg = f"the figure names no `{name}`"
        raise ValueError(msg)
    return column


_DRAWERS: dict[str, Callable[[FigureSpec, Source, pd.DataFrame, str], Picture]] = {
    "ranks": _ranks,
    "favoured": _favoured,
    "tradeoff": _tradeoff,
}
