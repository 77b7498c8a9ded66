"""The largest disparities in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from . import wording

ALPHA = 0.05
BEYOND, UNSURE, WITHIN, OPEN = "beyond chance", "inconclusive", "within chance", "cannot be estimated"


@dataclass(frozen=True)
class Finding:
    """One difference between groups and how sure it is.

    Attributes:
        attribute: its name for people.
        about: label and prompt, empty when there is neither.
        verdict: ``beyond chance`` (adjusted p below 0.05), ``inconclusive`` (p below 0.05 only before adjustment),
            ``within chance`` or ``cannot be estimated``.
        headline: what differs, with the numbers of the best and the worst group.
        evidence: interval, chance band, p-value, smallest detectable difference.
        value: the gap (NaN when it cannot be estimated).
        row: the row of ``disparities`` that it tells.
    """

    attribute: str
    about: str
    verdict: str
    headline: str
    evidence: str
    value: float
    row: dict[str, Any]


def findings(
    subgroups: pd.DataFrame, disparities: pd.DataFrame, *, metric: str, split: str, limit: int | None = None
) -> list[Finding]:
    """Tell the gaps of one metric, those beyond chance first, then by size.

    Args:
        subgroups: table of an evaluation.
        disparities: table of an evaluation.
        metric: usually the primary metric, ``auc`` or ``dice``.
        split: which split to tell.
        limit: tell this many at most; None = all.
    """
    chosen = disparities[
        (disparities["split"] == split) & (disparities["metric"] == metric) & (disparities["statistic"] == "gap")
    ]
    told = [_finding(row, subgroups) for row in chosen.to_dict("records")]
    rank = {BEYOND: 0, UNSURE: 1, WITHIN: 2, OPEN: 3}
    # Plain attributes before their intersections, which repeat them in smaller groups.
    told.sort(
        key=lambda one: (rank[one.verdict], "__" in one.row["attribute"], -one.value if one.value == one.value else 0)
    )
    return told[:limit]


def _finding(row: dict[Any, Any], subgroups: pd.DataFrame) -> Finding:
    about = wording.scope(row["prompt"], row["label"])
    attribute = wording.heading(row["attribute"])
    value = float(row["value"])
    if not math.isfinite(value):
        reason = row["reason"] or "too few cases"
        name = wording.metric(row["metric"]).title
        headline = f"A difference in {name} between groups cannot be estimated: {reason}."
        return Finding(attribute, about, OPEN, headline, "", math.nan, row)
    return Finding(attribute, about, _verdict(row), _headline(row, subgroups), _evidence(row), value, row)


def _verdict(row: dict[Any, Any]) -> str:
    raw, adjusted = float(row["p_value"]), float(row["p_adjusted"])
    if not math.isfinite(raw):  # no shuffling was done: the interval of the gap never excludes chance
        return UNSURE
    if (adjusted if math.isfinite(adjusted) else raw) < ALPHA:
        return BEYOND
    return UNSURE if raw < ALPHA else WITHIN


def _headline(row: dict[Any, Any], subgroups: pd.DataFrame) -> str:
    name = row["metric"]
    shown = wording.metric(name)
    keys = ("split", "prompt", "label", "attribute", "metric")
    mask = pd.Series(True, index=subgroups.index)
    for key in keys:
        mask &= subgroups[key] == row[key]
    groups = subgroups[mask & (subgroups["group"] != "unknown") & subgroups["value"].notna()].sort_values("value")
    gap = f"a gap of {wording.number(row['value'], name)}"
    if len(groups) < 2:
        return f"{shown.title} differs between groups by {wording.number(row['value'], name)}."
    low, high = groups.iloc[0], groups.iloc[-1]
    worst, best = (low, high) if shown.higher_is_better is not False else (high, low)
    texts = [f"{wording.number(part['value'], name)} in {wording.readable(part['group'])}" for part in (worst, best)]
    return f"{shown.title} is {texts[0]} and {texts[1]}: {gap}."


def _evidence(row: dict[Any, Any]) -> str:
    name = row["metric"]
    sentences: list[str] = []
    if span := wording.interval(row["ci_low"], row["ci_high"], name):
        sentences.append(f"95 % interval {span}.")
    if math.isfinite(row["null_high"]):
        sentences.append(
            "If groups made no difference, chance alone would give gaps up to "
            f"{wording.number(row['null_high'], name)} (95th percentile of shuffled groups)."
        )
    raw, adjusted = wording.p_value(row["p_value"]), wording.p_value(row["p_adjusted"])
    if raw:
        sentences.append(f"{raw}{f', adjusted for all tests {adjusted}' if adjusted else ''}.")
    if math.isfinite(row["detectable"]):
        sentences.append(
            f"Smallest true difference that this test set would show with 80 % power: "
            f"{wording.number(row['detectable'], name)}."
        )
    return " ".join(sentences)


def summary(told: Sequence[Finding]) -> str:
    """One sentence over all findings."""
    beyond = [finding for finding in told if finding.verdict == BEYOND]
    unsure = [finding for finding in told if finding.verdict == OPEN]
    if not told:
        return "No attribute with at least two groups was evaluated."
    if beyond:
        # Labels and prompts repeat attributes: name each once.
        names = list(dict.fromkeys(finding.attribute for finding in beyond))
        text = f"{len(beyond)} of {len(told)} differences between groups are larger than chance: {', '.join(names)}."
    else:
        text = f"None of {len(told)} differences between groups is shown to be larger than chance."
        text += " This does not show that there is none: see the smallest detectable differences."
    if unsure:
        text += f" {len(unsure)} cannot be estimated from these cases."
    return text
