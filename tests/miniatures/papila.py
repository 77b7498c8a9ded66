"""A miniature of the PAPILA release: both eyes by patient, workbooks with three lines of header."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from openpyxl import Workbook
from PIL import Image

HEADERS = (
    ["", "Age", "Gender", "Diagnosis", "Refractive_Defect", "", "", "Phakic/Pseudophakic", "IOP", "", "Pachymetry"],
    ["", "", "", "", "dioptre_1", "dioptre_2", "astigmatism", "", "Pneumatic", "Perkins", ""],
    ["ID", *[""] * 10],
)
CSV_HEADER = "ID,Age,Gender,Diagnosis,dioptre_1,dioptre_2,astigmatism,Phakic/Pseudophakic,Pneumatic,Perkins,Pachymetry"
DIAGNOSES = ((0, 0), (1, 1), (0, 0), (1, 0), (2, 2), (0, 1), (0, 2))  # right and left eye
AGES = (47, 60, 59, 89, 72, 33)


def make(folder: Path, *, patients: int = 42, tables: str = "xlsx") -> Path:
    """42 patients with ids that have gaps; ``tables`` is ``xlsx`` as released, or ``csv``."""
    rng = np.random.default_rng(0)
    (folder / "ClinicalData").mkdir(parents=True)
    (folder / "FundusImages").mkdir()
    for side, eye in enumerate(("OD", "OS")):
        rows: list[list[object]] = []
        for number in range(patients):
            identity = f"#{2 + number + number // 3:03d}"
            diagnosis = DIAGNOSES[number % 7][side]
            rest = [0.75, -1.75, 90 if number % 4 else None, 0, None if number % 2 else 21, 19, 586]
            rows.append([identity, AGES[number % 6], number // 2 % 2, diagnosis, *rest])
            picture = Image.fromarray(rng.integers(0, 200, (48, 64, 3), dtype=np.uint8))
            picture.save(folder / "FundusImages" / f"RET{identity[1:]}{eye}.jpg")
        file = folder / "ClinicalData" / f"patient_data_{eye.lower()}.{tables}"
        if tables == "csv":
            with file.open("w", newline="") as stream:
                csv.writer(stream).writerows([CSV_HEADER.split(","), *rows])
            continue
        book = Workbook()
        for row in [*HEADERS, *rows]:
            book.active.append([None if cell == "" else cell for cell in row])
        book.save(file)
    return folder


def make_lists(folder: Path, *, shared: int = 0) -> dict[str, list[str]]:
    """Lists of FairMedFM's form: by image, so that patients are in both; ``shared`` images stand in both."""
    names = sorted(path.name for path in (folder / "FundusImages").glob("*.jpg"))
    chosen = np.random.default_rng(3).permutation(names)[:-10]  # ten images are in neither
    lists = {"train": [*chosen[16:], *chosen[:shared]], "test": list(chosen[:16])}
    (folder / "split").mkdir(exist_ok=True)
    for part, members in lists.items():
        (folder / "split" / f"new_{part}.csv").write_text("\n".join(["Path", *members]) + "\n")
    return lists
