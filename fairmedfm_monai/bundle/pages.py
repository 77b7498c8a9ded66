"""Documentation of the foundation models, rendered from the catalog: one page each, and an overview."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fairmedfm_monai.bundle.configs.common import TRAINED
from fairmedfm_monai.bundle.metadata import usage_title
from fairmedfm_monai.bundle.readme import RUN
from fairmedfm_monai.catalog import Row, find_row, rows
from fairmedfm_monai.catalog.matrix import PROOFS, matrix
from fairmedfm_monai.catalog.releases import RELEASES, same_images
from fairmedfm_monai.catalog.row import TASKS

INDEX = "README.md"
MADE = "<!-- Rendered from the catalog by scripts/render_bundles.py: change the catalog, not this file. -->"


def pages() -> dict[str, str]:
    """File name -> text of every page of ``docs/models``, the overview included."""
    return {INDEX: overview(), **{f"{row.name}.md": page(row) for row in rows().values()}}


def overview() -> str:
    """The overview of all FMs in Markdown, with links to their pages and bundles."""
    parts = [
        MADE,
        "# Foundation models",
        f"{len(rows())} models. Each has a page with variants, weights, licences, training data and proof; "
        "`python -m fairmedfm_monai catalog` prints this table, `catalog NAME` a page. "
        "`x`: there is a bundle `<FM>_<task>_<usage>`.",
    ]
    for task in TASKS:
        header, *body = matrix(task)
        parts += [f"## {task.capitalize()}", _table(header, [[_link(line[0]), *line[1:]] for line in body])]
    parts += [
        "`commercial`: whether the licence of the weights allows commercial use. `*`: with a remark, see the page.",
        "## Proof",
        _table(["level", "meaning"], [[f"`{level}`", text] for level, text in PROOFS.items()]),
        "## Training data that are also benchmark data",
        "A run on one of these releases with such a model is stamped in its report, its model card and its tags. "
        "`none known` is no proof: web collections and lists that are not public in full may hold more, see each page.",
        _table(["release", "models that were trained on its images"], _seen_by()),
    ]
    return "\n\n".join(parts) + "\n"


def _link(name: str) -> str:
    return f"[{find_row(name).title}]({name}.md)"


def _seen_by() -> list[list[str]]:
    names = {slug: [_link(row.name) for row in rows().values() if row.saw(slug)] for slug in RELEASES}
    return [[f"{RELEASES[slug]} (`{slug}`)", ", ".join(found) or "none known"] for slug, found in names.items()]


def page(row: Row) -> str:
    """Everything known of one FM, in Markdown."""
    parts = [
        f"# {row.title}",
        row.description,
        *_flags(row),
        _table(["", ""], _facts(row)),
        "## Variants",
        _variants(row),
        "## Usages",
        *_usages(row),
        *(["## Prompts", _prompts(row)] if row.task == "segmentation" else []),
        "## Input",
        _input(row),
        "## Weights",
        _weights(row),
        "## Training data",
        _bullets(row.training_data),
        _overlaps(row),
        "## Proof",
        f"`{row.proof_level}`: {PROOFS[row.proof_level]}.\n\nChecked: {row.proof}.",
        "## Intended use",
        row.intended_use,
        "## Citation",
        _bullets(row.references),
    ]
    return "\n\n".join(parts) + "\n"


def _flags(row: Row) -> list[str]:
    """What a reader must see before using the weights, or the authors' own code."""
    found = []
    if row.commercial_use == "no":
        found.append(f"**Non-commercial weights.** Their licence ({row.weights_licence}) allows no commercial use.")
    elif row.weights_licence == "unstated":
        found.append("**Licence of the weights: unstated.** Ask the authors what they may be used for.")
    elif row.commercial_use == "unstated":
        found.append(
            f"**Commercial use of the weights: unstated.** Their licence is {row.weights_licence}; read the terms "
            "at the source before any commercial use."
        )
    if row.code_licence.startswith("unstated"):
        found.append("**Licence of the authors' code: unstated.**")
    elif "-NC-" in row.code_licence:
        found.append(f"**The authors' code is non-commercial:** {row.code_licence}.")
    return [f"> {text}" for text in found]


