"""COVID-CT-MD: chest CT of patients with COVID-19, with community acquired pneumonia, and with normal lungs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import ages, sex
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, published_age, subset_columns, with_balanced_subsets
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.dicom import series_to_nifti
from fairmedfm_monai.data.prepare.published import split_82
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.splits import split_patients

TABLES = "Clinical-data.csv|Clinical-data.csv.gz"
SEX, AGE = "Patient Gender", "Patient Age"
COLUMNS = ("Diagnosis", "Folder", SEX, AGE)
_LABELS = {
    "any_pneumonia": {"Normal": "normal", "CAP": "pneumonia", "COVID-19": "pneumonia"},
    "covid": {"Normal": "no_covid", "CAP": "no_covid", "COVID-19": "covid"},
}
_CLASSES = {
    "any_pneumonia": {
        "normal": ["a computed tomography of a normal", "a chest CT of normal lungs", "a CT scan without pneumonia"],
        "pneumonia": [
            "a computed tomography of a pneumonia",
            "a chest CT of a patient with pneumonia",
            "a CT scan showing pneumonia",
        ],
    },
    "covid": {
        "no_covid": [
            "a computed tomography of a patient without COVID-19",
            "a chest CT without COVID-19 pneumonia",
            "a CT scan of lungs without COVID-19",
        ],
        "covid": [
            "a computed tomography of a patient with COVID-19",
            "a chest CT of COVID-19 pneumonia",
            "a CT scan of lungs with COVID-19",
        ],
    },
}
_PATIENTS = {"Normal": 76, "CAP": 60, "COVID-19": 169}
_VERSIONS = {305: "2021 (305 patients)", 307: "2020 (307 patients, 171 of them with COVID-19)"}


def read(source: Path, choice: Choice) -> Release:
    """One row per patient, from the owner's clinical table; every patient has one folder of slices."""
    raw = _clinical(one_of(source, TABLES))
    folders = _folders(source)
    labels = _LABELS[choice.rule]
    paths = [
        f"{folders.get(_key(diagnosis), f'{diagnosis} Cases')}/{folder}"
        for diagnosis, folder in zip(raw["Diagnosis"], raw["Folder"], strict=True)
    ]
    table = pd.DataFrame(
        {
            "case_id": raw["Folder"],
            "patient_id": raw["Folder"],
            "image": [Made(f"images/{Path(path).name}.nii.gz", (path,), series_to_nifti) for path in paths],
            "label": raw["Diagnosis"].map(lambda diagnosis: labels.get(diagnosis, diagnosis)),
        }
    ).join(raw[["Diagnosis", SEX, AGE]])
    notes = ["slices are sorted by patient position; values, spacing and position are kept", *_strays(source, paths)]
    published = choice.protocol == FAIRMEDFM
    if published:
        groups = table.assign(sex=table[SEX].map({"F": "female", "M": "male"}))
        table["split"] = split_82(groups, sex="sex", unit="patient_id")
    else:
        table = split_patients(table, seed=choice.seed, stratify=["Diagnosis", SEX])
    table, sizes = with_balanced_subsets(table, _attributes(choice), seed=choice.seed, published=published)
    return Release(
        table=table,
        version=_VERSIONS.get(len(table), ""),
        expected=_expected(choice),
        notes=(*notes, sizes),
    )


def _clinical(file: Path) -> pd.DataFrame:
    """The table; the owner's file has the word clinical_data above the header."""
    return read_table(file, COLUMNS, header=int("Diagnosis" not in read_table(file)))


def _key(name: str) -> str:
    """``covid-19``, ``cap`` or ``normal`` of a diagnosis or a folder's name."""
    return name.lower().removesuffix(" cases").removesuffix(" subjects").strip()


def _folders(source: Path) -> dict[str, str]:
    """Diagnosis -> folder; the release spells CAP as Cap there."""
    return {_key(path.name): path.name for path in sorted(source.iterdir()) if path.is_dir()}


def _strays(source: Path, paths: list[str]) -> list[str]:
    """A note of patients' folders that the table does not name."""
    parents = {Path(path).parent for path in paths if (source / path).parent.is_dir()}
    there = {str(parent / path.name) for parent in parents for path in (source / parent).iterdir() if path.is_dir()}
    rest = sorted(there - set(paths))
    return (
        [f"{len(rest)} folders have no row in the clinical table and are left out: {', '.join(rest)}"] if rest else []
    )


def _expected(choice: Choice) -> dict[str, int]:
    found = {"cases": 305, "patients": 305, "sex/female": 122, "sex/male": 183, "sex/unknown": 0}
    for diagnosis, name in _LABELS[choice.rule].items():
        found[f"class/{name}"] = found.get(f"class/{name}", 0) + _PATIENTS[diagnosis]
    return found | ({"split/train": 257, "split/test": 48} if choice.protocol == FAIRMEDFM else {})


def _attributes(choice: Choice) -> dict[str, Any]:
    age = published_age(AGE) if choice.protocol == FAIRMEDFM else ages(AGE)
    return {**sex(SEX, female=["F"], male=["M"]), **age}


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    classes = _CLASSES[choice.rule]
    return {
        "task": "classification",
        "modality": "ct",
        "spatial_dims": 3,
        "classes": classes,
        "positive_class": list(classes)[1],
        "window": "lung",
        "attributes": _attributes(choice),
        "intersections": [["sex", "age"]],
        "extra_columns": ["Diagnosis", *subset_columns()],
    }


DATASET = PublicDataset(
    name="covid_ct_md",
    title="COVID-CT-MD",
    summary=(
        "Chest CT scans of one radiology centre, one per patient: COVID-19, community acquired pneumonia (CAP), and "
        "normal lungs. DICOM series are converted to NIfTI once, with their Hounsfield units and their geometry."
    ),
    size="305 scans of 305 patients (169 COVID-19, 60 CAP, 76 normal)",
    access="https://github.com/ShahinSHH/COVID-CT-MD, free download from Figshare",
    licence="as stated on its Figshare page",
    citation=(
        "Afshar P. et al., COVID-CT-MD, COVID-19 computed tomography scan dataset applicable in machine learning and "
        "deep learning, Scientific Data 8, 121 (2021)"
    ),
    layout={
        "Clinical-data.csv": "one row per patient",
        "COVID-19 Cases/, Cap Cases/, Normal Cases/": "a folder of DICOM slices per patient (also named ... subjects)",
    },
    needs=(TABLES, "*Cases|*cases|*subjects"),
    read=read,
    card=card,
    rules={
        "any_pneumonia": "normal against pneumonia of either kind (COVID-19 or CAP)",
        "covid": "COVID-19 against the rest (CAP or normal)",
    },
    protocols={
        FAIRMEDFM: (
            "FairMedFM: its split (48 test patients, as many women as men, no validation), age in two groups; its "
            "preparation interpolates scans to 512 x 512 and 34 slices without spacing, here they stay as they are"
        )
    },
    hazards=(
        "The diagnoses were collected at different times (COVID-19 2020, CAP 2018-2019, normal 2019-2020), so that "
        "scanners and settings may go with the label.",
        "Numbers in the names of slices need not follow their place: slices are sorted by patient position. Slices "
        "that are missing in the middle of a scan stop the preparation, those missing at an end cannot be noticed.",
        "How many slices of a scan a model of pictures sees is a setting of the bundle (`slices`), not of the dataset.",
        "FairMedFM's test set holds 37 patients up to the age of 60 and 11 above.",
        "Normal lungs are those of patients who were scanned for a reason, cancer among them.",
    ),
    aliases=("covid-ct-md", "covidctmd"),
)
