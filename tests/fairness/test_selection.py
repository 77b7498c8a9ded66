"""Names to select a checkpoint by."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness import (
    check_selection,
    evaluate_predictions,
    evaluate_segmentation,
    pareto_front,
    selection_names,
)
from fairmedfm_monai.fairness.selection import distance_to_optima, selection_optimum, selection_sign

GROUPS = {"sex": ["female", "male"], "age": ["lt60", "ge60"], "race": ["white", "black", "asian"]}


def test_all_reported_keys_are_listed_and_nothing_else(patients, meta):
    found = set(evaluate_predictions(patients, meta, n_bootstrap=0).metrics())
    names = selection_names("classification", GROUPS, intersections=[["sex", "age"]], splits=["test"])
    assert found <= set(names)
    # What is listed but not reported is the unknown group of attributes that are always known.
    assert {name.split("/")[3] for name in set(names) - found} == {"unknown"}
    assert len(names) == len(set(names))


def test_segmentation_keys():
    columns = ("dice", "iou", "nsd", "hd95", "hd95_pooled", "hd", "assd", "filled_box_dice")
    cases = pd.DataFrame({name: [0.5, 0.6, 0.7, 0.8] for name in columns}).assign(label="liver", prompt="box")
    cases["empty_reference"] = False
    report = evaluate_segmentation(cases, attributes={"sex": ["female", "male"] * 2}, n_bootstrap=0, split="val")
    names = selection_names("segmentation", {"sex": ["female", "male"]}, labels=["liver"], prompts=["box"])
    assert set(report.metrics()) <= set(names)
    assert "box/val/liver/sex/disparity/worst/dice" in names


def test_wrong_names_are_refused_with_near_ones():
    names = selection_names("classification", GROUPS)
    check_selection("val/sex/disparity/worst/auc", names)
    with pytest.raises(ValueError, match=r"'val/auroc' is not reported; did you mean .*'val/auc'"):
        check_selection("val/auroc", names)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        ("val/auc", 1),
        ("val/bce", -1),
        ("val/sex/disparity/gap/auc", -1),
        ("val/sex/disparity/worst/auc", 1),
        ("val/sex/disparity/worst/brier", -1),
        ("val/sex/disparity/ratio/auc", 1),
        ("val/sex/disparity/equalized_odds_score/sensitivity_specificity", 1),
        ("val/sex/disparity/equalized_odds_difference/sensitivity_specificity", -1),
        ("box/val/liver/hd95", -1),
        ("val/sex/group/female/auc", 1),
    ],
)
def test_direction(name, sign):
    assert selection_sign(name) == sign


@pytest.mark.parametrize(
    ("name", "optimum"),
    [
        ("val/auc", 1),
        ("val/brier", 0),
        ("val/sex/disparity/gap/auc", 0),
        ("val/sex/disparity/gap/selection_rate", 0),
        ("val/sex/disparity/worst/brier", 0),
        ("val/sex/disparity/dto/auc", 0),
        ("box/val/liver/sex/disparity/ratio/hd95", 1),
        ("val/sex/disparity/equalized_odds_score/sensitivity_specificity", 1),
    ],
)
def test_optimum(name, optimum):
    assert selection_optimum(name) == optimum


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("val/bce", "no largest value"),
        ("box/val/liver/sex/disparity/gap/hd95", "no largest value"),
        ("val/sex/disparity/skewness/auc", "no largest value"),
        ("val/selection_rate", "neither more nor less"),
    ],
)
def test_what_has_no_optimum_cannot_be_one_of_several(name, reason):
    with pytest.raises(ValueError, match=reason):
        selection_optimum(name)


def test_the_nearest_to_the_optimum_is_on_the_front():
    names = ["val/auc", "val/sex/disparity/gap/auc", "val/brier"]
    signs = [selection_sign(name) for name in names]
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(0, 5, (12, 3)) / 4
        distances = [distance_to_optima(dict(zip(names, point, strict=True))) for point in points.tolist()]
        assert pareto_front(points, signs)[int(np.argmin(distances))]
        for a, b in itertools.permutations(range(len(points)), 2):
            if (signs * points[a] >= signs * points[b]).all() and (points[a] != points[b]).any():
                assert distances[a] < distances[b]
