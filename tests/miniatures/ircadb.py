"""A miniature of 3D-IRCADb in the layout of nnU-Net, with label numbers above 255."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])
SHAPE = (24, 20, 6)
IDS = (1, 17, 65, 257, 513)  # of the sixteen, those of this miniature


def make(folder: Path, *, patients: int = 15, inside: str = "Dataset003_3D-IRCADb", channel: str = "") -> Path:
    """15 volumes, in a folder of their own below the table as in the published layout."""
    rng = np.random.default_rng(0)
    lines = ["name,sex"]
    for part in ("imagesTr", "labelsTr"):
        (folder / inside / part).mkdir(parents=True)
    for number in range(patients):
        name = f"3Dircadb1.{number + 1}"
        lines.append(f"{name},{'FM'[number % 2]}")
        labels = volume(number)
        values = (rng.integers(-30, 30, SHAPE) + 100 * (labels > 0)).astype(np.int16)
        for part, array in ((f"imagesTr/{name}{channel}", values), (f"labelsTr/{name}", labels)):
            nibabel.save(nibabel.Nifti1Image(array, AFFINE), folder / inside / f"{part}.nii.gz")
    (folder / "overview.csv").write_text("\n".join(lines) + "\n")
    return folder


def volume(number: int) -> np.ndarray:
    """16-bit label map: four blocks, and in every other patient a fifth."""
    labels = np.zeros(SHAPE, np.uint16)
    for place, value in enumerate(IDS):
        if place < 4 or number % 2:
            labels[2 + 4 * place : 6 + 4 * place, 4:16, 1:5] = value
    return labels
