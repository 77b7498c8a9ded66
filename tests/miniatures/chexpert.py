"""A miniature of the CheXpert release: layout, column names and oddities of the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openpyxl import Workbook
from PIL import Image

FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
# What a report says; all other cells are empty.
REPORTS = (
    {"No Finding": "1.0", "Pneumothorax": "0.0"},
    {"Cardiomegaly": "1.0", "Edema": "-1.0", "Support Devices": "1.0"},
    {"No Finding": "1.0", "Support Devices": "1.0"},
    {"Pleural Effusion": "1.0", "Atelectasis": "-1.0", "Lung Opacity": "1.0"},
    {"Consolidation": "-1.0", "Pneumonia": "-1.0"},
    {"Support Devices": "1.0", "Pneumothorax": "0.0"},
    {"Edema": "1.0", "Fracture": "1.0", "Cardiomegaly": "0.0"},
)
AGES = ("68", "60", "59", "90", "41")
RACES = (
    *("White", "Other", "White, non-Hispanic", "Asian", "Unknown", "Black or African American", "Patient Refused"),
    *("Race and Ethnicity Unknown", "Asian - Historical Conv", "Native Hawaiian or Other Pacific Islander", None),
)
ETHNICITIES = ("Non-Hispanic/Non-Latino", "Hispanic/Latino", "Unknown", "Not Hispanic")


def make(folder: Path, *, patients: int = 60, name: str = "CheXpert-v1.0-small", people: bool = True) -> Path:
    """60 patients with a frontal and, every third, a lateral image, and four patients of valid.csv.

    The sex of the first is unknown, that of the second differs between the tables, the third has no row in the
    demographic table, the last is 0 years old.
    """
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS])
    tables: dict[str, list[str]] = {"train": [header], "valid": [header]}
    rows = [("PATIENT", "GENDER", "AGE_AT_CXR", "PRIMARY_RACE", "ETHNICITY")]
    for number in range(1, patients + 5):
        split = "train" if number <= patients else "valid"
        sex, age = ("Female", "Male")[number % 2], "0" if number == patients else AGES[number % 5]
        views = ["frontal", *(["lateral"] if number % 3 == 0 else [])]
        for index, view in enumerate(views, start=1):
            path = f"{split}/patient{number:05d}/study1/view{index}_{view}.jpg"
            cells = [path, "Unknown" if number == 1 else sex, age, view.capitalize()]
            cells.append("" if view == "lateral" else "RL" if number == 4 else ("AP", "PA")[number % 4 == 0])
            cells += _labels(number, whole=split == "valid")
            tables[split].append(f"{name}/" + ",".join(cells))
            _picture(folder / path, number)
        told = {1: "Female", 2: "Male"}.get(number, sex)
        if number != 3 and split == "train":
            rows.append((f"patient{number:05d}", told, int(age), RACES[number % 11], ETHNICITIES[number % 4]))
    for split, lines in tables.items():
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
    if people:
        _workbook(folder / "CHEXPERT DEMO.xlsx", rows)
    return folder


def _labels(number: int, *, whole: bool) -> list[str]:
    """Radiologists filled in every cell of valid.csv."""
    report = REPORTS[number % 7]
    return [report.get(name, "0.0" if whole else "").replace("-1.0", "1.0" if whole else "-1.0") for name in FINDINGS]


def _picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (52, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def _workbook(file: Path, rows: list[tuple[object, ...]]) -> None:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "CheXpert Demo 11-13"
    for row in rows:
        sheet.append(row)
    book.save(file)
