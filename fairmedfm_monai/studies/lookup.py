"""Looking up numbers of cells: which cells are meant, which number of them, and what it is called."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from fairmedfm_monai.catalog import find_row
from fairmedfm_monai.fairness.disparities import ODDS_METRIC, larger_is_worse
from fairmedfm_monai.fairness.registry import METRICS
from fairmedfm_monai.fairness.report import ALL as EVERYONE
from fairmedfm_monai.fairness.report import OVERALL
from fairmedfm_monai.reporting import wording

from .cell import Cell
from .spec import ALL, Column

_KEY = ["key", "split", "prompt", "label", "attribute", "group", "metric", "statistic"]
_FIELD_WORDS = {"fm": "FM", "attributes": "mitigated attributes", "label": "settings"}
_NO_ROW = "not reported by this cell"


def field_of(cell: Cell, name: str) -> Any:
    """A field of a cell as study files write it: attributes are joined by ``+``."""
    value = getattr(cell, name)
    return "+".join(value) if name == "attributes" else "" if value is None else value


def matches(cell: Cell, where: Mapping[str, Any]) -> bool:
    """Whether a cell has the wanted values; a list means any of them."""
    return all(_agrees(field_of(cell, name), wanted) for name, wanted in where.items())


def _agrees(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, (list, tuple)) else bool(value == wanted)


class Number(NamedTuple):
    """One number of a cell: value with interval, and why there is none."""

    value: float
    low: float
    high: float
    reason: str


class Numbers:
    """The numbers that columns ask for.

    Args:
        frame: the long table of :func:`fairmedfm_monai.studies.collect.collect`.
        columns: all columns that will be asked for; other numbers are not kept.
    """

    def __init__(self, frame: pd.DataFrame, columns: Iterable[Column]) -> None:
        wanted = list(columns)
        kept = frame[
            frame["metric"].isin([column.metric for column in wanted])
            & frame["split"].isin([column.split for column in wanted])
        ]
        values = kept[["value", "ci_low", "ci_high"]].to_numpy(dtype=float).tolist()
        names = kept[_KEY].itertuples(index=False, name=None)
        self._found = {
            name: Number(value, low, high, reason)
            for name, (value, low, high), reason in zip(names, values, kept["reason"], strict=True)
        }

    def get(self, cell: Cell, column: Column) -> Number:
        """A cell's number; NaN and the reason where it has none."""
        found = self._found.get((cell.key, *_address(column)))
        return found or Number(math.nan, math.nan, math.nan, _NO_ROW)

    def expand(self, column: Column, cells: Iterable[Cell]) -> list[Column]:
        """The column itself, or one per label of the cells for label ``*`` (itself where no cell has any)."""
        if column.label != ALL:
            return [column]
        keys = {cell.key for cell in cells}
        pattern = _address(column)
        labels = {
            name[3]: None
            for name in self._found
            if name[0] in keys and name[3] and name[1:3] == pattern[:2] and name[4:] == pattern[3:]
        }
        return [replace(column, label=label, title=_with_label(column.title, label)) for label in labels] or [column]


def _with_label(title: str, label: str) -> str:
    return f"{title}, {wording.readable(label)}" if title else ""


def _address(column: Column) -> tuple[str, ...]:
    """split, prompt, label, attribute, group, metric, statistic of the row that a column means."""
    attribute = column.attribute or OVERALL
    group = "" if column.statistic else column.group or (EVERYONE if attribute == OVERALL else "")
    return column.split, column.prompt, column.label, attribute, group, column.metric, column.statistic


def same_number(one: Column, other: Column) -> bool:
    """Whether two columns mean the same number, whatever their titles."""
    return _address(one) == _address(other)


def title_of(column: Column) -> str:
    """Heading of a column: its own, or made from what it means."""
    if column.title:
        return column.title
    parts = [_statistic_title(column) if column.statistic else wording.metric(column.metric).title]
    if column.group:
        parts.append(wording.readable(column.group))
    about = wording.scope(column.prompt, "" if column.label == ALL else column.label)
    parts += [about] if about else []
    return ", ".join([*parts, *([column.split] if column.split != "test" else [])])


def _statistic_title(column: Column) -> str:
    """``AUC gap by sex``, ``AUC of the worst group by sex``, ``Equalised odds (larger gap) by sex``."""
    metric, statistic = wording.metric(column.metric).title, wording.statistic(column.statistic)
    named = {"gap": f"{metric} gap", "worst": f"{metric} of the worst group"}
    # A named criterion says what it is about; the others say so by their metric.
    other = statistic if column.metric == ODDS_METRIC else f"{metric}, {statistic.lower()}"
    return f"{named.get(column.statistic, other)} by {wording.readable(column.attribute)}"


def direction(column: Column) -> int:
    """+1 where larger is better, -1 where smaller is, 0 where neither is."""
    metric = METRICS.get(column.metric)
    if column.statistic:
        return -1 if larger_is_worse(column.statistic, metric) else 1
    if metric is None or metric.higher_is_better is None:
        return 0
    return 1 if metric.higher_is_better else -1


def limits(column: Column) -> tuple[float, float]:
    """Values that a number cannot pass: intervals are cut there."""
    if column.statistic in {"skewness", "dto"}:
        return 0.0, math.inf
    if column.metric in METRICS:
        return 0.0, METRICS[column.metric].upper
    return (0.0, 1.0) if column.statistic else (-math.inf, math.inf)


def field_title(name: str) -> str:
    """A cell field as the heading of a column."""
    return _FIELD_WORDS.get(name, wording.readable(name))


def field_value(name: str, value: str) -> str:
    """A value of a cell field for people: FMs by their titles, methods by the names that commands take."""
    if not value:
        return "–"
    if name == "fm":
        return find_row(value).title.partition(" (")[0]
    return value if name in {"mitigation", "variant", "base", "seed"} else wording.readable(value)
