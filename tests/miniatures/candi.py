"""A miniature of CANDI Share's release: its four groups, tables, names and label ids."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

GROUPS = {"HC": "HC", "BPDwithoutPsy": "BPDwoPsy", "BPDwithPsy": "BPDwPsy", "SS": "SS"}
AGES = ("13.5", "6.2", "9.99", "10", "12.9", "13")
IDS = (2, 3, 4, 5, 7, 8, *range(10, 19), 24, 26, 28, 30, 41, 42, 43, 44, 46, 47, *range(49, 55), 58, 60, 62)
SIZE = (20, 6, 12)  # of the release: 256 x 256 x 128


def make(folder: Path, *, subjects: int = 3, flat: bool = False) -> Path:
    """As many subjects of each group, with most labels of the release in each.

    Args:
        folder: to make.
        subjects: of each group.
        flat: everything at the top instead of a folder per group.
    """
    rng = np.random.default_rng(0)
    number = 0
    for group, prefix in GROUPS.items():
        place = folder if flat else folder / group
        place.mkdir(parents=True, exist_ok=True)
        lines = ["Subject,Gender,Age,Handedness"]
        for index in range(subjects):
            number += 1
            subject = f"{prefix}_{number:03d}"
            sex, hand = ("male", "female")[index % 2], ("RH", "LH", "RH", "", "RH")[number % 5]
            lines.append(f"{subject},{sex},{AGES[number % len(AGES)]},{hand}")
            mask = np.zeros(SIZE, np.int16)
            mask[4:16, 1:5, 3:9] = rng.permutation(IDS)[:24].reshape(3, 4, 2).repeat(4, 0).repeat(3, 2)
            volume = (mask * 2 + rng.integers(0, 20, SIZE)).astype(np.int16)
            affine = np.diag([0.94, 0.94, 1.5, 1])
            (place / subject).mkdir()
            for array, ending in ((volume, "procimg"), (mask, "seg")):
                nibabel.save(nibabel.Nifti1Image(array, affine), place / subject / f"{subject}_{ending}.nii.gz")
        (place / f"{group}_Basic_Demographics.csv").write_text("\n".join(lines) + "\n")
    return folder
