"""A sheet to draw on, for figures that must know how wide their texts are. Matplotlib is loaded by the first one.

Coordinates are points (1/72 inch) from the upper left corner. Every text is measured, so that figures can make room for
it; DejaVu Sans, which Matplotlib brings along, is wider than the fonts that usually replace it in a browser.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

from .figures import PALETTE

INK, MUTED, RULE = "#1c2127", "#4a525b", "#cfd6dd"
GROUP_COLOURS = (*PALETTE[:6], "#882255")
"""Of groups: no black or grey, which would read as a name where groups are races, or as missing."""
HATCH = "/////"
TITLE, BODY, SMALL = 11.0, 9.0, 7.5
LEADING = 1.35
MARGIN = 12.0
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fairmedfm",
    "font.family": "DejaVu Sans",
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        figure: the ``matplotlib.figure.Figure``.
        description: text for people who do not see the picture.
    """

    figure: Any
    description: str

    def svg(self) -> str:
        """An ``<svg>`` element for a page: texts stay text, the same figure gives the same bytes."""
        import matplotlib as mpl

        buffer = io.StringIO()
        with mpl.rc_context(_SETTINGS):
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        text = re.sub(r"\s*<(metadata|style).*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
        # Matplotlib's style sheet would reach every other picture of the page; as attributes it stays in this one.
        role = f'role="img" aria-label="{escape(self.description, quote=True)}"'
        return text.replace("<svg", f'<svg {role} stroke-linejoin="round" stroke-linecap="butt"', 1).rstrip()

    def save(self, path: str | Path) -> Path:
        """Write the figure as PNG or SVG, by the suffix of the path.

        Raises:
            ValueError: on another suffix.
        """
        import matplotlib as mpl

        target = Path(path)
        if target.suffix not in {".png", ".svg"}:
            msg = f"path: expected a name that ends in .png or .svg, got {str(path)!r}"
            raise ValueError(msg)
        if target.suffix == ".svg":
            target.write_text(self.svg() + "\n", encoding="utf-8")
            return target
        with mpl.rc_context(_SETTINGS):
            self.figure.savefig(target, dpi=144, metadata={"Software": None})
        return target


@lru_cache(maxsize=8192)
def width_of(text: str, size: float = BODY, *, bold: bool = False) -> float:
    """Width of a line of text in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    # Blanks at the end have no outline: a full stop stands in for them. An escaped dollar sign is no formula.
    plain = text.replace("$", r"\$")
    both = (TextPath((0, 0), f"{part}.", size=size, prop=font).get_extents().x1 for part in (plain, ""))
    return max(0.0, next(both) - next(both))


def wrapped(text: str, width: float, size: float = SMALL) -> list[str]:
    """Break a text into lines that are no wider than ``width``; a longer word is cut with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size))
    return lines


def shortened(text: str, width: float, size: float = BODY) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if width_of(text, size) <= width:
        return text
    keep = next((n for n in range(len(text) - 1, 0, -1) if width_of(f"{text[:n]}…", size) <= width), 0)
    return f"{text[:keep]}…"


