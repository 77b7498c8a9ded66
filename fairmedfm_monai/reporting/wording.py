"""Words and numbers as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fairmedfm_monai.fairness.registry import METRICS as REGISTRY

RESEARCH_USE = "Research use; not a medical device."


@dataclass(frozen=True)
class Metric:
    """How a metric is called, shown and read.

    Attributes:
        title: name for people.
        meaning: half a sentence for a reader who does not know it.
        unit: text after a number ("" or " mm").
        digits: decimals.
        higher_is_better: None where neither direction is better.
        bounds: limits that it cannot pass.
    """

    title: str
    meaning: str = ""
    unit: str = ""
    digits: int = 3
    higher_is_better: bool | None = None
    bounds: tuple[float, float] = (0.0, math.inf)


_TEXTS: dict[str, Metric] = {
    "auc": Metric("AUC", "chance that a positive case scores above a negative one; 0.5 is a coin"),
    "auprc": Metric("AUPRC", "area under precision and recall; depends on how frequent the finding is"),
    "accuracy": Metric("Accuracy", "share of cases classified rightly"),
    "balanced_accuracy": Metric("Balanced accuracy", "mean of sensitivity and specificity"),
    "f1": Metric("F1", "harmonic mean of sensitivity and PPV"),
    "sensitivity": Metric("Sensitivity", "share of positive cases that are found"),
    "specificity": Metric("Specificity", "share of negative cases that are cleared"),
    "ppv": Metric("PPV", "share of alarms that are right"),
    "npv": Metric("NPV", "share of all-clears that are right"),
    "selection_rate": Metric("Selection rate", "share of cases called positive"),
    "sensitivity_at_specificity_90": Metric("Sensitivity at 90 % specificity", "threshold set within each group"),
    "bce": Metric("Cross-entropy", "log loss of the probabilities; lower is better"),
    "brier": Metric("Brier score", "mean squared error of the probabilities; lower is better"),
    "ece": Metric("Calibration error (ECE)", "distance of predicted and observed frequency; lower is better"),
    "ece_fairmedfm": Metric("Calibration error (FairMedFM)", "ECE with bins over each group's own range of scores"),
    "f1_variance": Metric("F1 variance over classes", "how unequally the classes are recognised; lower is better"),
    "f1_sd": Metric("F1 standard deviation over classes", "root of the variance; lower is better"),
    "ece_top_label": Metric("Top-class calibration error", "confidence against share of right ones; lower is better"),
    "dice": Metric("Dice", "overlap with the reference; 1 is perfect"),
    "dice_median": Metric("Median Dice", "half of the cases overlap better than this"),
    "iou": Metric("IoU", "intersection over union with the reference"),
    "nsd": Metric("NSD", "share of the surface within the tolerance of the reference"),
    "nsd_median": Metric("Median NSD", "surface agreement of the middle case"),
    "hd95": Metric("HD95", "distance that 95 % of the surface stays within; lower is better", " mm", 1),
    "hd95_median": Metric("Median HD95", "of the middle case; lower is better", " mm", 1),
    "hd95_pooled": Metric("HD95, pooled", "95th percentile of both surfaces together; lower is better", " mm", 1),
    "hd": Metric("Hausdorff distance", "largest distance of the surfaces; lower is better", " mm", 1),
    "assd": Metric("ASSD", "mean distance of the surfaces; lower is better", " mm", 2),
    "assd_median": Metric("Median ASSD", "of the middle case; lower is better", " mm", 2),
    "failure_rate": Metric("Failure rate", "share of cases with a Dice below 0.10; lower is better"),
    "false_alarm_rate": Metric("False-alarm rate", "share of absent structures that were drawn all the same"),
    "clicks85": Metric("Clicks to Dice 0.85", "prompts until the mask is that good; lower is better", "", 1),
    "clicks90": Metric("Clicks to Dice 0.90", "prompts until the mask is that good; lower is better", "", 1),
    "reached85": Metric("Reached Dice 0.85", "share of objects that the clicks brought there"),
    "reached90": Metric("Reached Dice 0.90", "share of objects that the clicks brought there"),
    "sensitivity_specificity": Metric("Sensitivity and specificity"),
    "filled_box_dice": Metric("Filled-box Dice", "Dice of the tight box itself: what the prompt gives away"),
}
STATISTICS = {
    "gap": "Gap (best − worst)",
    "worst": "Worst group",
    "ratio": "Ratio (lowest / highest)",
    "sd": "Standard deviation of groups",
    "skewness": "Skewness (error of worst / of best)",
    "es_sum": "Equity-scaled (sum of deviations)",
    "es_std": "Equity-scaled (SD)",
    "es_std_sample": "Equity-scaled (sample SD)",
    "dto": "Distance to optimum (all groups perfect = 0)",
    "equal_opportunity": "Equal opportunity (sensitivity gap)",
    "demographic_parity": "Demographic parity (selection gap)",
    "predictive_parity": "Predictive parity (PPV gap)",
    "equalized_odds_difference": "Equalised odds (larger gap)",
    "equalized_odds_mean_difference": "Equalised odds (mean gap)",
    "equalized_odds_score": "Equalised odds (score)",
    "equalized_odds_class_mean": "Equalised odds (mean over classes of the larger gap)",
}


def metric(name: str) -> Metric:
    """How to show a metric; one that is not listed is called by its own name and has no upper limit."""
    shown = _TEXTS.get(name, Metric(heading(name)))
    known = REGISTRY.get(name)
    if known is None:
        return shown
    return replace(shown, higher_is_better=known.higher_is_better, bounds=(0.0, known.upper))


def statistic(name: str) -> str:
    """Name of a disparity statistic for people."""
    return STATISTICS.get(name, heading(name))


def readable(slug: str) -> str:
    """A slug as people write it: ``ge60`` = ``≥ 60``, ``female__lt60`` = ``female · < 60``, ``a_b`` = ``a b``."""
    return " · ".join(_readable_part(part) for part in slug.split("__"))


def _readable_part(part: str) -> str:
    if match := re.fullmatch(r"(lt|ge|le|gt)_?(\d+(?:\.\d+)?)", part):
        sign = {"lt": "<", "ge": "≥", "le": "≤", "gt": ">"}[match[1]]
        return f"{sign} {match[2]}"
    if match := re.fullmatch(r"(\d+)(?:to|_)(\d+)", part):
        return f"{match[1]} to {match[2]}"
    return part.replace("_", " ")


def heading(slug: str) -> str:
    """A slug as the first words of a line: ``sex__age`` = ``Sex · age``."""
    text = readable(slug)
    return text if text != text.lower() else text[:1].upper() + text[1:]


def inside(text: str) -> str:
    """A heading in the middle of a line: ``Sex · age`` = ``sex · age``, but ``Body mass index (WHO)`` as it is."""
    return text if text[1:] != text[1:].lower() else text.lower()


def number(value: float, name: str = "", *, unit: bool = True) -> str:
    """A value of a metric with its decimals and unit; an en dash where it is undefined."""
    if not math.isfinite(value):
        return "–"
    shown = metric(name)
    return f"{value:.{shown.digits}f}{shown.unit if unit else ''}".replace("-", "−")


def interval(low: float, high: float, name: str = "") -> str:
    """``0.81 to 0.90``, or nothing where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{number(low, name, unit=False)} to {number(high, name)}"


def p_value(value: float) -> str:
    """``p = 0.012``; ``p < 0.001`` for very small ones."""
    if not math.isfinite(value):
        return ""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def count(value: float, noun: str) -> str:
    """``1 patient``, ``1,204 patients``."""
    return f"{int(value):,} {noun}{'' if int(value) == 1 else 's'}"


def scope(prompt: str, label: str) -> str:
    """What a row is about besides the group: label and prompt, empty where there is neither."""
    return ", ".join(part for part in (readable(label), f"{readable(prompt)} prompt" if prompt else "") if part)


def described(run: Mapping[str, Any]) -> dict[str, Any]:
    """The run's tags but those that stand elsewhere: stamps are banners, the licence has its own line."""
    return {key: value for key, value in run.get("tags", {}).items() if key not in {"stamps", "weights_licence"}}


def licence(run: Mapping[str, Any]) -> str:
    """The line on the licence of the weights; empty where the run does not tell."""
    found = run.get("tags", {}).get("weights_licence")
    return f"Weights licence: {found}" if found else ""
