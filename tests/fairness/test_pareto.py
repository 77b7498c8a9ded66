"""The Pareto front against the definition written out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import pareto_front, selection_sign


def dominates(left, right, directions):
    """The definition, one number at a time."""
    better = worse = False
    for a, b, sign in zip(left, right, directions, strict=True):
        better |= bool(a > b) if sign > 0 else bool(a < b)
        worse |= bool(a < b) if sign > 0 else bool(a > b)
    return better and not worse


def brute_front(points, directions):
    whole = [row for row in points if not any(map(math.isnan, row))]
    return [row in whole and not any(dominates(other, row, directions) for other in whole) for row in points]


@pytest.mark.parametrize("directions", [(1,), (-1,), (1, -1), (-1, -1, 1), (1, 1, 1, -1)])
def test_equals_the_definition_with_ties_and_undefined_values(directions):
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 7, 30):
        points = rng.integers(0, 5, (n, len(directions))) / 4
        points[rng.random(points.shape) < 0.1] = np.nan
        assert pareto_front(points, directions).tolist() == brute_front(points.tolist(), directions)


def test_epochs_of_a_training_by_hand():
    epochs = pd.DataFrame(
        {
            "val/auc": [0.80, 0.85, 0.85, 0.90, 0.70, 0.99],
            "val/sex/disparity/gap/auc": [0.02, 0.05, 0.05, 0.05, 0.02, np.nan],
        }
    )
    front = pareto_front(epochs, [selection_sign(name) for name in epochs])
    assert epochs.index[front].tolist() == [0, 3]


def test_ties_are_kept_and_nan_is_not():
    points = [[0.9, 0.1], [0.9, 0.1], [np.nan, 0.0], [0.8, 0.1]]
    assert pareto_front(points, [1, -1]).tolist() == [True, True, False, False]
    assert not pareto_front([[np.nan], [np.nan]], [1]).any()


def test_order_of_rows_and_scale_do_not_matter():
    rng = np.random.default_rng(1)
    points, order = rng.random((40, 3)), rng.permutation(40)
    front = pareto_front(points, [1, 1, -1])
    assert (pareto_front(points[order], [1, 1, -1]) == front[order]).all()
    assert (pareto_front(np.exp(5 * points), [1, 1, -1]) == front).all()
    assert (pareto_front(-points, [-1, -1, 1]) == front).all()


def test_an_infinite_distance_loses():
    assert pareto_front([[0.5, np.inf], [0.5, 9.0]], [1, -1]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("points", "directions", "message"),
    [
        ([0.1, 0.2], [1, 1], r"points: expected \(N, M\).*got shape \(2,\)"),
        ([[0.1, 0.2]], [1], "directions: expected .* 2 columns"),
        ([[0.1, 0.2]], [1, 0], "directions: expected .* 2 columns"),
    ],
)
def test_bad_input_is_refused(points, directions, message):
    with pytest.raises(ValueError, match=message):
        pareto_front(points, directions)
