"""What each metric is: direction, range, and which disparities make sense for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

FIXED_SPECIFICITY = 0.90
"""Specificity at which ``sensitivity_at_specificity_90`` is read and at which operating points are chosen."""
FAILURE_DICE = 0.10
"""A case with a non-empty reference and a Dice below this counts as failed."""


Interval = Literal["rate", "logit", "log", "bootstrap", "none"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: name in tables and keys.
        higher_is_better: None where neither direction is better (selection rate).
        upper: largest possible value; the smallest is always 0.
        interval: how its interval is made: ``rate`` (Wilson on the effective sample size), ``logit`` (Student on the
            logit scale), ``log`` (Student on the log scale), ``bootstrap`` (percentile; no analytic variance), ``none``
            (no interval and no null band: kept for comparison with published numbers).
        by_class: the variance is the sum of a part from positives and a part from negatives.
    """

    name: str
    higher_is_better: bool | None = True
    upper: float = 1.0
    interval: Interval = "rate"
    by_class: bool = False

    @property
    def scaled(self) -> bool:
        """Whether equity scaling and skewness are defined: higher is better, range [0, 1]."""
        return self.higher_is_better is True and self.upper == 1.0


_CLASSIFICATION = (
    Metric("auc", interval="logit", by_class=True),
    Metric("auprc", interval="bootstrap"),
    Metric("accuracy"),
    Metric("balanced_accuracy", interval="logit", by_class=True),
    Metric("f1", interval="logit"),
    Metric("sensitivity"),
    Metric("specificity"),
    Metric("ppv"),
    Metric("npv"),
    Metric("selection_rate", higher_is_better=None),
    Metric("sensitivity_at_specificity_90", interval="bootstrap"),
    Metric("bce", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("brier", higher_is_better=False, interval="logit"),
    Metric("ece", higher_is_better=False, interval="bootstrap"),
    Metric("ece_fairmedfm", higher_is_better=False, interval="none"),
)
_OVER_CLASSES = (
    Metric("f1_variance", higher_is_better=False, upper=0.25, interval="bootstrap"),
    Metric("f1_sd", higher_is_better=False, upper=0.5, interval="bootstrap"),
    Metric("ece_top_label", higher_is_better=False, interval="bootstrap"),
)
_SEGMENTATION = (
    Metric("dice", interval="logit"),
    Metric("iou", interval="logit"),
    Metric("nsd", interval="logit"),
    Metric("hd95", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("hd95_pooled", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("hd", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("assd", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("filled_box_dice", interval="logit"),
    Metric("dice_median", interval="bootstrap"),
    Metric("nsd_median", interval="bootstrap"),
    Metric("hd95_median", higher_is_better=False, upper=math.inf, interval="bootstrap"),
    Metric("assd_median", higher_is_better=False, upper=math.inf, interval="bootstrap"),
    Metric("failure_rate", higher_is_better=False),
    Metric("false_alarm_rate", higher_is_better=False),
    Metric("clicks85", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("clicks90", higher_is_better=False, upper=math.inf, interval="log"),
    Metric("reached85"),
    Metric("reached90"),
)
CLICK_METRICS = ("clicks85", "clicks90", "reached85", "reached90")
"""Of prompts with correction clicks; other prompts have none of them."""
CLASSIFICATION_METRICS = tuple(metric.name for metric in _CLASSIFICATION)
SEGMENTATION_METRICS = tuple(metric.name for metric in _SEGMENTATION)
METRICS = {metric.name: metric for metric in (*_CLASSIFICATION, *_OVER_CLASSES, *_SEGMENTATION)}


def over_classes(*, multi_label: bool) -> tuple[str, ...]:
    """Metrics of several classes together, which no class has alone; several labels per case have no top one."""
    names = tuple(metric.name for metric in _OVER_CLASSES)
    return tuple(name for name in names if name != "ece_top_label") if multi_label else names


def check_metrics(names: tuple[str, ...] | list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The asked metrics in their fixed order; all of them when None.

    Raises:
        ValueError: on a name that does not exist.
    """
    if names is None:
        return known
    stray = sorted(set(names) - set(known))
    if stray:
        msg = f"metrics: {stray} do not exist; choose from {list(known)}"
        raise ValueError(msg)
    return tuple(name for name in known if name in names)
