"""Who the patients of CheXpert are: sex and age from its image tables, race and ethnicity from a table of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.agreement import CONFLICT, agreed_values
from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, published_age
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.spec import Choice
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, raise_errors

DEMOGRAPHICS = "CHEXPERT DEMO.xlsx|CHEXPERT_DEMO.xlsx|CHEXPERT DEMO.csv"
_SEX = {"female": ("Female",), "male": ("Male",)}
_RACE = {
    "white": ("White", "White, non-Hispanic", "White, Hispanic", "White or Caucasian"),
    "black": ("Black or African American", "Black, non-Hispanic", "Black, Hispanic"),
    "asian": ("Asian", "Asian, non-Hispanic", "Asian, Hispanic", "Asian - Historical Conv"),
    "pacific_islander": (
        "Native Hawaiian or Other Pacific Islander",
        *(f"Pacific Islander, {ethnicity}" for ethnicity in ("Hispanic", "non-Hispanic")),
    ),
    "native_american": (
        "American Indian or Alaska Native",
        *(f"Native American, {ethnicity}" for ethnicity in ("Hispanic", "non-Hispanic")),
    ),
    "other": ("Other", "Other, non-Hispanic", "Other, Hispanic"),
}
_ETHNICITY = {
    "hispanic": ("Hispanic/Latino", "Hispanic"),
    "non_hispanic": ("Non-Hispanic/Non-Latino", "Non-Hispanic", "Not Hispanic"),
}
_NO_ANSWER = ("Unknown", "Race and Ethnicity Unknown", "Patient Refused", "Declines to State")


def with_demographics(source: Path, raw: pd.DataFrame, choice: Choice) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Add ``PRIMARY_RACE`` and ``ETHNICITY``; a sex that the two tables tell differently becomes missing.

    FairMedFM's protocol keeps only patients with a race, and compares no sexes.

    Args:
        source: the release folder.
        raw: rows of the image tables, with ``patient_id`` and ``Sex``.
        choice: rule and protocol.

    Returns:
        The rows, and notes with counts.

    Raises:
        DatasetError: values that the card does not map, or no demographic table where the protocol needs one.
    """
    if not any((source / file).is_file() for file in DEMOGRAPHICS.split("|")):
        if choice.protocol == FAIRMEDFM:
            message = f"protocol {FAIRMEDFM} needs 'CHEXPERT DEMO.xlsx' beside train.csv"
            raise DatasetError(source, [Problem("missing_file", message)])
        note = "'CHEXPERT DEMO.xlsx' is not in the folder: race and ethnicity are unknown"
        return raw.assign(PRIMARY_RACE="", ETHNICITY=""), (note,)
    file = one_of(source, DEMOGRAPHICS)
    people = read_table(file, ["PATIENT", "GENDER", "PRIMARY_RACE", "ETHNICITY"])
    if choice.protocol == FAIRMEDFM:
        race = people.drop_duplicates("PATIENT").set_index("PATIENT")["PRIMARY_RACE"]
        raw = raw.assign(PRIMARY_RACE=raw["patient_id"].map(race).fillna(""))
        kept = raw[raw["PRIMARY_RACE"] != ""].reset_index(drop=True)
        note = f"{len(raw) - len(kept):,} images without a race in the demographic table are left out, as published"
        return kept, (note,)
    values, notes = _agreed(file, people)
    outside = ~raw["patient_id"].isin(people["PATIENT"])
    for column in ("PRIMARY_RACE", "ETHNICITY"):
        raw[column] = raw["patient_id"].map(values[column]).fillna("")
    gender = raw["patient_id"].map(values["GENDER"]).fillna("")
    known = [*_SEX["female"], *_SEX["male"]]
    differs = (gender != raw["Sex"]) & gender.isin(known) & raw["Sex"].isin(known)
    raw["Sex"] = raw["Sex"].mask(differs, CONFLICT)
    return raw, (
        f"{int(outside.sum()):,} images are of patients without a row in {file.name}: race and ethnicity unknown",
        f"the sex of {int(differs.sum()):,} images ({raw['patient_id'][differs].nunique():,} patients) differs between "
        f"the image table and {file.name}: unknown",
        *notes,
    )


def _agreed(file: Path, people: pd.DataFrame) -> tuple[dict[str, pd.Series], tuple[str, ...]]:
    """Patient -> value of each demographic column; patients may have several rows."""
    entries = demographics()
    values, problems = {}, []
    for name, column in (("race", "PRIMARY_RACE"), ("ethnicity", "ETHNICITY"), ("sex", "GENDER")):
        entry = {**entries[name], "missing": [*entries[name]["missing"], *_NO_ANSWER]}
        values[column], found = agreed_values(people["PATIENT"], people[column], name=name, entry=entry)
        problems += found
    raise_errors(file, problems)
    several = int(people["PATIENT"].duplicated().sum())
    return values, ((f"{several:,} patients have several rows in {file.name}",) if several else ())


def demographics() -> dict[str, Any]:
    """The card's attributes, the view position among them."""
    return {
        **sex("Sex", **_SEX, missing=("Unknown", CONFLICT)),
        **ages("Age", missing=("0",)),
        **grouped("race", "PRIMARY_RACE", _RACE, missing=(*_NO_ANSWER, CONFLICT), title="Race"),
        **grouped("ethnicity", "ETHNICITY", _ETHNICITY, missing=(*_NO_ANSWER, CONFLICT), title="Ethnicity"),
        **grouped("view", "AP/PA", {"ap": ["AP"], "pa": ["PA"]}, missing=("LL", "RL"), title="View position"),
    }


def two_groups(*, published: bool) -> dict[str, Any]:
    """Sex, age and race as FairMedFM groups them; published: an unknown race is not white, and an age of 0 is young."""
    others = [raw for group, raws in _RACE.items() if group != "white" for raw in raws]
    race = {"white": _RACE["white"], "non_white": [*others, *(_NO_ANSWER if published else ())]}
    missing = () if published else (*_NO_ANSWER, CONFLICT)
    entry = grouped("race", "PRIMARY_RACE", race, missing=missing, title="Race")
    entries = demographics()
    return {"sex": entries["sex"], "age": published_age("Age")["age"] if published else entries["age"], **entry}
