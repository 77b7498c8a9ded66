"""Demographics of MIMIC-IV, the hospital records beside MIMIC-CXR: one value per patient, and ages at a date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.agreement import CONFLICT, agreed_values
from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.balanced import published_age
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors

OLDEST_ANCHOR = 91  # the owner's value for everyone above 89
SINGLE = ("race", "language", "insurance", "marital_status")
_SEX = {"female": ("F",), "male": ("M",)}
_HISPANIC = "HISPANIC/LATINO - "
_RACE = {
    "white": ("WHITE", *(f"WHITE - {name}" for name in ("BRAZILIAN", "EASTERN EUROPEAN", "OTHER EUROPEAN", "RUSSIAN"))),
    "black": ("BLACK/AFRICAN", "BLACK/AFRICAN AMERICAN", "BLACK/CAPE VERDEAN", "BLACK/CARIBBEAN ISLAND"),
    "hispanic": (
        *("HISPANIC OR LATINO", "HISPANIC/LATINO", f"{_HISPANIC}CENTRAL AMERICAN", f"{_HISPANIC}COLUMBIAN"),
        *(f"{_HISPANIC}{name}" for name in ("CUBAN", "DOMINICAN", "GUATEMALAN", "HONDURAN", "MEXICAN", "PUERTO RICAN")),
        f"{_HISPANIC}SALVADORAN",
    ),
    "asian": ("ASIAN", *(f"ASIAN - {name}" for name in ("ASIAN INDIAN", "CHINESE", "KOREAN", "SOUTH EAST ASIAN"))),
    "native_american": ("AMERICAN INDIAN/ALASKA NATIVE",),
    "pacific_islander": ("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",),
    "other": ("OTHER", "MULTIPLE RACE/ETHNICITY", "PORTUGUESE", "SOUTH AMERICAN"),
}
_NO_RACE = ("UNKNOWN", "UNABLE TO OBTAIN", "PATIENT DECLINED TO ANSWER")
# Until version 2.2 the table tells English ("ENGLISH") from all else ("?"); from 3.0 on it names the languages.
_LANGUAGE = {
    "english": ("English", "ENGLISH"),
    "spanish": ("Spanish",),
    "chinese": ("Chinese",),
    "russian": ("Russian",),
    "portuguese": ("Portuguese",),
    "other": (
        *("Other", "American Sign Language", "Amharic", "Arabic", "Armenian", "Bengali", "French", "Haitian", "Hindi"),
        *("Italian", "Japanese", "Kabuverdianu", "Khmer", "Korean", "Modern Greek (1453-)", "Persian", "Polish"),
        *("Somali", "Thai", "Vietnamese"),
    ),
}
_INSURANCE = {
    "medicare": ("Medicare",),
    "medicaid": ("Medicaid",),
    "private": ("Private",),
    "other": ("Other", "No charge"),
}
_MARITAL_STATUS = {name.lower(): (name,) for name in ("MARRIED", "SINGLE", "DIVORCED", "WIDOWED")}


@dataclass(frozen=True, kw_only=True)
class People:
    """What MIMIC-IV says of the patients of some images.

    Attributes:
        table: indexed by ``subject_id``: ``gender``, ``anchor_age``, ``anchor_year``, the columns `SINGLE`.
        size: patients in patients.csv.
        notes: what was joined, with counts.
    """

    table: pd.DataFrame
    size: int
    notes: tuple[str, ...]


def attributes() -> dict[str, Any]:
    """The card's attributes; the age is in the column ``age``."""
    return {
        **sex("gender", **_SEX),
        **ages("age"),
        **grouped("race", "race", _RACE, missing=(*_NO_RACE, CONFLICT), title="Race"),
        **grouped("language", "language", _LANGUAGE, missing=("?", CONFLICT), title="Language"),
        **grouped("insurance", "insurance", _INSURANCE, missing=(CONFLICT,), title="Insurance"),
        **grouped("marital_status", "marital_status", _MARITAL_STATUS, missing=(CONFLICT,), title="Marital status"),
    }


