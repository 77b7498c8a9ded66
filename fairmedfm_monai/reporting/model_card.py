"""A model card in Markdown: what was evaluated, for whom it works, where the evidence ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import wording


def model_card(context: Mapping[str, Any]) -> str:
    """Write the card from the report's own context, so that both always agree.

    Args:
        context: from :func:`fairmedfm_monai.reporting.context.build_context`.
    """
    parts = [
        f"# Model card: {context['title']}",
        f"> {context['research_use']}",
        *(f"> **Note.** {banner}" for banner in context["banners"]),
        "## Model",
        _bullets(wording.described(context["run"]).items()) or "- not described by the run",
        context["licence"],
        "## Intended use",
        "Research on how the performance of imaging foundation models differs between patient groups. "
        "Not for diagnosis, triage or any other clinical decision.",
        "## Evaluation data",
        f"Dataset: {context['run'].get('dataset_title') or context['run'].get('dataset', 'not named')}; "
        f"split: {context['split']}.",
        _population(context),
        "## Performance",
        _bullets((name, f"{value} ({addition})" if addition else value) for name, value, addition in context["tiles"]),
        *(_table(section) for section in context["sections"]),
        "## Differences between groups",
        context["summary"],
        *(
            f"- **{_name(finding)}** ({finding.verdict}): {finding.headline} {finding.evidence}".rstrip()
            for finding, _ in [*context["findings"], *context["more_findings"]]
        ),
        "## Limits",
        "\n".join(f"- {note}" for note in [*context["notes"], *_LIMITS]),
        "## Methods",
        _bullets(context["methods"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_LIMITS = (
    "Numbers describe this test set only; another hospital, scanner or population can differ.",
    "No difference shown is not equality shown: compare with the smallest detectable differences.",
)


def _name(finding: Any) -> str:
    return f"{finding.attribute}, {finding.about}" if finding.about else finding.attribute


def _bullets(pairs: Any) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in pairs if value not in (None, ""))


def _population(context: Mapping[str, Any]) -> str:
    outcomes = ["positives", "negatives"] if context["task"] == "classification" else []
    columns = ["attribute", "group", "patients", "cases", *outcomes, "failed"]
    return _markdown(columns, [[row[key] for key in columns] for row in context["population"]])


def _table(section: Any) -> str:
    if not section.forests:
        return ""
    plot = section.forests[0]
    rows = [
        [f"{attribute} {row.name}" if attribute != "Everyone" else "everyone", row.value, *row.cells]
        for attribute, group_rows in plot.sections
        for row in group_rows
    ]
    return f"### {plot.title}: {section.title}\n\n" + _markdown(["group", "value", *plot.headers], rows)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
