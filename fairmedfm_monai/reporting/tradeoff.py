"""Utility against unfairness: what each method gives and takes, with intervals and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairmedfm_monai.fairness.pareto import pareto_front

from . import plots
from .figures import PALETTE, Axis, axis_for
from .plots import MARGIN, MUTED, RULE, SMALL, TITLE, Drawing, Sheet

_PLOT_WIDTH, _PLOT_HEIGHT = 200.0, 160.0
_LEFT, _ABOVE, _BELOW, _RIGHT = 54.0, 22.0, 34.0, 14.0
_PANEL_WIDTH = _LEFT + _PLOT_WIDTH + _RIGHT
_LEAST_WIDTH = 320.0
_BAND = 15.0
_PER_LINE = 3
_SHAPES = ("o", "s", "^", "D", "v", "P", "X")
"""Seven shapes and eight colours share no divisor: 56 names look different, neighbours differ in both."""
_NUMBERS = ("utility", "utility_low", "utility_high", "gap", "gap_low", "gap_high")


@dataclass(frozen=True)
class Look:
    """Title of an axis and what is better on it.

    Attributes:
        title: of the number.
        higher_is_better: direction.
    """

    title: str
    higher_is_better: bool

    @property
    def label(self) -> str:
        """Text beside the axis."""
        return f"{self.title} ({'higher' if self.higher_is_better else 'lower'} is better)"


def tradeoff(
    points: pd.DataFrame,
    *,
    utility: str,
    gap: str,
    utility_higher: bool = True,
    gap_higher: bool = False,
    title: str = "Utility and fairness",
) -> Drawing:
    """Draw one panel per dataset: fairness to the right, utility upwards, a point per method.

    Filled points with a black edge are on the Pareto front of the point estimates (`pareto_front`), which a dotted line
    joins; the others are hollow. Thin lines are intervals. Methods without one of the numbers stand in the hatched band
    under the axis and are named below with their reason.

    Args:
        points: one row per panel and method: ``name``, ``utility``, ``gap``, and where known their ends
            ``utility_low``, ``utility_high``, ``gap_low``, ``gap_high``, the ``panel`` (one panel otherwise) and the
            ``reason`` why a number is missing.
        utility: title of the utility, e.g. ``AUC``.
        gap: title of the fairness number, e.g. ``AUC gap by sex``.
        utility_higher: whether more utility is better.
        gap_higher: whether more of the fairness number is better (worst group, equity-scaled metrics).
        title: above the figure.

    Raises:
        ValueError: on missing columns, or two points of one name in a panel, or more names than can be told apart.
    """
    table = _checked(points)
    axes = (Look(gap, gap_higher), Look(utility, utility_higher))
    names = list(table["name"].unique())
    looks = {name: (_SHAPES[k % len(_SHAPES)], PALETTE[k % len(PALETTE)]) for k, name in enumerate(names)}
    panels = [(str(name), part) for name, part in table.groupby("panel", sort=False)]
    across = max(1, min(_PER_LINE, len(panels)))
    least = max(_LEAST_WIDTH, plots.width_of(title, TITLE, bold=True))
    width = max(across * _PANEL_WIDTH, least) + 2 * MARGIN
    band = 0.0 if _known(table).all() else _BAND
    height = _ABOVE + _PLOT_HEIGHT + band + _BELOW
    legend = [*names, *_meanings(table)]
    foot = plots.Foot(legend, _missing_notes(panels), width=width, swatch=13)
    top = MARGIN + TITLE + 12
    bottom = top + math.ceil(len(panels) / across) * height + 8
    sheet = Sheet(width, bottom + foot.height)
    sheet.text(MARGIN, MARGIN + TITLE, title, size=TITLE, bold=True)
    for position, (name, part) in enumerate(panels):
        x = MARGIN + position % across * _PANEL_WIDTH + _LEFT
        y = top + position // across * height + _ABOVE
        _Panel(sheet, x, y, axes, part, band).draw(name, looks)
    foot.draw(sheet, bottom, lambda at, x, y: _swatch(sheet, x, y, legend[at], looks.get(legend[at])))
    return Drawing(sheet.figure, _described(title, axes, panels))


def _meanings(table: pd.DataFrame) -> list[str]:
    """What the looks of points mean, as far as the figure has them."""
    ends = table[["utility_low", "gap_low"]].notna().any(axis=None)
    complete = _known(table).all()
    return ["on the Pareto front", "dominated", *(["interval"] if ends else []), *([] if complete else ["missing"])]


def _checked(points: pd.DataFrame) -> pd.DataFrame:
    absent = [name for name in ("name", "utility", "gap") if name not in points]
    if absent:
        msg = f"points: column(s) {', '.join(absent)} are missing; expected name, utility and gap at least"
        raise ValueError(msg)
    table = points.assign(**{name: points.get(name, math.nan) for name in _NUMBERS}).astype(
        dict.fromkeys(_NUMBERS, float)
    )
    table = table.assign(**{name: points[name].astype(str) if name in points else "" for name in ("panel", "reason")})
    table = table.assign(name=table["name"].astype(str)).reset_index(drop=True)
    if (twice := table.duplicated(["panel", "name"])).any():
        first = table[twice].iloc[0]
        msg = f"points: {first['name']!r} stands twice in panel {first['panel']!r}; one row per panel and name"
        raise ValueError(msg)
    if table["name"].nunique() > (most := len(_SHAPES) * len(PALETTE)):
        msg = f"points: {table['name'].nunique()} names, but only {most} can be told apart; draw several figures"
        raise ValueError(msg)
    return table


def _known(part: pd.DataFrame) -> NDArray[np.bool_]:
    """(rows,) which points have both numbers."""
    return np.isfinite(part[["utility", "gap"]].to_numpy()).all(axis=1)


def front_of(part: pd.DataFrame, axes: tuple[Look, Look]) -> NDArray[np.bool_]:
    """(rows,) which points of a panel are on the Pareto front."""
    signs = [1 if axis.higher_is_better else -1 for axis in axes]
    return pareto_front(part[["gap", "utility"]].to_numpy(), signs)


class _Panel:
    """One panel: scales, frame and points."""

    def __init__(
        self, sheet: Sheet, x: float, y: float, axes: tuple[Look, Look], part: pd.DataFrame, band: float
    ) -> None:
        self.sheet, self.x, self.y, self.axes, self.part, self.band = sheet, x, y, axes, part, band
        self.known = _known(part)
        self.across, self.up = (self._axis(name) for name in ("gap", "utility"))

    def _axis(self, name: str) -> Axis:
        numbers = self.part.loc[self.known, [name, f"{name}_low", f"{name}_high"]].to_numpy()
        finite = numbers[np.isfinite(numbers)]
        # Rates stay within [0, 1]; what leaves it is a distance, whose only limit is 0.
        inside = finite.size == 0 or (finite.min() >= 0 and finite.max() <= 1)
        bounds = (0.0, 1.0) if inside else (min(0.0, float(finite.min())), math.inf)
        return axis_for(finite.tolist(), bounds=bounds)

    def _right(self, value: float) -> float:
        return self.x + (value - self.across.low) / (self.across.high - self.across.low) * _PLOT_WIDTH

    def _down(self, value: float) -> float:
        return self.y + (self.up.high - value) / (self.up.high - self.up.low) * _PLOT_HEIGHT

    def draw(self, name: str, looks: dict[str, tuple[str, str]]) -> None:
        sheet = self.sheet
        sheet.text(self.x, self.y - 7, plots.shortened(name, _PLOT_WIDTH), bold=True)
        sheet.box(self.x, self.y, _PLOT_WIDTH, _PLOT_HEIGHT, fill="#fbfcfd", edge=RULE)
        self._grid()
        self._missing()
        known = self.part[self.known]
        front = front_of(known, self.axes)
        self._stairs(known[front])
        for row in known.to_dict("records"):
            self._interval(row, looks[row["name"]][1])
        for row, filled in sorted(zip(known.to_dict("records"), front, strict=True), key=lambda pair: bool(pair[1])):
            shape, colour = looks[row["name"]]
            sheet.mark(self._right(row["gap"]), self._down(row["utility"]), shape, colour, filled=bool(filled))

    def _grid(self) -> None:
        sheet, base = self.sheet, self.y + _PLOT_HEIGHT
        for tick in self.across.ticks:
            x = self._right(tick)
            sheet.line([x, x], [self.y, base], colour="#e6e9ed", width=0.7)
            sheet.text(x, base + self.band + 11, f"{tick:g}", size=SMALL, colour=MUTED, align="center")
        for tick in self.up.ticks:
            y = self._down(tick)
            sheet.line([self.x, self.x + _PLOT_WIDTH], [y, y], colour="#e6e9ed", width=0.7)
            sheet.text(self.x - 5, y + 2.7, f"{tick:g}", size=SMALL, colour=MUTED, align="right")
        middle = self.x + _PLOT_WIDTH / 2
        label = plots.shortened(self.axes[0].label, _PLOT_WIDTH + _RIGHT, SMALL)
        sheet.text(middle, base + self.band + 23, label, size=SMALL, align="center")
        label = plots.shortened(self.axes[1].label, _PLOT_HEIGHT + _BAND, SMALL)
        sheet.text(self.x - 40, self.y + _PLOT_HEIGHT / 2, label, size=SMALL, align="center", angle=90)

    def _missing(self) -> None:
        """The band under the axis: who has no place above it."""
        absent = int(np.count_nonzero(~self.known))
        if not absent:
            return
        y = self.y + _PLOT_HEIGHT
        self.sheet.missing(self.x, y, _PLOT_WIDTH, _BAND)
        text = f"{absent} missing"
        half = plots.width_of(text, SMALL) / 2 + 4
        self.sheet.box(self.x + _PLOT_WIDTH / 2 - half, y + 2.5, 2 * half, _BAND - 5, fill="#ffffff")
        self.sheet.text(self.x + _PLOT_WIDTH / 2, y + 10, text, size=SMALL, colour=MUTED, align="center")

    def _stairs(self, front: pd.DataFrame) -> None:
        """Dotted line through the front: everything on its worse side is dominated."""
        ordered = front.sort_values(["gap", "utility"])
        x = [self._right(value) for value in ordered["gap"]]
        y = [self._down(value) for value in ordered["utility"]]
        # The corner is as bad in each number as the worse of the two points: it is dominated, what lies beyond is not.
        late = not self.axes[0].higher_is_better
        for k in range(1, len(x)):
            corner = (x[k], y[k - 1]) if late else (x[k - 1], y[k])
            self.sheet.line(
                [x[k - 1], corner[0], x[k]], [y[k - 1], corner[1], y[k]], colour=MUTED, style=":", width=1.1
            )

    def _interval(self, row: dict[str, float], colour: str) -> None:
        x, y = self._right(row["gap"]), self._down(row["utility"])
        if math.isfinite(row["gap_low"]) and math.isfinite(row["gap_high"]):
            ends = [self._right(row["gap_low"]), self._right(row["gap_high"])]
            self.sheet.line(ends, [y, y], colour=plots.tint(colour, 0.5), width=0.9)
        if math.isfinite(row["utility_low"]) and math.isfinite(row["utility_high"]):
            ends = [self._down(row["utility_low"]), self._down(row["utility_high"])]
            self.sheet.line([x, x], ends, colour=plots.tint(colour, 0.5), width=0.9)


def _swatch(sheet: Sheet, x: float, middle: float, text: str, look: tuple[str, str] | None) -> None:
    if look is not None:
        sheet.mark(x + 6, middle, look[0], look[1], filled=False)
    elif text == "missing":
        sheet.missing(x, middle - 4, 13, 8)
    elif text == "interval":
        sheet.line([x, x + 13], [middle, middle], colour=plots.tint(PALETTE[7], 0.7), width=1.1)
    else:
        sheet.mark(x + 6, middle, "o", PALETTE[7], filled=text != "dominated")


def _missing_notes(panels: Sequence[tuple[str, pd.DataFrame]]) -> list[str]:
    """One sentence per panel that names who is missing, grouped by reason."""
    notes = []
    for name, part in panels:
        absent = part[~_known(part)]
        told = [
            f"{', '.join(group['name'])} ({reason or 'no result'})"
            for reason, group in absent.groupby("reason", sort=False)
        ]
        if told:
            notes.append(f"{name + ': ' if name else ''}missing {'; '.join(told)}.")
    return notes


def _described(title: str, axes: tuple[Look, Look], panels: Sequence[tuple[str, pd.DataFrame]]) -> str:
    told = []
    for name, part in panels:
        known = part[_known(part)]
        front = known[front_of(known, axes)]
        best = ", ".join(f"{row['name']} ({row['utility']:.3g}, {row['gap']:.3g})" for row in front.to_dict("records"))
        told.append(f"{name + ': ' if name else ''}{len(known)} of {len(part)} points, Pareto front: {best or 'none'}")
    return f"{title}: {axes[1].label} against {axes[0].label}. {'; '.join(told)}."
