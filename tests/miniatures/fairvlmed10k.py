"""A miniature of the Harvard-FairVLMed release: layout, column names and oddities of the owner's."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from tests.miniatures.harvard import code, disc, patient, save_npz, use

COLUMNS = ("filename", "age", "gender", "race", "ethnicity", "language", "maritalstatus")
COLUMNS += ("note", "gpt4_summary", "glaucoma", "use")
NOTE = '40 y/o who presents DATE_TIME for iop check, "glaucoma suspect";\nc/d 0.6 ou, t(max) 21'
SIZE = (66, 51)  # rows, columns; the release has 664 x 512


def make(folder: Path, *, patients: int = 40, jpeg: bool = True, npz: bool = True) -> Path:
    """40 patients: dark grey pictures as JPEG in three channels and in npz files; notes with commas and new lines."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(patients):
        row = patient(number) | {"filename": f"data_{number + 1:05d}.npz", "use": use(number, patients)}
        rows.append(row | {"note": NOTE, "gpt4_summary": "Patient is a glaucoma suspect, follow-up advised."})
        place = folder / row["use"].capitalize()
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(10, 60, SIZE) + 26 * disc(SIZE, number)[0]
        if jpeg:
            picture = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
            picture.save(place / f"slo_fundus_{number + 1:05d}.jpg", quality=95)
        if npz:
            codes = {name: code(name, row[name]) for name in ("gender", "race", "ethnicity", "language", "glaucoma")}
            values = {"md": -2.5, "tds": np.zeros(52), "age": float(row["age"]), "note": NOTE}
            save_npz(place / row["filename"], slo_fundus=pixels.astype(np.uint8), **codes, **values)
    (folder / "ReadMe").mkdir()
    with (folder / "ReadMe" / "data_summary.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return folder
