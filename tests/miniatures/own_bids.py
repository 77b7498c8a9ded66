"""A BIDS folder of small T1w volumes: sessions, levels, a participant without image, derivatives."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

HIDDEN = "ZZSECRETZZ"  # in every text field of the NIfTI headers
SUBJECTS = 12


def write_volume(path: Path, values: np.ndarray) -> None:
    """A NIfTI file with texts in descrip, aux_file, intent_name, db_name and an extension."""
    image = nibabel.Nifti1Image(values, np.diag([-2.0, 2.0, 2.0, 1.0]))
    for name in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[name] = HIDDEN
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", HIDDEN.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)


def make(folder: Path, *, sessions: bool = False) -> Path:
    """Twelve participants with image, one without; group and sex as codes that participants.json explains."""
    lines = ["participant_id\tage\tsex\tgroup\thandedness"]
    for subject in range(1, SUBJECTS + 1):
        name = f"sub-{subject:02d}"
        age = "n/a" if subject == 3 else str(20 + 5 * subject)
        group = subject % 2
        lines.append(f"{name}\t{age}\t{1 + subject // 2 % 2}\t{group}\tright")
        for session in ("ses-1", "ses-2") if sessions else ("",):
            stem = f"{name}_{session}" if session else name
            values = np.random.default_rng(subject).integers(0, 400, (16, 16, 12)).astype(np.int16)
            values[4:10, 4:10, 3:8] += np.int16(300 + 200 * group)
            write_volume(folder / name / session / "anat" / f"{stem}_T1w.nii.gz", values)
            mask = np.zeros(values.shape, np.uint8)
            mask[4:10, 4:10, 3:8] = 1
            write_volume(folder / "derivatives/manual" / name / session / "anat" / f"{stem}_mask.nii.gz", mask)
    lines.append("sub-99\t50\t1\t0\tleft")
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    levels = {
        "sex": {"Levels": {"1": "male", "2": {"Description": "Female"}}},
        "group": {"Description": "study group", "Levels": {"0": "control", "1": "patient"}},
    }
    (folder / "participants.json").write_text(json.dumps(levels))
    (folder / "dataset_description.json").write_text(json.dumps({"Name": HIDDEN, "BIDSVersion": "1.8.0"}))
    return folder
