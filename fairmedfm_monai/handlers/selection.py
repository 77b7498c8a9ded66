"""The number by which a checkpoint is chosen: which names exist, and a comparable value for each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fairmedfm_monai.fairness.report import FairnessReport, disparity_key, subgroup_key
from fairmedfm_monai.fairness.selection import (
    check_selection,
    distance_to_optima,
    selection_names,
    selection_optimum,
    selection_sign,
)

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

KEY = "selection"


def named(select_by: str | Sequence[str]) -> list[str]:
    """The names in ``select_by``: a list, or text with commas.

    Raises:
        ValueError: no name, or a name twice.
    """
    names = [str(name).strip() for name in (select_by.split(",") if isinstance(select_by, str) else select_by)]
    if not names or len(set(names)) < len(names):
        msg = f"select_by: expected one name, or several that differ (a list, or text with commas), got {select_by!r}"
        raise ValueError(msg)
    return names


def value(names: Sequence[str], metrics: Mapping[str, float]) -> float:
    """The value to maximise: signed so that more is better, ``-inf`` when it is undefined.

    Of several names it is minus their distance to the optimum, so that the best epoch is on their Pareto front.
    Ignite keeps the first checkpoint for ever when its value is NaN; ``-inf`` loses against any number.
    """
    found = {name: metrics.get(name, math.nan) for name in names}
    if not all(map(math.isfinite, found.values())):
        return -math.inf
    return selection_sign(names[0]) * found[names[0]] if len(names) == 1 else -distance_to_optima(found)


def why_undefined(names: Sequence[str], report: FairnessReport) -> str:
    """Each undefined name with the reason that stands in the report."""
    finite = report.metrics()
    reasons = dict.fromkeys((name for name in names if name not in finite), "no case that it could be taken of")
    columns = ["prompt", "split", "label", "attribute"]
    for table, key, own in (
        (report.subgroups, subgroup_key, "group"),
        (report.disparities, disparity_key, "statistic"),
    ):
        for *place, reason in table[[*columns, own, "metric", "reason"]].itertuples(index=False):
            if key(*place) in reasons and reason:
                reasons[key(*place)] = str(reason)
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def check_names(names: Sequence[str], info: DatasetInfo, *, prompts: Sequence[str], splits: Sequence[str]) -> None:
    """Stop before any training when a metric of a name will never exist.

    Args:
        names: of ``select_by``.
        info: the dataset.
        prompts: prompt kinds, ``[""]`` without prompts.
        splits: splits that will be evaluated.

    Raises:
        ValueError: lists the valid names, the nearest ones first; or says which name cannot be one of several.
    """
    if info.task == "segmentation":
        labels = [*([""] if len(info.labels) > 1 else []), *info.labels]
    elif len(info.classes) == 2 and not info.multi_label:
        labels = [""]
    else:
        labels = ["", *info.classes]
    valid = selection_names(
        info.task,
        info.attributes,
        intersections=info.intersections,
        splits=splits,
        labels=labels,
        prompts=prompts,
        multi_label=info.multi_label,
    )
    for name in names:
        check_selection(name, valid)
        if len(names) > 1:
            selection_optimum(name)
