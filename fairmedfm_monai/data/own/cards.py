"""The card of users' data, made from what the columns hold; what cannot be told from them is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card_checks import is_slug
from fairmedfm_monai.data.own.classes import find_classes
from fairmedfm_monai.data.own.groups import attribute_entries
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.spellings import SEX_NAMES
from fairmedfm_monai.data.own.wishes import Wishes
from fairmedfm_monai.data.problems import Problem, raise_errors

REVIEW = (
    "Class names, prompts and groups of dataset.json were written by a program from the values of the data. "
    "Review them, then delete this notice"
)
REVIEW_GROUPS = (
    "The groups of dataset.json were written by a program from the values of the data. Review them, then delete this "
    "notice"
)
NO_PATIENTS = (
    "The data do not say (or not always) which images are of one patient: each {unit} counts as a patient of its own, "
    "images of one patient may be in two splits, and intervals may be too narrow"
)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Card and manifest rows.

    Attributes:
        card: content of ``dataset.json``.
        table: rows, the label columns as the card names them.
        lines: what became of each column, in words.
        notes: what was left out.
    """

    card: dict[str, Any]
    table: pd.DataFrame
    lines: tuple[str, ...]
    notes: tuple[str, ...]


def draft_card(rows: OwnRows, wishes: Wishes, *, name: str, where: object) -> Draft:
    """Make the card.

    Args:
        rows: the data.
        wishes: what the user said of the card.
        name: slug of the dataset.
        where: what the errors are about.

    Raises:
        DatasetError: with everything that the user must decide.
    """
    problems: list[Problem] = []
    segmentation = "mask" in rows.table
    attributes, lines = _attributes(rows, wishes, problems)
    columns = ["case_id", "patient_id", "image", "mask", "split", *rows.attributes]
    table = rows.table[[column for column in columns if column in rows.table]]
    truth: dict[str, Any] = {}
    notes: list[str] = []
    told = [f"{column}: {origin}" for column, origin in rows.origins.items()]
    if segmentation == bool(rows.labels):
        both = "both label and mask: make one folder for each" if segmentation else "neither label nor mask: name one"
        problems.append(Problem("label", f'the data have {both} (`--columns "label=..."` or `"mask=..."`)'))
    elif segmentation:
        truth = {"labels": dict(wishes.labels)}
        told += [f"labels of the masks: {', '.join(f'{label} is {value}' for label, value in wishes.labels.items())}"]
    else:
        found = find_classes(rows, wishes, problems)
        truth, notes = found.card, found.notes
        table = table.loc[found.columns.index].join(found.columns)
        told += [f"{column}: {_label_origin(rows, column)}: {line}" for column, line in found.lines.items()]
    _check_names(rows, wishes, problems)
    raise_errors(where, problems)
    card = _card(rows, wishes, name, segmentation) | truth | {"attributes": attributes}
    if "age" in attributes:
        card["intersections"] = [[sex, "age"] for sex in SEX_NAMES if sex in attributes]
    unused = [f"not taken over: {', '.join(rows.unused)}"] if rows.unused else []
    return Draft(card=card, table=table, lines=(*told, *lines, *unused), notes=tuple(notes))


def _card(rows: OwnRows, wishes: Wishes, name: str, segmentation: bool) -> dict[str, Any]:
    notices = [REVIEW_GROUPS if segmentation else REVIEW]
    notices += [] if rows.patient_is == "patient" else [NO_PATIENTS.format(unit=rows.patient_is)]
    return {
        "schema": 1,
        "name": name,
        "task": "segmentation" if segmentation else "classification",
        "modality": wishes.modality,
        "spatial_dims": wishes.spatial_dims,
        "unit": "image" if rows.patient_is == "image" else "patient",
        "notice": ". ".join(notices) + ".",
        **({"window": wishes.window} if wishes.window is not None else {}),
    }


def _attributes(rows: OwnRows, wishes: Wishes, problems: list[Problem]) -> tuple[dict[str, Any], list[str]]:
    entries: dict[str, Any] = {}
    lines = []
    for name, origin in rows.attributes.items():
        meanings = rows.meanings.get(name, {})
        found, line = attribute_entries(name, rows.table[name], wishes, meanings=meanings, problems=problems)
        problems += [
            Problem(
                "attribute_name", f"attribute {twice!r} stands twice: `age` makes `age_bands` too; choose another name"
            )
            for twice in found
            if twice in entries
        ]
        entries |= found
        lines.append(f"{name}: {origin}: {line}")
    return entries, lines


def _label_origin(rows: OwnRows, column: str) -> str:
    named: Mapping[str, str] = rows.labels
    return f"column {next(iter(named.values()))!r}" if column == "label" else "column of this class"


def _check_names(rows: OwnRows, wishes: Wishes, problems: list[Problem]) -> None:
    for option, names in (("groups", wishes.groups), ("bins", wishes.bins)):
        for name in names:
            if name not in rows.attributes:
                there = ", ".join(rows.attributes) or "none"
                problems.append(Problem("option", f"`--{option}` names {name!r}, but the attributes are {there}"))
    for name in wishes.missing:
        if name and name != "label" and name not in rows.attributes:
            there = ", ".join(("label", *rows.attributes))
            problems.append(Problem("option", f"`--missing` names {name!r}, but there are {there}"))
    for name in rows.attributes:
        if not is_slug(name):
            message = (
                f"`--columns`: the attribute name {name!r} must be letters, digits, '_', '-' and '.', without '__'"
            )
            problems.append(Problem("slug", message))
