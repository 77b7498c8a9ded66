"""What the sets of the Harvard Ophthalmology AI Lab share: codes of demographics, their columns, published groups.

Their tables hold words, their ``.npz`` files numbers; the codes are those of the owner's descriptions of the sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.card import Attribute
from fairmedfm_monai.data.manifest import group_column
from fairmedfm_monai.data.prepare.attributes import OLDEST, ages, grouped, sex
from fairmedfm_monai.data.prepare.published import balanced_subset, split_82
from fairmedfm_monai.data.prepare.spec import Choice
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

TABLES = "ReadMe/data_summary.csv|data_summary.csv"
COLUMNS = ("age", "gender", "race", "ethnicity", "language", "maritalstatus")
SPLITS = {"training": "train", "validation": "val", "test": "test"}
LABELS = {"no": "normal", "0": "normal", "yes": "glaucoma", "1": "glaucoma"}
LICENCE = "CC-BY-NC-ND-4.0"
FAIRMEDFM = "fairmedfm"
FAIRMEDFM_MEANS = (
    "FairMedFM: its own test set with as many women as men, no validation; race white or not, language English or not "
    "(unknown included)"
)
UNKNOWN = ("unknown", "Unknown", "-1")
SEX = {"female": ("female", "Female", "0"), "male": ("male", "Male", "1")}
RACE = {
    "asian": ("asian", "Asian", "0"),
    "black": ("black", "Black", "Black or African American", "1"),
    "white": ("white", "White", "White or Caucasian", "2"),
}
ETHNICITY = {"non-hispanic": ("non-hispanic", "Non-Hispanic", "0"), "hispanic": ("hispanic", "Hispanic", "1")}
LANGUAGE = {
    "english": ("english", "English", "0"),
    "spanish": ("spanish", "Spanish", "1"),
    "other": ("other", "others", "other languages", "Other", "Others", "2"),
}
MARITAL_STATUS = {
    "partnered": ("married or partnered", "Married or Partnered", "0"),
    "single": ("single", "Single", "1"),
    "divorced": ("divorced", "Divorced", "2"),
    "widowed": ("widowed", "Widowed", "3"),
    "separated": ("legally separated", "Legally Separated", "4"),
}
# Names of the same value in the npz files of the several sets and versions.
KEYS = {
    "age": ("age",),
    "gender": ("gender", "male"),
    "race": ("race",),
    "ethnicity": ("ethnicity", "hispanic"),
    "language": ("language",),
    "maritalstatus": ("maritalstatus",),
}


def demographics() -> dict[str, Any]:
    """The card's attributes, of the columns `COLUMNS`."""
    return {
        **sex("gender", **SEX, missing=UNKNOWN),
        **ages("age", missing=UNKNOWN),
        **grouped("race", "race", RACE, missing=UNKNOWN, title="Race"),
        **grouped("ethnicity", "ethnicity", ETHNICITY, missing=UNKNOWN, title="Ethnicity"),
        **grouped("language", "language", LANGUAGE, missing=UNKNOWN, title="Preferred language"),
        **grouped("marital_status", "maritalstatus", MARITAL_STATUS, missing=UNKNOWN, title="Marital status"),
    }


def published_groups(*, unknown_is_other: bool) -> dict[str, Any]:
    """The attributes of FairMedFM (Jin et al., NeurIPS 2024): two groups each.

    Args:
        unknown_is_other: as in the published code, where an unknown language is not English.
    """
    race = {"white": RACE["white"], "non_white": (*RACE["asian"], *RACE["black"])}
    language = {"english": LANGUAGE["english"], "non_english": (*LANGUAGE["spanish"], *LANGUAGE["other"])}
    missing: Sequence[str] = UNKNOWN
    if unknown_is_other:
        language["non_english"] += UNKNOWN
        missing = ()
    bins = {"column": "age", "bins": [0, 60, OLDEST], "groups": ["lt60", "ge60"], "missing": list(UNKNOWN)}
    return {
        **sex("gender", **SEX, missing=UNKNOWN),
        "age": {**bins, "title": "Age"},
        **grouped("race", "race", race, missing=UNKNOWN, title="Race"),
        **grouped("language", "language", language, missing=missing, title="Preferred language"),
    }


def groups_of(table: pd.DataFrame, attributes: Mapping[str, Any], name: str) -> pd.Series:
    """Group slug per row of one attribute of a card."""
    return group_column(Attribute.from_dict(name, attributes[name]), table)


