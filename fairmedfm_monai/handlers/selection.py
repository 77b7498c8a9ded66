"""The number by which a checkpoint is chosen: which names exist, and a comparable value for each epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fairmedfm_monai.fairness.selection import check_selection, selection_names, selection_sign

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

KEY = "selection"


def value(name: str, metrics: Mapping[str, float]) -> float:
    """The value to maximise: signed so that more is better, ``-inf`` when it is undefined.

    Ignite keeps the first checkpoint for ever when its value is NaN; ``-inf`` loses against any number.
    """
    found = metrics.get(name, math.nan)
    return selection_sign(name) * found if math.isfinite(found) else -math.inf


def check_name(name: str, info: DatasetInfo, *, prompts: Sequence[str], splits: Sequence[str]) -> None:
    """Stop before any training when a metric of that name will never exist.

    Args:
        name: ``select_by``.
        info: the dataset.
        prompts: prompt kinds, ``[""]`` without prompts.
        splits: splits that will be evaluated.

    Raises:
        ValueError: lists the valid names, the nearest ones first.
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
    )
    check_selection(name, valid)
