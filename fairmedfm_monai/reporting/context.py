"""What the report's template prints, put together from the tables of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.classification import NOT_CALIBRATED
from fairmedfm_monai.fairness.registry import CLICK_METRICS
from fairmedfm_monai.fairness.report import OVERALL, UNKNOWN, FairnessReport

from . import curves, figures, forest, sentences, wording
from .attribute_titles import titled
from .sensitivity import sweeps

HEADLINE = {"classification": ("auc", "sensitivity", "specificity"), "segmentation": ("dice", "nsd", "hd95")}
FURTHER = {
    "classification": ("auprc", "balanced_accuracy", "f1", "ppv", "npv", "selection_rate", "brier", "ece"),
    "segmentation": ("failure_rate", "false_alarm_rate", "assd", "dice_median", *CLICK_METRICS),
}
MAX_TABLE_ROWS = 400
MAX_FINDINGS = 6
SMALL_GROUP = 20
"""Fewer cases of a kind than this in a group carry no claim."""


@dataclass
class Section:
    """Everything about one prompt and label."""

    title: str
    headline: str
    forests: list[forest.Forest] = field(default_factory=list)
    further: list[forest.Forest] = field(default_factory=list)
    panels: list[curves.Panel] = field(default_factory=list)


def report_split(report: FairnessReport) -> str:
    """The split that the report tells: ``test`` where it was evaluated, else the last one."""
    splits = list(dict.fromkeys(report.subgroups["split"]))
    return "test" if "test" in splits or not splits else str(splits[-1])


def task_of(report: FairnessReport) -> str:
    """``segmentation`` or ``classification``, by the metrics that were evaluated."""
    return "segmentation" if (report.subgroups["metric"] == "dice").any() else "classification"


def build_context(
    report: FairnessReport, *, title: str, banners: Sequence[str], predictions: pd.DataFrame, run: Mapping[str, Any]
) -> dict[str, Any]:
    """All values of the template.

    Args:
        report: the evaluation.
        title: headline of the report.
        banners: sentences that must be seen first (random weights, semi-synthetic data, ...).
        predictions: one row per case (and label, prompt); only Dice distributions and counts are taken from it.
        run: contents of ``run.json``; ``attributes``, ``attribute_titles``, ``reader_dice``, ``versions``, ``dataset``
            are used if there.
    """
    report, predictions, run = titled(report, predictions, run)
    split, task = report_split(report), task_of(report)
    primary = str(report.settings.get("primary_metric") or HEADLINE[task][0])
    table = report.subgroups[report.subgroups["split"] == split]
    told = sentences.findings(report.subgroups, report.disparities, metric=primary, split=split)
    sections = _sections(report, table, predictions[predictions["split"] == split], run, task=task, split=split)
    seen_first = list(banners) + [f"{note[:1].upper()}{note[1:]}." for note in report.notes if NOT_CALIBRATED in note]
    seen_first += [sentence for sentence in [small_groups(table, task)] if sentence]
    strips, finding_scale = _with_strips(told, primary)
    return {
        "title": title,
        "split": split,
        "run": run,
        "licence": wording.licence(run),
        "banners": list(dict.fromkeys(seen_first)),
        "notes": [note for note in report.notes if note not in banners and NOT_CALIBRATED not in note],
        "research_use": wording.RESEARCH_USE,
        "primary": wording.metric(primary),
        "tiles": tiles(table, told, primary, report.settings),
        "summary": sentences.summary(told),
        "findings": strips[:MAX_FINDINGS],
        "more_findings": strips[MAX_FINDINGS:],
        "finding_scale": finding_scale,
        "population": population(table, task),
        "boxes": _boxes(table, run) if task == "segmentation" else [],
        "sweeps": sweeps(table, report.disparities[report.disparities["split"] == split]),
        "sections": sections,
        "disparities": disparity_rows(report.disparities[report.disparities["split"] == split], HEADLINE[task]),
        "methods": methods(report.settings),
        "versions": dict(run.get("versions", {})),
        "task": task,
    }


def tiles(
    table: pd.DataFrame, told: Sequence[sentences.Finding], primary: str, settings: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """The few numbers at the top as (name, number, addition)."""
    everyone = table[(table["attribute"] == OVERALL) & (table["metric"] == primary)]
    found = [_overall_tile(part, primary) for _, part in everyone.groupby("prompt", sort=False)][:4]
    gaps = [finding for finding in told if math.isfinite(finding.value) and "__" not in finding.row["attribute"]]
    if gaps:
        widest = gaps[0]  # those beyond chance first: a wide gap of few cases must not stand above them
        where = ", ".join(part for part in (wording.inside(widest.attribute), widest.about) if part)
        found.append(("Largest gap", wording.number(widest.value, primary), f"{where}: {widest.verdict}"))
    if len(everyone):
        first = everyone.loc[everyone["n_cases"].idxmax()]
        found.append(("Patients", f"{int(first['n_patients']):,}", f"{int(first['n_cases']):,} cases"))
    threshold = settings.get("operating_point")
    if isinstance(threshold, (int, float)) and math.isfinite(threshold):
        found.append(("Operating point", f"{threshold:.3f}", "score ≥ this is called positive"))
    return found


def _overall_tile(part: pd.DataFrame, primary: str) -> tuple[str, str, str]:
    """The primary metric of one prompt: with its interval, or as the mean of labels where there is no overall row."""
    prompt = str(part["prompt"].iloc[0])
    total = part if len(part) == 1 else part[part["label"] == ""]
    if len(total):
        row = total.iloc[0]
        about = wording.scope(prompt, str(row["label"]))
        span = wording.interval(float(row["ci_low"]), float(row["ci_high"]), primary)
        value, addition = float(row["value"]), f"95 % interval {span}" if span else ""
    else:
        about, value = wording.scope(prompt, ""), float(part["value"].mean())
        spread = wording.interval(float(part["value"].min()), float(part["value"].max()), primary)
        addition = f"mean of {part['value'].notna().sum()} labels, {spread}"
    return f"{wording.metric(primary).title}{' · ' if about else ''}{about}", wording.number(value, primary), addition


def population(table: pd.DataFrame, task: str) -> list[dict[str, str]]:
    """Who was tested: one entry per attribute and group, unknown as its own line."""
    # All metrics of a group share its counts; the widest one counts every case.
    names = ["n_patients", "n_cases", "n_positives", "n_negatives", "n_failed"]
    counts = table.groupby(["attribute", "group"], sort=False)[names].max().reset_index()
    total = float(counts.loc[counts["attribute"] == OVERALL, "n_cases"].max())
    entries: list[dict[str, str]] = []
    previous = ""
    for row in counts.to_dict("records"):
        attribute, group = str(row["attribute"]), str(row["group"])
        share = row["n_cases"] / total if total else math.nan
        entries.append(
            {
                "attribute": "" if attribute in {OVERALL, previous} else wording.heading(attribute),
                "overall": "yes" if attribute == OVERALL else "",
                "group": "everyone" if attribute == OVERALL else wording.readable(group),
                "muted": "yes" if group == UNKNOWN else "",
                "patients": _integer(row["n_patients"]),
                "cases": _integer(row["n_cases"]),
                "share": f"{100 * share:.0f} %" if math.isfinite(share) else "",
                "positives": _integer(row["n_positives"]) if task == "classification" else "",
                "negatives": _integer(row["n_negatives"]) if task == "classification" else "",
                "failed": _integer(row["n_failed"]),
            }
        )
        previous = attribute
    return entries


def small_groups(table: pd.DataFrame, task: str) -> str:
    """A banner sentence on groups too small for claims; empty when there is none."""
    known = table[(table["attribute"] != OVERALL) & (table["group"] != UNKNOWN)]
    columns = ["n_positives", "n_negatives"] if task == "classification" else ["n_cases"]
    least = known.groupby(["attribute", "group"], sort=False)[columns].max().min(axis=1)
    names = [_group_name(str(a), str(g)) for (a, g), n in least.items() if n < SMALL_GROUP]
    if not names:
        return ""
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    kind = "positive or negative cases" if task == "classification" else "cases"
    return f"Small groups: fewer than {SMALL_GROUP} {kind} in {shown}. Their numbers carry no claim."


def _group_name(attribute: str, group: str) -> str:
    """``age ≥ 60``, ``female · ≥ 60``: intersections name their attributes' groups already."""
    return wording.readable(group if "__" in attribute else f"{attribute}_{wording.readable(group)}")


