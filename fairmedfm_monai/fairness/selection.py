"""Which metric keys exist, so that a wrong ``select_by`` is refused before training and not after."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from itertools import product

from fairmedfm_monai.fairness.disparities import (
    ODDS_METRIC,
    ODDS_OVER_CLASSES,
    ODDS_STATISTICS,
    larger_is_worse,
    statistics_of,
)
from fairmedfm_monai.fairness.registry import CLASSIFICATION_METRICS, METRICS, SEGMENTATION_METRICS, over_classes
from fairmedfm_monai.fairness.report import disparity_key, subgroup_key


def selection_names(
    task: str,
    attributes: Mapping[str, Sequence[str]],
    *,
    intersections: Sequence[Sequence[str]] = (),
    splits: Sequence[str] = ("val",),
    labels: Sequence[str] = ("",),
    prompts: Sequence[str] = ("",),
    metrics: Sequence[str] | None = None,
    multi_label: bool = False,
) -> list[str]:
    """All keys that ``FairnessReport.metrics()`` may hold.

    Args:
        task: ``classification`` or ``segmentation``.
        attributes: groups per attribute.
        intersections: attributes that are crossed.
        splits: names of the splits.
        labels: ``("",)`` for binary; ``("", *classes)`` for multi-class and multi-label; label names for segmentation.
        prompts: prompt kinds, ``("",)`` where there are none.
        metrics: subset of the task's metrics; default all.
        multi_label: whether the classes are independent labels.
    """
    own = metrics or (CLASSIFICATION_METRICS if task == "classification" else SEGMENTATION_METRICS)
    joint = over_classes(multi_label=multi_label) if metrics is None else ()
    crossed = dict(attributes)
    for pair in intersections:
        crossed["__".join(pair)] = ["__".join(parts) for parts in product(*(attributes[name] for name in pair))]
    found = []
    for split, prompt, label in product(splits, prompts, labels):
        macro = task == "classification" and not label and len(labels) > 1
        names = (*own, *joint) if macro else tuple(own)
        odds = (*ODDS_STATISTICS, ODDS_OVER_CLASSES) if macro else ODDS_STATISTICS
        found += [subgroup_key(prompt, split, label, "overall", "all", name) for name in names]
        for attribute, groups in crossed.items():
            found += [
                subgroup_key(prompt, split, label, attribute, group, name)
                for group, name in product([*groups, "unknown"], names)
            ]
            found += [
                disparity_key(prompt, split, label, attribute, statistic, name)
                for name in names
                for statistic in statistics_of(METRICS[name])
            ]
            if {"sensitivity", "specificity"} <= set(names):
                found += [disparity_key(prompt, split, label, attribute, name, ODDS_METRIC) for name in odds]
    return found


def check_selection(select_by: str, valid: Sequence[str]) -> None:
    """Refuse a name that does not exist.

    Raises:
        ValueError: with the nearest names and all valid ones.
    """
    if select_by not in valid:
        near = difflib.get_close_matches(select_by, valid, n=5)
        hint = f"did you mean {near}? " if near else ""
        msg = f"select_by: {select_by!r} is not reported; {hint}Valid names: {', '.join(valid)}"
        raise ValueError(msg)


def selection_sign(select_by: str) -> float:
    """+1 when larger values of a key are better, -1 when smaller ones are: multiply before comparing checkpoints."""
    *scope, metric = select_by.split("/")
    if "disparity" in scope[:-1]:
        return -1.0 if larger_is_worse(scope[-1], METRICS.get(metric)) else 1.0
    return -1.0 if METRICS[metric].higher_is_better is False else 1.0


def selection_optimum(select_by: str) -> float:
    """Best possible value of a key: 1 where more is better, 0 where less is.

    Raises:
        ValueError: neither direction is better, or values may be larger than every bound (millimetres, cross-entropy).
    """
    *scope, metric = select_by.split("/")
    statistic = scope[-1] if "disparity" in scope[:-1] else ""
    described = METRICS.get(metric)  # None for equalised odds, which are differences of rates
    endless = described is not None and math.isinf(described.upper) and statistic != "ratio"
    aimless = described is not None and described.higher_is_better is None and not statistic
    if endless or aimless or statistic == "skewness":
        why = "neither more nor less of it is better" if aimless else "it has no largest value"
        msg = f"select_by: {select_by!r} cannot be one of several, which need a distance to their optimum: {why}"
        raise ValueError(msg)
    return 1.0 if selection_sign(select_by) > 0 else 0.0


def distance_to_optima(values: Mapping[str, float]) -> float:
    """Euclidean distance of several numbers from their optima; NaN when one of them is NaN.

    It grows when one number becomes worse and the others stay: the candidate with the smallest distance is on the
    Pareto front of these numbers.

    Args:
        values: key -> value; see :func:`selection_optimum` for the keys that will do.
    """
    return math.sqrt(sum((value - selection_optimum(name)) ** 2 for name, value in values.items()))
