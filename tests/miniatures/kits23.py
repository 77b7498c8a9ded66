"""A miniature of the KiTS23 release: volumes in both layouts, and the owner's JSON with its oddities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

# The owner's volumes run through slices first: axes are z, y, x.
AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-2.0, 0, 0, 0], [0, 0, 0, 1]])
SHAPE = (8, 28, 24)
AGES = (49, 60, 59, 74, 43, 90)
BMIS = (29.47, 18.4, 18.5, 25, 30.0, 22.3)


def make(folder: Path, *, patients: int = 15, layout: str = "owner") -> Path:
    """15 cases from case_00577 on; ``layout`` is ``owner`` (a folder per case) or ``nnunet``."""
    folder.mkdir(parents=True)
    entries = [entry(number) for number in range(patients)]
    (folder / "kits23.json").write_text(json.dumps(entries, indent=2))
    for number, known in enumerate(entries):
        case = known["case_id"]
        names = [f"{case}/imaging.nii.gz", f"{case}/segmentation.nii.gz"]
        if layout == "nnunet":
            names = [f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"]
        for name, values in zip(names, volume(number), strict=True):
            (folder / name).parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, AFFINE), folder / name)
    return folder


def entry(number: int) -> dict[str, Any]:
    """One patient, with some of the keys that are not read."""
    return {
        "case_id": f"case_{577 + number:05d}",
        "gender": "transgender_male_to_female" if number == 4 else ("male", "female")[number % 2],
        "vital_status": "censored",
        "bmi": None if number == 7 else BMIS[number % 6],
        "comorbidities": {"copd": False, "aids": False},
        "age_at_nephrectomy": ">=90" if number == 5 else AGES[number % 6],
        "smoking_history": ("never_smoked", "previous_smoker", "current_smoker", "not_found_in_emr")[number % 4],
        "malignant": None if number == 9 else number % 5 != 0,
    }


def volume(number: int) -> tuple[np.ndarray, np.ndarray]:
    """CT values and labels: a kidney with a tumour in it, and a cyst in every third patient."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    labels = (np.hypot(y - 14, x - 12) < 9).astype(np.uint8) * (abs(z - 4) < 3)
    labels[(np.hypot(y - 12, x - 10) < 3) & (labels == 1)] = 2
    if number % 3 == 0:
        labels[(np.hypot(y - 18, x - 15) < 2) & (labels == 1)] = 3
    noise = np.random.default_rng(number).integers(-20, 20, SHAPE)
    values = np.choose(labels, (-80, 120, 60, 10)) + noise
    return values.astype(np.int16), labels.astype(np.uint8)