def tint(colour: str, share: float = 0.28) -> str:
    """A colour mixed with white; ``share`` of it remains."""
    parts = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def ink_on(colour: str) -> str:
    """Black or white, whichever has more contrast to the colour (WCAG 2 relative luminance)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


class Sheet:
    """An empty figure.

    Args:
        width: in points.
        height: in points.
    """

    def __init__(self, width: float, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.axis("off")

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = BODY,
        colour: str = INK,
        align: str = "left",
        bold: bool = False,
        angle: float = 0.0,
    ) -> None:
        """Write one line; (x, y) is the start, middle or end of its base line."""
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            fontfamily="DejaVu Sans",
            color=colour,
            ha=align,
            va="baseline",
            weight="bold" if bold else "normal",
            rotation=angle,
            rotation_mode="anchor",
            parse_math=False,
        )

    def line(
        self, x: Sequence[float], y: Sequence[float], *, colour: str = INK, width: float = 1.0, style: str = "-"
    ) -> None:
        """Draw straight joints through the points."""
        self.axes.plot(x, y, color=colour, linewidth=width, linestyle=style, solid_capstyle="butt")

    def mark(self, x: float, y: float, shape: str, colour: str, *, filled: bool, size: float = 6.5) -> None:
        """Draw a marker of Matplotlib's; hollow ones have a white inside."""
        face, edge = (colour, "#000000") if filled else ("#ffffff", colour)
        self.axes.plot([x], [y], marker=shape, markersize=size, markerfacecolor=face, markeredgecolor=edge, lw=0)

    def box(self, x: float, y: float, width: float, height: float, *, fill: str, edge: str = "#ffffff") -> None:
        """Draw a filled rectangle."""
        self._patch(x, y, width, height, facecolor=fill, edgecolor=edge, linewidth=0.8)

    def missing(self, x: float, y: float, width: float, height: float) -> None:
        """Draw the hatched rectangle of something that was not measured."""
        self._patch(x, y, width, height, facecolor="#f3f4f6", edgecolor="#8b949e", linewidth=0.6, hatch=HATCH)

    def _patch(self, x: float, y: float, width: float, height: float, **style: Any) -> None:
        from matplotlib.patches import Rectangle

        self.axes.add_patch(Rectangle((x, y), width, height, **style))

    def lines(self, y: float, texts: Sequence[str], *, size: float = SMALL, colour: str = MUTED) -> float:
        """Write lines one below the other at the left margin; returns where the next would stand."""
        for text in texts:
            y += size * LEADING
            self.text(MARGIN, y, text, size=size, colour=colour)
        return y


def paragraphs(texts: Sequence[str], width: float, size: float = SMALL) -> list[str]:
    """Wrapped lines of several texts, each of which begins on a line of its own."""
    return [line for text in texts for line in wrapped(text, width, size)]


class Foot:
    """Legend and notes under a figure.

    Args:
        texts: of the legend, set one after the other like words.
        notes: texts that begin on a line of their own.
        width: of the sheet in points.
        swatch: room for the picture before each text of the legend, in points.
    """

    def __init__(self, texts: Sequence[str], notes: Sequence[str], *, width: float, swatch: float) -> None:
        available = width - 2 * MARGIN
        self.texts = [shortened(text, available - swatch - 5, SMALL) for text in texts]
        self.places = flow([swatch + 5 + width_of(text, SMALL) for text in self.texts], available)
        self.notes = paragraphs(notes, available)
        self.swatch = swatch

    @property
    def height(self) -> float:
        """In points, with the lower margin."""
        return self._legend_height + len(self.notes) * SMALL * LEADING + MARGIN

    @property
    def _legend_height(self) -> float:
        return 14.0 * (self.places[-1][0] + 1) if self.places else 0.0

    def draw(self, sheet: Sheet, top: float, picture: Callable[[int, float, float], None]) -> None:
        """Write the texts; ``picture(index, x, middle)`` draws what stands before one, from x, around that height."""
        for index, (text, (line, x)) in enumerate(zip(self.texts, self.places, strict=True)):
            y = top + 14.0 * line
            picture(index, MARGIN + x, y + 5)
            sheet.text(MARGIN + x + self.swatch + 5, y + 7.8, text, size=SMALL, colour=MUTED)
        sheet.lines(top + self._legend_height - 2, self.notes)


def flow(widths: Sequence[float], available: float, *, gap: float = 16.0) -> list[tuple[int, float]]:
    """Line and position of items that are set one after the other like words.

    Args:
        widths: (K,) in points.
        available: width of a line in points.
        gap: between two items.

    Returns:
        (line, x) per item.
    """
    places, line, x = [], 0, 0.0
    for width in widths:
        if x > 0 and x + width > available:
            line, x = line + 1, 0.0
        places.append((line, x))
        x += width + gap
    return places
