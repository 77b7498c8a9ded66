"""What the sets of fundus photographs share: FairMedFM's lists of images, balanced test subsets, repeated patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.card import Attribute
from fairmedfm_monai.data.manifest import group_column
from fairmedfm_monai.data.prepare.attributes import ages
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.published import balanced_subset
from fairmedfm_monai.data.prepare.spec import Choice
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import split_patients

FAIRMEDFM = "fairmedfm"
LISTS = {"train": "split/new_train.csv|split/train.csv", "test": "split/new_test.csv|split/test.csv"}
LISTS_MEANING = "FairMedFM's own lists of images, for the protocol fairmedfm only; they are not public"
PROTOCOL = (
    "FairMedFM: its own lists of training and test images (they are not public: put its split/*.csv into the release "
    "folder), no validation; sex and age alone"
)
SUBSETS = ("sex", "age")
PATIENT = "release_patient_id"
_TEMPLATE = "a fundus image of a {}"


def prompts(name: str, *others: str) -> list[str]:
    """Prompts of a class: FairMedFM's first."""
    return [_TEMPLATE.format(name), *others]


def attributes_of(column: str, groups: dict[str, Any], choice: Choice) -> dict[str, Any]:
    """The card's attributes.

    Args:
        column: column with the age.
        groups: the attributes of the release beside age; ``sex`` first.
        choice: under FairMedFM there are sex and age in two groups alone, and 60 is young, as in its test subsets.
    """
    if choice.protocol != FAIRMEDFM:
        return groups | ages(column)
    age = ages(column)["age"]
    age["bins"][1] = float(np.nextafter(60, 61))
    return {"sex": groups["sex"], "age": {**age, "groups": ["le60", "gt60"]}}


def extra_columns(choice: Choice) -> list[str]:
    """Columns that `with_split` adds."""
    names = [f"fairmedfm_test_{name}" for name in SUBSETS]
    return [*names, PATIENT] if choice.protocol == FAIRMEDFM else names


def with_split(
    source: Path,
    table: pd.DataFrame,
    attributes: Mapping[str, Any],
    choice: Choice,
    *,
    listed: tuple[str, pd.Series],
    stratify: Sequence[str],
) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    """The table with ``split`` and 0/1 columns of balanced test subsets.

    Patients are split by seed, under FairMedFM (Jin et al., NeurIPS 2024) by its lists, which name images.

    Args:
        source: the release folder.
        table: with ``case_id``, ``patient_id`` and the columns of the attributes.
        attributes: of the card.
        choice: protocol and seed.
        listed: column of FairMedFM's lists, and the name of each row as it stands there.
        stratify: columns that the splits balance.

    Returns:
        Table, notes, and the card's notice (empty by default).

    Raises:
        DatasetError: lists that are not there, or that share images.
    """
    notes: tuple[str, ...] = ()
    notice = ""
    if choice.protocol == FAIRMEDFM:
        table, notes, notice = _listed_split(source, table, listed)
    else:
        table = split_patients(table, seed=choice.seed, stratify=stratify)
    subsets = {}
    for name in SUBSETS:
        groups = group_column(Attribute.from_dict(name, attributes[name]), table)
        subsets[f"fairmedfm_test_{name}"] = balanced_subset(table, groups, seed=choice.seed).astype(str)
    return table.assign(**subsets), notes, notice


def _listed_split(
    source: Path, table: pd.DataFrame, listed: tuple[str, pd.Series]
) -> tuple[pd.DataFrame, tuple[str, ...], str]:
    column, names = listed
    if not all(any((source / file).is_file() for file in either.split("|")) for either in LISTS.values()):
        wanted = " and ".join(either.split("|")[0] for either in LISTS.values())
        message = (
            f"the protocol fairmedfm needs FairMedFM's lists of images as {wanted} (column {column!r}); they are not "
            "public, and no rule gives them: ask its authors, or leave `protocol` out"
        )
        raise DatasetError(source, [Problem("missing_file", message)])
    members = {part: set(read_table(one_of(source, file), [column])[column]) for part, file in LISTS.items()}
    both = sorted(members["train"] & members["test"])
    if both:
        message = f"{len(both)} images are in both lists: {examples(both)}"
        raise DatasetError(source, [Problem("split", message)])
    split = pd.Series("", index=table.index).mask(names.isin(members["train"]), "train")
    split = split.mask(names.isin(members["test"]), "test")
    kept = table.assign(split=split)[split != ""].reset_index(drop=True)
    splits = kept.groupby("patient_id")["split"].nunique()
    notice = (
        "The split is FairMedFM's, by image: patient_id is the image here, so that intervals do not know of repeated "
        f"patients. {int((splits > 1).sum()):,} of {len(splits):,} patients have images in both training and test "
        "set, and there is no validation set."
    )
    note = f"{int((split == '').sum()):,} images are in neither list and left out"
    return kept.rename(columns={"patient_id": PATIENT}).assign(patient_id=kept["case_id"]), (note,), notice


def differing(table: pd.DataFrame, columns: Mapping[str, str]) -> tuple[str, ...]:
    """A note per column (title -> column) of the patients whose images tell different values."""
    notes = []
    for title, column in columns.items():
        several = table.groupby("patient_id")[column].nunique()
        number = int((several > 1).sum())
        if number:
            notes.append(f"{number:,} patients have more than one {title}: each image keeps its own")
    return tuple(notes)