def disparity_rows(table: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, str]]:
    """The disparities as text; beyond ``MAX_TABLE_ROWS`` only those of the headline metrics, then only their gaps."""
    if len(table) > MAX_TABLE_ROWS:
        table = table[table["metric"].isin(metrics)]
    if len(table) > MAX_TABLE_ROWS:
        table = table[table["statistic"] == "gap"].head(MAX_TABLE_ROWS)
    return [
        {
            "about": wording.scope(row["prompt"], row["label"]),
            "attribute": wording.heading(row["attribute"]),
            "metric": wording.metric(row["metric"]).title,
            "statistic": wording.statistic(row["statistic"]),
            "value": f"{row['value']:.3f}" if math.isfinite(row["value"]) else "–",
            "exact": repr(float(row["value"])) if math.isfinite(row["value"]) else "",
            "interval": _span(row["ci_low"], row["ci_high"]),
            "null": _span(row["null_low"], row["null_high"]),
            "detectable": f"{row['detectable']:.3f}" if math.isfinite(row["detectable"]) else "",
            "p": wording.p_value(row["p_value"]).removeprefix("p "),
            "adjusted": wording.p_value(row["p_adjusted"]).removeprefix("p "),
            "reason": row["reason"],
        }
        for row in table.to_dict("records")
    ]