def two_groups(*, published: bool) -> dict[str, Any]:
    """Sex, age and race as FairMedFM groups them; as published, a race that is not known is not white."""
    others = [raw for group, raws in _RACE.items() if group != "white" for raw in raws]
    race = {"white": _RACE["white"], "non_white": [*others, *(_NO_RACE if published else ())]}
    missing = () if published else (*_NO_RACE, CONFLICT)
    return {
        **sex("gender", **_SEX),
        **published_age("age"),
        **grouped("race", "race", race, missing=missing, title="Race"),
    }


def read_people(patients: Path, admissions: Path, subjects: pd.Series, *, published: bool) -> People:
    """Join the tables for some patients.

    Of race, language, insurance and marital status the single value over all admissions is taken; as published, the
    race of the first admission in the table.

    Args:
        patients: ``patients.csv`` of MIMIC-IV.
        admissions: ``admissions.csv``.
        subjects: their ids.
        published: see above.

    Raises:
        DatasetError: a table that cannot be used, patients that stand twice, or values that the card does not map.
    """
    people = read_table(patients, ["subject_id", "gender", "anchor_age", "anchor_year"])
    twice = people["subject_id"][people["subject_id"].duplicated()]
    if len(twice):
        message = f"column 'subject_id' must be unique, but stands twice: {examples(twice)}"
        raise DatasetError(patients, [Problem("duplicate_key", message)])
    stays = read_table(admissions, ["subject_id", "race|ethnicity", "language", "insurance", "marital_status"])
    # Objects: looking up half a million texts in another type of column takes many times as long.
    stays = stays[["subject_id", *SINGLE]].astype(object)
    stays = stays[stays["subject_id"].isin(set(subjects))]
    people = people.set_index("subject_id")
    lacking = int((~subjects.isin(set(subjects) & set(people.index))).sum())
    notes: tuple[str, ...] = (f"{lacking:,} images are of patients that {patients.name} lacks",)
    table = people[["gender", "anchor_age", "anchor_year"]].reindex(subjects.unique()).fillna("")
    if published:
        first = stays.drop_duplicates("subject_id").set_index("subject_id")["race"]
        return People(table=table.assign(race=table.index.map(first).fillna("")), size=len(people), notes=notes)
    values, counted = _single_values(admissions, stays)
    table = table.join(values).fillna("")
    without = int((~subjects.isin(set(stays["subject_id"]))).sum())
    notes += (f"{without:,} images are of patients without an admission: race and the like are unknown", counted)
    return People(table=table, size=len(people), notes=notes)


def _single_values(file: Path, stays: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The columns `SINGLE` per patient, and a note of how many patients' admissions contradict each other."""
    problems: list[Problem] = []
    columns, entries = {}, attributes()
    for name in SINGLE:
        columns[name], found = agreed_values(stays["subject_id"], stays[name], name=name, entry=entries[name])
        problems += found
    raise_errors(file, problems)
    conflicts = ", ".join(f"{name} {int((column == CONFLICT).sum()):,}" for name, column in columns.items())
    return pd.DataFrame(columns), f"patients whose admissions contradict each other, so that it is unknown: {conflicts}"


def ages_at(file: Path, people: pd.DataFrame, years: pd.Series) -> pd.Series:
    """Ages in years, as text; empty where unknown: ``anchor_age`` + (year - ``anchor_year``).

    Args:
        file: table that holds the years, for messages.
        people: ``anchor_age`` and ``anchor_year`` per row.
        years: shifted calendar year per row, as text.

    Raises:
        DatasetError: cells that are no numbers.
    """
    numbers: Mapping[str, pd.Series] = {
        "anchor_age": pd.to_numeric(people["anchor_age"], errors="coerce"),
        "anchor_year": pd.to_numeric(people["anchor_year"], errors="coerce"),
        "year": pd.to_numeric(years, errors="coerce"),
    }
    texts = {"anchor_age": people["anchor_age"], "anchor_year": people["anchor_year"], "year": years}
    problems = []
    for name, column in texts.items():
        wrong = column[(column != "") & numbers[name].isna()]
        if len(wrong):
            message = f"the {name} must be a number, but {len(wrong)} are not: {examples(wrong.unique())}"
            problems.append(Problem("number", message))
    raise_errors(file, problems)
    found = numbers["anchor_age"] + numbers["year"] - numbers["anchor_year"]
    return found.map(lambda age: "" if age != age else f"{age:g}").astype(object)  # noqa: PLR0124 (NaN)
