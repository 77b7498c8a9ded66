from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fairmedfm_monai.reporting import figures, sentences


def parse(svg):
    return ET.fromstring(svg)  # noqa: S314 - made by this package


@pytest.mark.parametrize(
    "values", [[0.5], [0.0, 1.0], [0.801, 0.802], [math.nan], [3.0, 250.0], [0.0, 0.0], [1.0, 1.0]]
)
def test_axis_holds_all_values_and_has_few_round_ticks(values):
    bounds = (0.0, 1.0) if max(values) <= 1 or math.isnan(values[0]) else (0.0, math.inf)
    axis = figures.axis_for(values, bounds=bounds)
    assert all(axis.low <= value <= axis.high for value in values if math.isfinite(value))
    assert bounds[0] <= axis.low < axis.high <= bounds[1]
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in axis.ticks)


def test_strip_places_the_estimate_between_its_ends():
    axis = figures.Axis(0.0, 1.0, (0.0, 0.5, 1.0))
    assert axis.place(0.0) < axis.place(0.4) < axis.place(1.0)
    assert axis.place(5.0) == axis.place(1.0)
    svg = parse(figures.strip(axis, 0.5, 0.25, 0.75, description='a "b" <c>'))
    square = next(part for part in svg if part.get("fill") == figures.PALETTE[0] and part.tag == "rect")
    assert float(square.get("x")) + 4 == pytest.approx(axis.place(0.5), abs=0.1)
    assert svg.get("aria-label") == 'a "b" <c>'


def test_undefined_value_draws_no_mark():
    axis = figures.Axis(0.0, 1.0, (0.0, 1.0))
    svg = figures.strip(axis, math.nan, math.nan, math.nan, band=(0.0, math.nan), mark=math.nan)
    assert "<rect" not in svg
    parse(svg)


def test_panel_is_well_formed_and_tells_lines_apart_without_colour():
    lines = [figures.Line(f"g{k}", np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0])) for k in range(4)]
    root = parse(figures.panel(lines, x_title="x & y", y_title="<y>", description="d", diagonal=True))
    drawn = [part for part in root if part.get("stroke-width") == "2"]
    assert len({part.get("stroke-dasharray") for part in drawn}) == 4
    assert len({part.get("stroke") for part in drawn}) == 4


@pytest.mark.parametrize(
    ("raw", "adjusted", "verdict"),
    [(0.001, 0.01, "beyond chance"), (0.01, 0.2, "inconclusive"), (0.3, 0.9, "within chance")],
)
def test_verdicts(raw, adjusted, verdict):
    assert sentences._verdict({"p_value": raw, "p_adjusted": adjusted}) == verdict
