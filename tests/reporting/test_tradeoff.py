from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import pareto_front
from fairmedfm_monai.reporting.tradeoff import tradeoff
from tests.reporting.sheets import assert_readable, hatched, markers, texts

FMS = [f"a_foundation_model-{k}" for k in range(13)] + ["a_model-with-a-name-that-is-longer-than-the-others-are"]


def points(panels=1, names=FMS, *, seed=0, missing=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    rows = []
    for panel in range(panels):
        for name in names:
            utility, gap = rng.uniform(0.5, 0.9) * scale, rng.uniform(0, 0.2) * scale
            ends = {
                "utility_low": utility - 0.02,
                "utility_high": utility + 0.03,
                "gap_low": 0.0,
                "gap_high": gap + 0.02,
            }
            row = {"panel": f"dataset_{panel}", "name": name, "utility": utility, "gap": gap, "reason": "", **ends}
            if rng.random() < missing:
                row |= dict.fromkeys(("utility", "gap", *ends), math.nan) | {
                    "reason": str(rng.choice(["no data", "failed"]))
                }
            rows.append(row)
    return pd.DataFrame(rows)


def draw(table, **options):
    return tradeoff(table, **{"utility": "AUC", "gap": "AUC gap by sex", **options})


@pytest.mark.parametrize(("panels", "scale"), [(10, 1.0), (1, 1.0), (2, 0.001), (4, 300.0)])
def test_labels_never_overlap(panels, scale):
    assert_readable(draw(points(panels, missing=0.15, scale=scale)))


def places(drawing, table):
    """Drawn points of one panel by name: the order of drawing is dominated first, and the legend comes last."""
    return markers(drawing)[: len(table)]


@pytest.mark.parametrize("higher", [(True, False), (True, True), (False, False), (False, True)])
def test_points_are_placed_to_scale_and_the_front_is_filled(higher):
    table = points(names=FMS[:9])
    drawing = draw(table, utility_higher=higher[0], gap_higher=higher[1])
    front = pareto_front(table[["utility", "gap"]], [1 if up else -1 for up in higher])
    drawn = places(drawing, table)
    order = [*np.flatnonzero(~front), *np.flatnonzero(front)]
    assert [filled for _, _, filled, _, _ in drawn] == sorted(front)
    x, y = np.array([place[3:] for place in drawn]).T
    gaps, utilities = table["gap"].to_numpy()[order], table["utility"].to_numpy()[order]
    assert np.corrcoef(x, gaps)[0, 1] == pytest.approx(1)
    assert np.corrcoef(y, utilities)[0, 1] == pytest.approx(-1)  # the sheet counts downwards
    words = ["lower is better", "higher is better"]
    assert {f"AUC ({words[higher[0]]})", f"AUC gap by sex ({words[higher[1]]})"} <= set(texts(drawing))


@pytest.mark.parametrize("higher", [(True, False), (True, True), (False, False), (False, True)])
def test_stairs_keep_every_point_on_their_worse_side(higher):
    table = points(names=[f"n{k}" for k in range(30)], seed=3)
    drawing = draw(table, utility_higher=higher[0], gap_higher=higher[1])
    stairs = [line.get_xydata() for line in drawing.figure.axes[0].lines if line.get_linestyle() == ":"]
    drawn = np.array([place[3:] for place in places(drawing, table)])
    assert len(stairs) >= 1
    better = np.array([1 if higher[1] else -1, -1 if higher[0] else 1])
    for corner in (steps[1] for steps in stairs):
        beyond = ((drawn - corner) * better > 1e-6).all(axis=1)
        at_least = ((drawn - corner) * better >= -1e-6).all(axis=1)
        assert not beyond.any()
        assert at_least.sum() >= 2  # the two points of the front that meet there


def test_intervals_reach_from_end_to_end():
    table = pd.DataFrame(
        {
            "name": ["a", "b"],
            "utility": [0.6, 0.8],
            "gap": [0.1, 0.3],
            "gap_low": [0.0, 0.2],
            "gap_high": [0.2, math.nan],
        }
    )
    drawing = draw(table)
    (_, _, _, x_a, y_a), (_, _, _, x_b, _) = sorted(places(drawing, table), key=lambda place: place[3])
    spans = [line.get_xydata() for line in drawing.figure.axes[0].lines if line.get_linewidth() == 0.9]
    assert len(spans) == 1  # an end that is not known is no interval
    unit = (x_b - x_a) / 0.2
    assert spans[0].ravel().tolist() == pytest.approx([x_a - 0.1 * unit, y_a, x_a + 0.1 * unit, y_a])


def test_methods_without_numbers_are_hatched_and_named():
    table = points(2, names=["clip", "plip", "sam"])
    table.loc[1, ["utility", "reason"]] = [math.nan, "no weights"]
    table.loc[4, ["gap", "reason"]] = [math.nan, ""]
    table.loc[5, "gap"] = math.inf
    drawing = draw(table)
    shown = texts(drawing)
    assert {"1 missing", "2 missing"} <= set(shown)
    assert "dataset_0: missing plip (no weights)." in shown
    assert "dataset_1: missing plip, sam (no result)." in shown
    assert len(hatched(drawing)) == 3
    assert "dataset_0: 2 of 3 points" in drawing.description
    complete = draw(points(names=["clip", "plip"]))
    assert not hatched(complete)
    assert "missing" not in texts(complete)


def test_a_panel_without_any_number():
    table = pd.DataFrame({"name": ["a", "b"], "utility": [math.nan] * 2, "gap": [math.nan] * 2, "reason": "no data"})
    drawing = draw(table)
    assert "2 missing" in texts(drawing)
    assert "Pareto front: none" in drawing.description
    assert_readable(drawing)


def test_many_methods_look_different():
    names = [f"n{k}" for k in range(56)]
    table = points(names=names)
    drawn = places(draw(table), table)
    assert len({place[:2] for place in drawn}) == 56
    with pytest.raises(ValueError, match="57 names, but only 56"):
        draw(points(names=[*names, "more"]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"name": ["a"], "utility": [0.5]}), r"column\(s\) gap are missing"),
        (pd.DataFrame({"name": ["a", "a"], "utility": [0.5] * 2, "gap": [0.1] * 2}), "'a' stands twice"),
    ],
)
def test_bad_input_is_refused(table, message):
    with pytest.raises(ValueError, match=message):
        draw(table)
