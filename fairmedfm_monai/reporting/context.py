"""What the report's template prints, put together from the tables of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.report import OVERALL, UNKNOWN, FairnessReport

from . import curves, figures, forest, sentences, wording

HEADLINE = {"classification": ("auc", "sensitivity", "specificity"), "segmentation": ("dice", "nsd", "hd95")}
FURTHER = {
    "classification": ("auprc", "balanced_accuracy", "f1", "ppv", "npv", "selection_rate", "brier", "ece"),
    "segmentation": ("failure_rate", "false_alarm_rate", "assd", "dice_median"),
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
        run: contents of ``run.json``; ``attributes``, ``reader_dice``, ``versions``, ``dataset`` are used if there.
    """
    split, task = report_split(report), task_of(report)
    primary = str(report.settings.get("primary_metric") or HEADLINE[task][0])
    table = report.subgroups[report.subgroups["split"] == split]
    told = sentences.findings(report.subgroups, report.disparities, metric=primary, split=split)
    sections = _sections(report, table, predictions[predictions["split"] == split], run, task=task, split=split)
    small = small_groups(table, task)
    return {
        "title": title,
        "split": split,
        "run": run,
        "banners": list(dict.fromkeys([*banners, *([small] if small else [])])),
        "notes": [note for note in report.notes if note not in banners],
        "research_use": wording.RESEARCH_USE,
        "primary": wording.metric(primary),
        "tiles": tiles(table, primary, report.settings),
        "summary": sentences.summary(told),
        "findings": _with_strips(told[:MAX_FINDINGS], primary),
        "more_findings": _with_strips(told[MAX_FINDINGS:], primary),
        "population": population(table, task),
        "boxes": _boxes(table, run) if task == "segmentation" else [],
        "sections": sections,
        "disparities": disparity_rows(report.disparities[report.disparities["split"] == split], HEADLINE[task]),
        "methods": methods(report.settings),
        "versions": dict(run.get("versions", {})),
        "task": task,
    }


def tiles(table: pd.DataFrame, primary: str, settings: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The few numbers at the top as (name, number, addition)."""
    everyone = table[(table["attribute"] == OVERALL) & (table["metric"] == primary)]
    found: list[tuple[str, str, str]] = []
    by_prompt = everyone[everyone["label"] == ""] if (everyone["label"] == "").any() else everyone.head(1)
    for row in by_prompt.head(4).to_dict("records"):
        name = f"{wording.metric(primary).title}{' · ' + scope if (scope := wording.scope(row['prompt'], row['label'])) else ''}"
        span = wording.interval(float(row["ci_low"]), float(row["ci_high"]), primary)
        found.append((name, wording.number(float(row["value"]), primary), f"95 % interval {span}" if span else ""))
    if len(everyone):
        first = everyone.loc[everyone["n_cases"].idxmax()]
        found.append(("Patients", f"{int(first['n_patients']):,}", f"{int(first['n_cases']):,} cases"))
    threshold = settings.get("operating_point")
    if isinstance(threshold, (int, float)) and math.isfinite(threshold):
        found.append(("Operating point", f"{threshold:.3f}", "score ≥ this is called positive"))
    return found


def population(table: pd.DataFrame, task: str) -> list[dict[str, str]]:
    """Who was tested: one entry per attribute and group, unknown as its own line."""
    # All metrics of a group share its counts; the widest one counts every case.
    counts = table.groupby(["attribute", "group"], sort=False)[
        ["n_patients", "n_cases", "n_positives", "n_negatives", "n_failed"]
    ].max()
    total = float(counts.loc[(OVERALL, "all"), "n_cases"]) if (OVERALL, "all") in counts.index else math.nan
    entries = []
    for (attribute, group), row in counts.iterrows():
        share = row["n_cases"] / total if total else math.nan
        entries.append(
            {
                "attribute": "" if attribute == OVERALL else wording.readable(str(attribute)),
                "group": "everyone" if attribute == OVERALL else wording.readable(str(group)),
                "muted": "yes" if group == UNKNOWN else "",
                "patients": _integer(row["n_patients"]),
                "cases": _integer(row["n_cases"]),
                "share": f"{100 * share:.0f} %" if math.isfinite(share) else "",
                "positives": _integer(row["n_positives"]) if task == "classification" else "",
                "negatives": _integer(row["n_negatives"]) if task == "classification" else "",
                "failed": _integer(row["n_failed"]),
            }
        )
    return entries


def small_groups(table: pd.DataFrame, task: str) -> str:
    """A banner sentence on groups too small for claims; empty when there is none."""
    known = table[(table["attribute"] != OVERALL) & (table["group"] != UNKNOWN)]
    columns = ["n_positives", "n_negatives"] if task == "classification" else ["n_cases"]
    least = known.groupby(["attribute", "group"], sort=False)[columns].max().min(axis=1)
    names = [f"{wording.readable(str(a))} {wording.readable(str(g))}" for (a, g), n in least.items() if n < SMALL_GROUP]
    if not names:
        return ""
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    kind = "positive or negative cases" if task == "classification" else "cases"
    return f"Small groups: fewer than {SMALL_GROUP} {kind} in {shown}. Their numbers carry no claim."


def disparity_rows(table: pd.DataFrame, metrics: Sequence[str]) -> list[dict[str, str]]:
    """The disparities as text; beyond ``MAX_TABLE_ROWS`` only those of the headline metrics."""
    if len(table) > MAX_TABLE_ROWS:
        table = table[table["metric"].isin(metrics) & (table["statistic"] == "gap")].head(MAX_TABLE_ROWS)
    return [
        {
            "about": wording.scope(row["prompt"], row["label"]),
            "attribute": wording.readable(row["attribute"]),
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


def methods(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of the evaluation as (name, text)."""
    return [(wording.readable(str(key)), _text(value)) for key, value in settings.items() if value not in (None, "", {})]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{wording.readable(str(key))}: {_text(part)}" for key, part in value.items())
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
    report: FairnessReport, part: pd.DataFrame, cases: pd.DataFrame, run: Mapping[str, Any], prompt: str, label: str,
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


def _with_strips(told: Sequence[sentences.Finding], primary: str) -> list[tuple[sentences.Finding, str]]:
    """Each finding with its gap drawn over the band that chance produces."""
    numbers = [float(f.row[key]) for f in told for key in ("value", "ci_high", "null_high")]
    axis = figures.axis_for([0.0, *numbers], bounds=wording.metric(primary).bounds)
    strips = []
    for finding in told:
        row = finding.row
        band = (0.0, float(row["null_high"]))
        described = f"gap {wording.number(finding.value, primary)} against chance up to {wording.number(band[1], primary)}"
        beyond = finding.verdict == sentences.BEYOND
        strip = figures.strip(
            axis, finding.value, float(row["ci_low"]), float(row["ci_high"]), band=band,
            colour=figures.PALETTE[1] if beyond else figures.PALETTE[0], description=described,
        )
        strips.append((finding, strip))
    return strips


def _integer(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) else "–"


def _span(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if math.isfinite(low) and math.isfinite(high) else ""
