"""Figures as inline SVG: sharp in print, readable text, no fonts or scripts to fetch.

Colours are Okabe and Ito's palette, which people with colour blindness tell apart; lines differ in their dashes too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7A7A7A")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "12 4", "1 4", "")
GREY = "#9aa3ad"
STRIP_WIDTH = 340
STRIP_HEIGHT = 26
PANEL = 268
_PAD = 15


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its limits in data units and the ticks that are drawn."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float, width: float = STRIP_WIDTH) -> float:
        """Position of a value in pixels, kept inside the strip."""
        share = (value - self.low) / (self.high - self.low)
        return _PAD + min(max(share, 0.0), 1.0) * (width - 2 * _PAD)


@dataclass(frozen=True)
class Line:
    """One curve of a panel: points in [0, 1] x [0, 1] and the text of its legend."""

    name: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    note: str = ""


def axis_for(values: Sequence[float], *, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Axis:
    """Choose limits and three to seven round ticks that hold all finite values.

    Args:
        values: everything that will be drawn; NaN and infinite ones are ignored.
        bounds: limits that the metric cannot pass, e.g. (0, 1).
    """
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    margin = max(0.06 * (high - low), 0.01 if math.isfinite(bounds[1]) else 0.05 * abs(high) + 1e-6)
    low, high = max(low - margin, bounds[0]), min(high + margin, bounds[1])
    if high <= low:
        low, high = bounds if all(map(math.isfinite, bounds)) else (low - 0.5, low + 0.5)
    step = _round_step((high - low) / 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple(round(k * step, 10) for k in range(first, last + 1)))


def _round_step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw - 1e-12)


def strip(
    axis: Axis,
    value: float,
    low: float,
    high: float,
    *,
    reference: float = math.nan,
    colour: str = PALETTE[0],
    band: tuple[float, float] | None = None,
    mark: float = math.nan,
    description: str = "",
) -> str:
    """One row of a forest plot: point, interval, the overall line and optionally a shaded band.

    Args:
        axis: shared by all rows of the plot.
        value: the estimate; nothing but the grid is drawn when it is not finite.
        low: lower end of the interval (NaN = none).
        high: upper end of the interval (NaN = none).
        reference: value of the overall line (NaN = none).
        colour: of point and interval.
        band: shaded range, e.g. what chance alone produces.
        mark: a second value, drawn as a hollow diamond (NaN = none).
        description: text for people who do not see the picture.

    Returns:
        An ``<svg>`` element of ``STRIP_WIDTH`` x ``STRIP_HEIGHT`` pixels.
    """
    middle = STRIP_HEIGHT / 2
    parts = [_vertical(axis.place(tick), "#e6e9ed", 1) for tick in axis.ticks]
    if band is not None and all(map(math.isfinite, band)):
        start, end = (axis.place(limit) for limit in band)
        parts.insert(0, f'<rect x="{start:.1f}" y="0" width="{max(end - start, 1):.1f}" height="100%" fill="#dfe5ec"/>')
    if math.isfinite(reference):
        parts.append(_vertical(axis.place(reference), "#5b6570", 1.2, dash="3 3"))
    if math.isfinite(low) and math.isfinite(high):
        parts.append(_horizontal(axis.place(low), axis.place(high), middle, colour))
    if math.isfinite(value):
        centre = axis.place(value)
        parts.append(f'<rect x="{centre - 4:.1f}" y="{middle - 4:.1f}" width="8" height="8" rx="1.5" fill="{colour}"/>')
    if math.isfinite(mark):
        at = axis.place(mark)
        parts.append(f'<path d="M{at - 5:.1f} {middle}l5 -5l5 5l-5 5z" fill="#fff" stroke="#000" stroke-width="1.4"/>')
    return _svg(STRIP_WIDTH, STRIP_HEIGHT, parts, description)


def scale(axis: Axis, *, digits: int = 2) -> str:
    """The tick labels under (or over) the strips of a forest plot."""
    texts = [
        f'<text x="{axis.place(tick):.1f}" y="13" text-anchor="middle" class="tick">{tick:.{digits}f}</text>'
        for tick in axis.ticks
    ]
    return _svg(STRIP_WIDTH, 18, texts, "")


def panel(
    lines: Sequence[Line],
    *,
    x_title: str,
    y_title: str,
    description: str,
    diagonal: bool = False,
    step: bool = False,
    x_high: float = 1.0,
) -> str:
    """A square panel with axes from 0 to 1, such as ROC curves or cumulative distributions.

    Args:
        lines: curves, drawn in the order of the palette.
        x_title: text under the axis.
        y_title: text beside the axis.
        description: text for people who do not see the picture.
        diagonal: draw the line of no skill.
        step: draw stairs (a distribution function) instead of straight joints.
        x_high: what the right end is called, for curves over another range that were scaled to [0, 1].
    """
    left, top, size = 44, 8, PANEL - 52
    parts = [f'<rect x="{left}" y="{top}" width="{size}" height="{size}" fill="#fbfcfd" stroke="#cfd6dd"/>']
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + tick * size, top + (1 - tick) * size
        if 0 < tick < 1:
            parts.append(f'<path d="M{x:.1f} {top}V{top + size}M{left} {y:.1f}H{left + size}" stroke="#e6e9ed"/>')
        anchor = "end" if tick == 1.0 and x_high >= 100 else "middle"  # three digits would be cut off at the edge
        parts.append(
            f'<text x="{x:.1f}" y="{top + size + 14}" text-anchor="{anchor}" class="tick">{tick * x_high:g}</text>'
        )
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="tick">{tick:g}</text>')
    if diagonal:
        parts.append(f'<path d="M{left} {top + size}L{left + size} {top}" stroke="{GREY}" stroke-dasharray="2 4"/>')
    for position, line in enumerate(lines):
        parts.append(_curve(line, position, left, top, size, step=step))
    middle = f'x="{left + size / 2}" y="{PANEL - 4}" text-anchor="middle"'
    parts.append(f'<text {middle} class="axis">{escape(x_title)}</text>')
    centre = top + size / 2
    parts.append(
        f'<text x="11" y="{centre}" text-anchor="middle" class="axis" transform="rotate(-90 11 {centre})">'
        f"{escape(y_title)}</text>"
    )
    return _svg(PANEL, PANEL, parts, description)


def swatch(position: int) -> str:
    """The piece of line that stands before a name in a legend."""
    colour, dash = PALETTE[position % len(PALETTE)], DASHES[position % len(DASHES)]
    line = f'<path d="M1 6H25" stroke="{colour}" stroke-width="2.4" stroke-dasharray="{dash}"/>'
    return f'<svg class="swatch" width="26" height="12" aria-hidden="true">{line}</svg>'


def _curve(line: Line, position: int, left: float, top: float, size: float, *, step: bool) -> str:
    x = left + np.clip(np.asarray(line.x, dtype=float), 0, 1) * size
    y = top + (1 - np.clip(np.asarray(line.y, dtype=float), 0, 1)) * size
    points = [f"{x[0]:.1f} {y[0]:.1f}"] if len(x) else []
    for k in range(1, len(x)):
        points.append(f"H{x[k]:.1f}V{y[k]:.1f}" if step else f"L{x[k]:.1f} {y[k]:.1f}")
    colour, dash = PALETTE[position % len(PALETTE)], DASHES[position % len(DASHES)]
    return (
        f'<path d="M{"".join(points) or "0 0"}" fill="none" stroke="{colour}" stroke-width="2" '
        f'stroke-linejoin="round" stroke-dasharray="{dash}"/>'
    )


def _vertical(x: float, colour: str, width: float, dash: str = "") -> str:
    return f'<path d="M{x:.1f} 0V{STRIP_HEIGHT}" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"/>'


def _horizontal(start: float, end: float, y: float, colour: str) -> str:
    ends = f"M{start:.1f} {y - 3.5:.1f}V{y + 3.5:.1f}M{end:.1f} {y - 3.5:.1f}V{y + 3.5:.1f}"
    return f'<path d="M{start:.1f} {y:.1f}H{end:.1f}{ends}" stroke="{colour}" stroke-width="1.8" fill="none"/>'


def _svg(width: float, height: float, parts: Sequence[str], description: str) -> str:
    role = f'role="img" aria-label="{escape(description, quote=True)}"' if description else 'aria-hidden="true"'
    return f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" {role}>{"".join(parts)}</svg>'
