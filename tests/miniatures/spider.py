"""A miniature of the SPIDER release: layout, column names, label ids and oddities of the owner's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK

COLUMNS = "new_file_name,subset,num_vertebrae,num_discs,sex,MagneticFieldStrength,Manufacturer,SeriesDescription"
MAKERS = ("SIEMENS", "Philips Medical Systems", "Philips Healthcare", "Siemens HealthCare")
SIZE = (40, 24, 4)  # feet to head, front to back, right to left: the thick slices lie along the last axis of arrays


def write_pair(folder: Path, name: str, *, levels: int, rng: np.random.Generator) -> None:
    """Volume and label map of a stack of vertebrae and discs before a canal."""
    mask = np.zeros(SIZE, np.int16)
    mask[:, 17:21, 1:3] = 100
    for level in range(levels):
        mask[5 * level : 5 * level + 3, 4:15, 1:3] = level + 1
        mask[5 * level + 3 : 5 * level + 5, 4:15, 1:3] = 201 + level
    volume = (mask % 90 * 3 + rng.integers(0, 30, SIZE)).astype(np.int16)
    for array, kind in ((volume, "images"), (mask, "masks")):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((4.4, 0.6, 0.6))
        image.SetOrigin((-13.2, -50.0, 30.0))
        (folder / kind).mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(image, str(folder / kind / f"{name}.mha"))


def make(folder: Path, *, patients: int = 9, split: bool = True) -> Path:
    """One to three series per patient; numbers have gaps, the sex of a row a trailing space, and one patient none.

    Args:
        folder: to make.
        patients: how many.
        split: with the column ``subset``.
    """
    rng = np.random.default_rng(0)
    columns = COLUMNS if split else COLUMNS.replace("subset,", "")
    lines = [columns]
    for index in range(patients):
        patient = 1 + 3 * index
        sex = "" if index == patients - 1 else ("F ", "M", "F")[index % 3]
        levels = 8 if index == 6 else 7
        part = ["validation" if index % 4 == 3 else "training"] if split else []
        for sequence in (("t2",), ("t1", "t2"), ("t1", "t2", "t2_SPACE"))[index % 3]:
            name = f"{patient}_{sequence}"
            row = [name, *part, str(levels), str(levels), sex, ("1.5", "3.0")[index % 2], MAKERS[index % 4], "sag"]
            lines.append(",".join(row))
            write_pair(folder, name, levels=levels, rng=rng)
    (folder / "overview.csv").write_text("\n".join(lines) + "\n")
    (folder / "radiological_gradings.csv").write_text("Patient,IVD label,Modic\n1,1,0\n")
    return folder
