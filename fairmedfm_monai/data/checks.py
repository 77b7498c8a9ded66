"""Validate a dataset folder and show what it holds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.card import UNKNOWN
from fairmedfm_monai.data.dataset import DatasetInfo, build_info, inspect_folder, resolve_folder
from fairmedfm_monai.data.files import check_files
from fairmedfm_monai.data.manifest import SPLITS
from fairmedfm_monai.data.problems import DatasetError, Problem

_SHALLOW = (
    "no image was opened: `python -m fairmedfm_monai validate {path} --deep` opens every one and finds damaged files "
    "and masks that do not fit their image"
)


@dataclass(frozen=True)
class ValidationReport:
    """What validation found.

    Attributes:
        problems: all findings.
        summary: table of splits x groups x classes; empty where the table could not be read.
        note: how thorough the check was.
    """

    problems: list[Problem] = field(default_factory=list)
    summary: str = ""
    note: str = ""

    @property
    def errors(self) -> list[str]:
        """Messages of what stops a run."""
        return [problem.message for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[str]:
        """Messages of what is counted and told."""
        return [problem.message for problem in self.problems if problem.level == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def __str__(self) -> str:
        lines = [self.summary] if self.summary else []
        lines += [f"error: {message}" for message in self.errors]
        lines += [f"warning: {message}" for message in self.warnings]
        verdict = "ok" if self.ok else "not usable"
        lines.append(f"{verdict}: {len(self.errors)} errors, {len(self.warnings)} warnings")
        lines += [self.note] if self.note else []
        return "\n".join(lines)


def validate_folder(
    path: str | Path, *, deep: bool = False, workers: int | None = None, progress: bool = False
) -> ValidationReport:
    """Check a dataset folder without a model: card, table, presence of files and, on request, every file.

    Args:
        path: the folder, or the name of a built-in demo dataset.
        deep: open every image and mask too, in parallel.
        workers: processes that open files; by default one per core that may be used, 16 at most.
        progress: show a bar on stderr while files are opened.

    Raises:
        ValueError: `workers` is no number from 1 on.
    """
    try:
        root = resolve_folder(path)
    except DatasetError as error:
        return ValidationReport(error.problems)
    card, raw, problems = inspect_folder(root)
    if card is None or raw is None:
        return ValidationReport(problems)
    note = _SHALLOW.format(path=shlex.quote(str(path)))
    if deep:
        problems += check_files(raw, card, root, workers=workers, progress=progress)
        note = "" if any(problem.kind == "interrupted" for problem in problems) else "images and masks were opened"
    try:
        info = build_info(root, card, raw, list(card.attributes), problems)
    except (KeyError, TypeError, ValueError):  # a table with errors may be too broken to count
        return ValidationReport(problems, note=note)
    counts = count_groups(info)
    return ValidationReport([*info.warnings, *_thin_groups(info, counts)], describe(info, counts), note)


def count_groups(info: DatasetInfo) -> pd.DataFrame:
    """Numbers per split, attribute and group.

    Returns:
        Columns ``split``, ``attribute``, ``group``, ``patients``, ``cases`` and, for classification, one per class;
        attribute and group are ``all`` in the first row of each split; ``unknown`` has a row where it has cases.
    """
    rows = []
    for split in [name for name in SPLITS if (info.table["split"] == name).any()]:
        part = info.table[info.table["split"] == split]
        rows.append(_counts(info, part, split, "all", "all"))
        for name, groups in info.attributes.items():
            for group in [*groups, UNKNOWN]:
                members = part[part[name] == group]
                if group != UNKNOWN or len(members):
                    rows.append(_counts(info, members, split, name, group))
    return pd.DataFrame(rows)


def _counts(info: DatasetInfo, part: pd.DataFrame, split: str, attribute: str, group: str) -> dict[str, object]:
    row: dict[str, object] = {"split": split, "attribute": attribute, "group": group}
    row |= {"patients": part["patient_id"].nunique(), "cases": len(part)}
    for index, name in enumerate(info.classes):
        if info.multi_label and f"label_{name}" in part:
            row[name] = int(part[f"label_{name}"].sum())
        elif "label" in part:
            row[name] = int((part["label"] == index).sum())
    return row


def describe(info: DatasetInfo, counts: pd.DataFrame | None = None) -> str:
    """What a dataset holds, as text: one line about it, then the table of `count_groups` (made here if not given)."""
    counts = count_groups(info) if counts is None else counts
    patients = info.table["patient_id"].nunique()
    head = (
        f"{info.card.title}: {info.task}, {info.modality}, {info.spatial_dims}D, {len(info.table)} cases of "
        f"{patients} patients, resampling unit {info.unit}"
    )
    labels = f"\nlabels: {', '.join(f'{name} = {value}' for name, value in info.labels.items())}" if info.labels else ""
    notice = f"\nnotice: {info.notice}" if info.notice else ""
    return f"{head}{labels}{notice}\n{counts.to_string(index=False)}"


def _thin_groups(info: DatasetInfo, counts: pd.DataFrame) -> list[Problem]:
    """Groups that have no case, or lack a class, in a split where metrics will be asked for."""
    problems = []
    for row in counts.to_dict("records"):
        where = f"split {row['split']!r}: {row['attribute']} {row['group']!r}"
        lacking = [name for name in info.classes if row.get(name) == 0]
        if row["split"] == "train" or row["group"] == UNKNOWN:
            continue
        if not row["cases"]:
            problems.append(Problem("empty_group", f"{where} has no case: its metrics will be undefined", "warning"))
        elif lacking:
            message = f"{where} has no case of {', '.join(lacking)}: some of its metrics will be undefined"
            problems.append(Problem("one_class_group", message, "warning"))
    return problems