def with_split(table: pd.DataFrame, use: pd.Series, file: Path, choice: Choice) -> tuple[pd.DataFrame, str]:
    """The table with the owner's ``split``, or under the protocol ``fairmedfm`` its own, and balanced test subsets.

    A subset is a 0/1 column per published attribute: the test cases with as many of each group as the smallest has. The
    published draw had no seed; its age subsets count the age of 60 as young, its models as old.

    Args:
        table: with ``case_id`` and the columns `COLUMNS`.
        use: the owner's split, same rows.
        file: the owner's table, for messages.
        choice: protocol and seed.

    Returns:
        The table, and a note of how many test cases each group has.

    Raises:
        DatasetError: words in ``use`` that are no split.
    """
    published = choice.protocol == FAIRMEDFM
    attributes = published_groups(unknown_is_other=published)
    split = owners_split(file, use)
    if published:
        table = table.sort_values("case_id", ignore_index=True)  # the published draw is from sorted names
        split = split_82(table.assign(sex=groups_of(table, attributes, "sex")), sex="sex")
        attributes["age"]["bins"][1] = float(np.nextafter(60, 61))
    table = table.assign(split=split)
    test = table["split"] == "test"
    sizes = []
    for name in attributes:
        groups = groups_of(table, attributes, name)
        table[subset_column(name)] = balanced_subset(table, groups, seed=choice.seed).astype(str)
        counted = ", ".join(f"{group} {number:,}" for group, number in groups[test].value_counts().items())
        sizes.append(f"{name} {counted}")
    unused = [name for name in COLUMNS if published and name not in {part["column"] for part in attributes.values()}]
    return table.drop(columns=unused), f"test cases before balancing: {'; '.join(sizes)}"


def classification_attributes(choice: Choice) -> dict[str, Any]:
    """Attributes of the card of a choice."""
    return published_groups(unknown_is_other=True) if choice.protocol == FAIRMEDFM else demographics()


def subset_column(attribute: str) -> str:
    """Name of the 0/1 column of a balanced test subset."""
    return f"fairmedfm_test_{attribute}"


def subset_columns() -> list[str]:
    """The columns that `with_split` adds."""
    return [subset_column(name) for name in published_groups(unknown_is_other=False)]


def owners_split(file: Path, use: pd.Series) -> pd.Series:
    """``train``, ``val`` or ``test`` of the owner's column ``use``.

    Raises:
        DatasetError: other words.
    """
    strange = use[~use.isin(SPLITS)].value_counts()
    if len(strange):
        listed = examples(f"{value!r} ({number})" for value, number in strange.items())
        message = f"column 'use' must hold {', '.join(SPLITS)}, but got {listed}"
        raise DatasetError(file, [Problem("split", message)])
    return use.map(SPLITS)


def label_of(raw: pd.Series) -> pd.Series:
    """Class of each raw value; other values stay, for the engine to refuse them."""
    return raw.map(lambda value: LABELS.get(value, value))


def disagreements(
    file: Path, table: pd.DataFrame, scalars: pd.DataFrame, attributes: Mapping[str, Any]
) -> tuple[list[Problem], str]:
    """Where the owner's table and the values inside the ``.npz`` files say different things.

    Args:
        file: the table, for the note.
        table: with ``case_id``, ``label`` where there is one, and the columns of the attributes.
        scalars: the values of the files, same rows, columns as ``table``; empty where a file does not tell.
        attributes: of the card; those of numbers (age) are not compared.

    Returns:
        A problem per column that differs, with the cases; and a note of how many were compared.
    """
    pairs = {name: [groups_of(part, attributes, name) for part in (table, scalars)] for name in ("sex", "race")}
    if "label" in table:
        pairs["label"] = [table["label"], scalars["label"].replace("", "unknown")]
    problems, compared = [], []
    for name, (ours, theirs) in pairs.items():
        both = (ours != "unknown") & (theirs != "unknown")
        compared.append(f"{name} of {int(both.sum()):,}")
        wrong = both & (ours != theirs)
        if wrong.any():
            rows = zip(table["case_id"][wrong], ours[wrong], theirs[wrong], strict=True)
            listed = examples(f"{case}: {one} and {other}" for case, one, other in rows)
            message = f"{name} of {int(wrong.sum())} cases differs between {file.name} and the npz file: {listed}"
            problems.append(Problem("disagreement", message))
    return problems, f"{file.name} was compared with the npz files: {', '.join(compared)} cases"