_METHOD_NAMES = {
    "level": "confidence level",
    "n_bootstrap": "bootstrap replicates",
    "n_permutations": "permutations",
    "permutation": "chance band and p-values",
    "p_adjusted": "adjustment for many tests",
    "nsd_tolerance_mm": "NSD tolerance (mm)",
    "operating_point_source": "operating point from",
}


def methods(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the evaluation as (name, text)."""
    named = ((_METHOD_NAMES.get(key, wording.readable(key)), value) for key, value in settings.items())
    return [(name, _text(value)) for name, value in named if value not in (None, "", {}, [])]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_text(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sections(
    report: FairnessReport, table: pd.DataFrame, cases: pd.DataFrame, run: Mapping[str, Any], *, task: str, split: str
) -> list[Section]:
    found = []
    for (prompt, label), part in table.groupby(["prompt", "label"], sort=False):
        positives = task == "classification"
        section = Section(wording.scope(str(prompt), str(label)) or "All cases", _overall_text(part, HEADLINE[task][0]))
        plots = [forest.forest(part, name, with_positives=positives) for name in HEADLINE[task]]
        section.forests = [plot for plot in plots if plot is not None]
        plots = [forest.forest(part, name, with_positives=positives) for name in FURTHER[task]]
        section.further = [plot for plot in plots if plot is not None]
        section.panels = _panels(report, part, cases, run, str(prompt), str(label), split)
        found.append(section)
    return found


def _panels(
    report: FairnessReport,
    part: pd.DataFrame,
    cases: pd.DataFrame,
    run: Mapping[str, Any],
    prompt: str,
    label: str,
    split: str,
) -> list[curves.Panel]:
    roc = report.curves.get("roc", {}).get(split, {}).get(label)
    if roc:
        return curves.roc_panels(roc, part)
    attributes = {name: groups for name, groups in run.get("attributes", {}).items() if name in cases}
    if "dice" not in cases or not label:
        return []
    return curves.dice_panels(cases[(cases["prompt"] == prompt) & (cases["label"] == label)], attributes)


def _overall_text(part: pd.DataFrame, name: str) -> str:
    row = part[(part["attribute"] == OVERALL) & (part["metric"] == name)]
    return f"{wording.metric(name).title} {wording.number(float(row['value'].iloc[0]), name)}" if len(row) else ""


def _boxes(table: pd.DataFrame, run: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    labels = list(dict.fromkeys(table["label"]))
    found = []
    for prompt, part in table.groupby("prompt", sort=False):
        entries = forest.paired(part, labels, readers=run.get("reader_dice"))
        if entries:
            found.append((f"{wording.readable(str(prompt))} prompt" if prompt else "model", entries))
    return found


def _with_strips(told: Sequence[sentences.Finding], primary: str) -> tuple[list[tuple[sentences.Finding, str]], str]:
    """Each finding with its gap drawn over the band that chance produces, and the scale that all share."""
    numbers = [float(finding.row[key]) for finding in told for key in ("value", "ci_high", "null_high")]
    axis = figures.axis_for([0.0, *numbers], bounds=wording.metric(primary).bounds)
    strips = []
    for finding in told:
        row, chance = finding.row, float(finding.row["null_high"])
        beyond = finding.verdict == sentences.BEYOND
        text = f"gap {wording.number(finding.value, primary)}, chance alone up to {wording.number(chance, primary)}"
        strip = figures.strip(
            axis,
            finding.value,
            float(row["ci_low"]),
            float(row["ci_high"]),
            band=(0.0, chance),
            colour=figures.PALETTE[1] if beyond else figures.PALETTE[0],
            description=text,
        )
        strips.append((finding, strip))
    return strips, figures.scale(axis, digits=2 if axis.high < 5 else 0)


def _integer(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) else "–"


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) and math.isfinite(high) else ""
