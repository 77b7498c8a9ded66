"""Which metric keys exist, so that a wrong ``select_by`` is refused before training and not after."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from itertools import product

from fairmedfm_monai.fairness.disparities import ODDS_METRIC, ODDS_STATISTICS, larger_is_worse, statistics_of
from fairmedfm_monai.fairness.registry import CLASSIFICATION_METRICS, METRICS, SEGMENTATION_METRICS
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
    """
    names = metrics or (CLASSIFICATION_METRICS if task == "classification" else SEGMENTATION_METRICS)
    crossed = dict(attributes)
    for pair in intersections:
        crossed["__".join(pair)] = ["__".join(parts) for parts in product(*(attributes[name] for name in pair))]
    found = []
    for split, prompt, label in product(splits, prompts, labels):
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
                found += [disparity_key(prompt, split, label, attribute, name, ODDS_METRIC) for name in ODDS_STATISTICS]
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
