"""A miniature of the image collection ADNI1_Screening_1.5T: tree, table and oddities of the owner's download."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

COLUMNS = "Image Data ID,Subject,Group,Sex,Age,Visit,Modality,Description,Type,Acq Date,Format,Downloaded"
AGES = (70, 74, 75, 88, 58, 66, 79)
AFFINE = np.array([[0, 0, 1.2, -90], [1.0, 0, 0, -125], [0, 1.0, 0, -110], [0, 0, 0, 1]])  # sagittal slices
STEPS = "GradWarp; B1 Correction; N3; "


def make(folder: Path, *, subjects: int = 24, deep: bool = False, packed: bool = False) -> Path:
    """A third each of AD, CN and MCI; every second subject has a repeated image, and one another visit.

    Args:
        folder: to make.
        subjects: how many.
        deep: with one folder more below the image's, as some downloads have.
        packed: files end in ``.nii.gz``.
    """
    rng = np.random.default_rng(0)
    lines = [COLUMNS.replace(",", '","').join('""')]
    number = 45108
    for index in range(subjects):
        subject = f"{(2, 941, 127)[index % 3]:03d}_S_{413 + index:04d}"
        group, sex, age = ("AD", "CN", "MCI")[index % 3], "MF"[index // 3 % 2], AGES[index % len(AGES)]
        series = [("MPR; " + STEPS + "Scaled", "sc", "5/02/2006")]
        series += [("MPR-R; " + STEPS + "Scaled_2", "sc", "5/02/2006")] if index // 3 % 2 else []
        series += [("MPR; " + STEPS + "Scaled", "m06", "11/02/2006")] if index == 0 else []
        for description, visit, day in series:
            image = f"I{number}"
            number += 37
            cells = [image, subject, group, sex, str(age), visit, "MRI", description, "Processed", day, "NiFTI", ""]
            lines.append('","'.join(cells).join('""'))
            slug = description.replace("; ", "__").replace(" ", "_")
            place = folder / "ADNI" / subject / slug / "2006-05-02_08_00_01.0" / image / ("NIfTI" if deep else "")
            place.mkdir(parents=True)
            volume = rng.integers(0, 900, (16, 18, 12)).astype(np.int16)
            name = f"ADNI_{subject}_MR_{slug}_Br_20070216232854688_S13893_{image}.nii{'.gz' if packed else ''}"
            nibabel.save(nibabel.Nifti1Image(volume, AFFINE), place / name)
    (folder / "ADNI1_Screening_1.5T_2_20_2024.csv").write_text("\n".join(lines) + "\n")
    return folder
