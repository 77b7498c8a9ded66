"""A miniature of the NIH ChestX-ray14 release: layout, column names and oddities of the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
FINDINGS = ("No Finding", "Cardiomegaly", "Effusion|Infiltration", "Mass", "Nodule", "No Finding")
AGES = ("58", "34", "60", "72", "47", "155")


def make(folder: Path, *, patients: int = 40, images_per_patient: int = 2, year: str = "2017_v2020") -> Path:
    """40 patients of two images each, in two of the archive's image folders; one impossible age.

    The 2017 form has an empty column at the end of every line, header included.
    """
    rng = np.random.default_rng(0)
    end = "," if year == "2017" else ""
    lines = [HEADER + end]
    names = []
    for patient in range(1, patients + 1):
        for visit in range(images_per_patient):
            name = f"{patient:08d}_{visit:03d}.png"
            finding, age = FINDINGS[(patient + visit) % 6], AGES[patient % 6]
            sex, view = ("F", "M")[patient % 2], ("PA", "AP")[visit % 2]
            lines.append(f"{name},{finding},{visit},{patient},{age},{sex},{view},2682,2749,0.143,0.143{end}")
            place = folder / f"images_{1 + patient % 2:03d}" / "images"
            place.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name)
            names.append((name, patient))
    (folder / f"Data_Entry_{year}.csv").write_text("\n".join(lines) + "\n")
    lists = {"train_val": [name for name, patient in names if patient % 4], "test": [n for n, p in names if p % 4 == 0]}
    for part, members in lists.items():
        (folder / f"{part}_list.txt").write_text("\n".join(members))
    return folder
