"""A miniature of the Harvard-GF release: layout, keys, column names and oddities of the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.miniatures.harvard import code, patient, save_npz, use

HEADER = "filename,age,gender,race,ethnicity,language,maritalstatus,glaucoma,use"
SIZE = 48  # the release has 200 x 200


def make(folder: Path, *, patients: int = 40, top: bool = True) -> Path:
    """40 patients: maps of five decimals, without measurement at a corner, one with values above 350.

    Args:
        folder: to make.
        patients: how many.
        top: the table at the top and the files in a folder per split, or as unpacked from the hub.
    """
    rng = np.random.default_rng(0)
    lines = [HEADER]
    for number in range(patients):
        row = patient(number, other_language="other languages")
        row |= {"filename": f"data_{number + 1:04d}.npz", "use": use(number, patients)}
        lines.append(",".join(row[name] for name in HEADER.split(",")))
        thickness = np.round(rng.uniform(0, 180, (SIZE, SIZE)) - 30 * (number % 2), 5).clip(0)
        thickness[: 4 + number % 5, :10] = -2.0
        if number == 3:
            thickness[20, 5:9] = 361.25
        codes = {name: code(name, row[name]) for name in ("race", "language", "maritalstatus", "glaucoma")}
        codes |= {"male": code("gender", row["gender"]), "hispanic": code("ethnicity", row["ethnicity"])}
        volume = rng.integers(0, 255, (4, 8, 8), dtype=np.uint8)
        place = folder / (row["use"].capitalize() if top else "Dataset")
        values = {"md": -1.5, "tds": np.zeros(52), "age": float(row["age"])}
        save_npz(place / row["filename"], oct_bscans=volume, rnflt=thickness, **values, **codes)
    table = folder / ("data_summary.csv" if top else "ReadMe/data_summary.csv")
    table.parent.mkdir(exist_ok=True)
    table.write_text("\n".join(lines) + "\n")
    return folder
