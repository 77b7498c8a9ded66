"""Documentation of the public datasets, rendered from what their modules state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fairmedfm_monai.data.prepare.spec import PublicDataset

INDEX = "README.md"
MADE = "<!-- Rendered by scripts/render_datasets.py from the modules in fairmedfm_monai/data/public. -->"
TABLE = ("<!-- datasets: rendered by scripts/render_datasets.py -->\n", "<!-- end of datasets -->")


def pages(datasets: Collection[PublicDataset]) -> dict[str, str]:
    """File name -> text of every page of ``docs/datasets``, the overview included."""
    return {INDEX: overview_page(datasets), **{f"{dataset.name}.md": dataset_page(dataset) for dataset in datasets}}


def with_table(readme: str, datasets: Collection[PublicDataset]) -> str:
    """The README with the current table of datasets between its two marks."""
    before, rest = readme.split(TABLE[0])
    after = rest.split(TABLE[1])[1]
    return f"{before}{TABLE[0]}{overview(datasets, folder='docs/datasets/')}{TABLE[1]}{after}"


def dataset_page(dataset: PublicDataset) -> str:
    """Markdown page of one dataset."""
    card = dataset.full_card(dataset.choose())
    parts = [
        f"{MADE}\n\n# {dataset.title}\n\n{dataset.summary}\n",
        _facts(dataset, card),
        f"## Preparing it\n\n    python -m fairmedfm_monai prepare {dataset.name} --source RAW --output DIR\n",
        _list("`RAW` holds:", {f"`{name}`": meaning for name, meaning in dataset.layout.items()}),
        _list("Label rules (`--rule`, the first is the default):", _code(dataset.rules)),
        _list("Published protocols (`--protocol`):", _code(dataset.protocols)),
        _truth(card),
        _attributes(card),
        _list("## What to know before reading results", dict.fromkeys(dataset.hazards, "")),
        f"## Citation\n\n{dataset.citation}\n",
    ]
    return "\n".join(part for part in parts if part)


def overview(datasets: Iterable[PublicDataset], folder: str = "") -> str:
    """Markdown table of all datasets, each with a link to its page in ``folder``."""
    lines = ["| dataset | task | images | size | attributes |", "|---|---|---|---|---|"]
    for dataset in datasets:
        card = dataset.full_card(dataset.choose())
        attributes = ", ".join(name for name in card["attributes"] if name != "age_bands")
        kind = f"{card['modality']}, {card['spatial_dims']}D"
        link = f"[{dataset.title}]({folder}{dataset.name}.md)"
        lines.append(f"| {link} | {card['task']} | {kind} | {dataset.size} | {attributes} |")
    return "\n".join(lines) + "\n"


def overview_page(datasets: Iterable[PublicDataset]) -> str:
    """The index of the pages."""
    return (
        f"{MADE}\n\n# Public datasets\n\n"
        "`python -m fairmedfm_monai prepare NAME --source RAW --output DIR` turns each raw release, exactly as its\n"
        "owner ships it, into a dataset folder. Nothing is downloaded: most owners ask you to sign something.\n\n"
        f"{overview(datasets)}\n"
        "Published protocols (`--protocol`) often have no validation split. On such a folder a training takes "
        "`--select_by last`,\nand the evaluation of a classification "
        "`--split \"['test']\" --operating_point 0.5`: nothing is then chosen on the test set.\n"
    )


def _facts(dataset: PublicDataset, card: Mapping[str, Any]) -> str:
    rows = {
        "task": card["task"],
        "images": f"{card['modality']}, {card['spatial_dims']}D",
        "size": dataset.size,
        "access": dataset.access,
        "licence": dataset.licence,
        "other names": ", ".join(f"`{name}`" for name in dataset.aliases),
    }
    if card.get("window"):
        window = card["window"]
        rows["CT window"] = window if isinstance(window, str) else f"centre {window[0]:g} HU, width {window[1]:g} HU"
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _truth(card: Mapping[str, Any]) -> str:
    if card["task"] == "segmentation":
        labels = ", ".join(f"`{name}` = {value}" for name, value in card["labels"].items())
        return f"Labels: {labels}.\n"
    classes = {
        f"`{name}`": "; ".join(f"\u201c{text}\u201d" for text in texts) for name, texts in card["classes"].items()
    }
    positive = card.get("positive_class")
    return _list(
        "Classes of the default rule, with their prompts" + (f" (positive: `{positive}`):" if positive else ":"),
        classes,
    )


def _attributes(card: Mapping[str, Any]) -> str:
    lines = ["## Attributes", "", "| attribute | groups | column | counted as unknown |", "|---|---|---|---|"]
    for name, entry in card["attributes"].items():
        missing = ", ".join(f"`{raw}`" if raw else "empty" for raw in entry.get("missing") or [])
        lines.append(f"| {name} | {', '.join(entry['groups'])} | `{entry['column']}` | {missing} |")
    crossed = ", ".join(" x ".join(names) for names in card.get("intersections") or [])
    return "\n".join([*lines, "", *([f"Crossed: {crossed}.", ""] if crossed else [])])


def _code(entries: Mapping[str, str]) -> dict[str, str]:
    return {f"`{name}`": meaning for name, meaning in entries.items()}


def _list(heading: str, entries: Mapping[str, str]) -> str:
    if not entries:
        return ""
    lines = [f"- {name}: {meaning}" if meaning else f"- {name}" for name, meaning in entries.items()]
    return "\n".join([heading, "", *lines, ""])
