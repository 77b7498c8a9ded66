"""The catalog at a glance: one line per foundation model, one column per usage."""

from __future__ import annotations

from collections.abc import Sequence

from fairmedfm_monai.catalog.row import TASKS, Row, rows

SHORT_NAMES = {
    "zero_shot": "zero",
    "linear_probe": "linear",
    "mlp_probe": "mlp",
    "prototypes": "proto",
    "lora_prompted": "lora_p",
    "decoder_finetune": "decoder",
    "full_finetune": "full",
}
"""Usages whose names would make a terminal's lines too long."""

PROOFS = {
    "official-equal": "outputs equal those of the authors' code on equal weights",
    "keys-equal": "names and shapes of all published tensors fit; outputs were not compared with the authors' code",
    "library-only": "a library's class is taken at its word",
    "trained-here": "the weights were made by this project",
}
"""What the proof levels mean."""


def matrix(task: str) -> list[list[str]]:
    """The FMs of a task as a table of text, header first.

    Columns: ``FM``, one per usage (``x`` where there is a bundle, else ``-``), ``proof``, ``commercial``, and the
    licences of weights and code; a licence with a remark is cut and marked ``*``.
    """
    found = [row for row in rows().values() if row.task == task]
    usages = list(dict.fromkeys(usage for row in sorted(found, key=_most_usages) for usage in row.usages))
    header = ["FM", *usages, "proof", "commercial", "weights licence", "code licence"]
    return [header, *(_line(row, usages) for row in found)]


def _most_usages(row: Row) -> int:
    return -len(row.usages)


def _line(row: Row, usages: Sequence[str]) -> list[str]:
    cells = ["x" if usage in row.usages else "-" for usage in usages]
    return [row.name, *cells, row.proof_level, row.commercial_use, _cut(row.weights_licence), _cut(row.code_licence)]


def _cut(licence: str) -> str:
    name, remark, _ = licence.partition(" (")
    return f"{name}*" if remark else name


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns stand under each other."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def overview() -> list[str]:
    """The whole catalog for a terminal: a table per task and what its words mean."""
    lines = []
    for task in TASKS:
        header, *body = matrix(task)
        lines += [task, *aligned([[SHORT_NAMES.get(name, name) for name in header], *body]), ""]
    short = ", ".join(f"{short} = {name}" for name, short in SHORT_NAMES.items())
    lines += ["x: there is a bundle <FM>_<task>_<usage>", f"usages: {short}"]
    lines += ["proof:", *aligned([[f"  {level}", text] for level, text in PROOFS.items()])]
    lines += ["commercial: whether the weights' licence allows commercial use. *: with a remark, see `catalog NAME`."]
    return lines