def _facts(row: Row) -> list[list[str]]:
    memory = row.peak_memory
    size = "" if memory["value_gb"] is None else f"{memory['value_gb']} GB, "
    return [
        ["Name in the catalog", f"`{row.name}`"],
        ["Task", row.task],
        ["Licence of the code", row.code_licence],
        ["Licence of the weights", row.weights_licence],
        ["Commercial use of the weights", row.commercial_use],
        ["Proof", f"`{row.proof_level}`"],
        ["Peak memory", f"{size}{memory['status']}"],
        ["Class", f"`{row.network}`"],
        ["Packages beside MONAI and PyTorch", ", ".join(row.packages) or "none"],
        ["Modules that LoRA adapts", _codes(row.lora_targets) or "none"],
        ["Data of its bundles unless told otherwise", f"`{row.demo_dataset}`"],
    ]


def _variants(row: Row) -> str:
    lines = [
        [
            f"`{name}`{' (default)' if name == row.default_variant else ''}",
            f"{row.parameters[name]:,}" if name in row.parameters else "not counted",
            "; ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in own.items()) or "as below",
        ]
        for name, own in row.variants.items()
    ]
    return _table(["variant", "parameters", "input and modules"], lines)


def _usages(row: Row) -> list[str]:
    if not row.usages:
        return ["No bundle: use the class."]
    parts = [
        "One bundle each. `python -m fairmedfm_monai bundle NAME --output DIR` writes it; the commands run in its "
        "folder, with a dataset folder of your own as `DATASET_DIR`."
    ]
    for usage, name in zip(row.usages, row.bundles, strict=True):
        configs = ["train", "evaluate"] if usage in TRAINED else ["evaluate"]
        commands = [f"    {RUN} --config_file configs/{config}.json --dataset_dir DATASET_DIR" for config in configs]
        title = usage_title(row, usage)
        parts += [
            f"### {title[:1].upper()}{title[1:]}: [`{name}`](../../bundles/{name}/docs/README.md)",
            "\n".join(commands),
        ]
    return parts


def _prompts(row: Row) -> str:
    return f"Trained for {_codes(row.prompts)}; results with other kinds are stamped `untrained prompt`."


def _input(row: Row) -> str:
    """The specification in words, for inputs in [0, 1]."""
    return _bullets(f"{key.replace('_', ' ')}: {_value(value)}" for key, value in row.input_spec.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else "not fixed" if value is None else str(value)


def _weights(row: Row) -> str:
    lines = [
        [
            f"`{variant}`",
            f"`{entry['file']}`",
            entry.get("url") or "",
            f"`{entry['sha256']}`" if "sha256" in entry else "",
        ]
        for variant, entry in row.weights["files"].items()
    ]
    return (
        f"From {row.weights['source']}. `python -m fairmedfm_monai weights status --fm {row.name}` says where each "
        f"file is expected and whether it is there.\n\n{_table(['variant', 'file', 'address', 'SHA-256'], lines)}"
    )


def _overlaps(row: Row) -> str:
    if not row.overlaps:
        return "Overlap with the benchmark datasets of this project: none known."
    slugs = [slug for slug in RELEASES if row.saw(slug)]
    listed = ", ".join(f"{RELEASES[slug]} (`{slug}`)" for slug in slugs)
    groups = {same_images(slug) for slug in row.overlaps}
    same = [f" {_codes(sorted(group))} hold the same images." for group in groups if len(group) > 1]
    return (
        f"**Overlap with benchmark datasets:** {listed}. Results on their images may be optimistic, and runs on them "
        f"are stamped.{''.join(sorted(same))}"
    )


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
