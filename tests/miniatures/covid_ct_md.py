"""A miniature of the COVID-CT-MD release: layout, column names and oddities of the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.miniatures.dicom_series import write_series

HEADER = ",Diagnosis,Folder,Patient Gender,Patient Age,Weight,Clinical characteristics ,Surgery,Follow-up,PCR"
DIAGNOSES = {"COVID-19": ("COVID-19 Cases", "P{:03d}"), "CAP": ("Cap Cases", "cap{:03d}"), "Normal": ("Normal Cases",)}
AGES = ("039Y", "060Y", "061Y", "100Y", "015Y", "077Y", "018M")
SHAPE = (5, 16, 16)  # slices, rows, columns


def make(folder: Path, *, patients: int = 10, title: bool = True, files: str = "IM{:04d}.dcm") -> Path:
    """As many patients of each diagnosis, one series each, in slices whose numbers do not follow their place.

    Args:
        folder: to make.
        patients: of each diagnosis.
        title: with the line that the owner's table has above its header.
        files: names of the slices, by number.
    """
    rng = np.random.default_rng(0)
    lines = ["clinical_data" + "," * 9] if title else []
    lines += [HEADER if title else "clinical_data" + HEADER]
    number = 0
    for kind, (diagnosis, (parent, *pattern)) in enumerate(DIAGNOSES.items()):
        for patient in range(1, patients + 1):
            name = (pattern or ["normal{:03d}"])[0].format(patient)
            sex, age = "MF"[patient % 2], AGES[number % len(AGES)]
            lines.append(f'{number},{diagnosis},{name},{sex},{age},NA,"Cough, Fever ",No,NA,')
            volume = rng.integers(0, 2048, SHAPE).astype(np.uint16) + 100 * kind
            names = [files.format(1 + (3 * index) % SHAPE[0]) for index in range(SHAPE[0])]
            write_series(folder / parent / name, volume, names=names, SeriesInstanceUID=f"1.2.{number}")
            number += 1 + (patient == 4)  # the owner's numbers have gaps
    (folder / "Clinical-data.csv").write_text("\n".join(lines) + "\n")
    (folder / "Index.csv").write_text("Label Index,Diagnosis,Relative Path,Folder/ID\n0,COVID-19,./COVID-19/,P001\n")
    return folder
