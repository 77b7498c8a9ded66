"""A miniature of the BRSET release: columns, codes and oddities of the owner's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "image_id,patient_id,camera,patient_age,comorbidities,diabetes_time_y,insuline,patient_sex,exam_eye,diabetes,"
    "nationality,optic_disc,vessels,macula,DR_SDRG,DR_ICDR,focus,Illuminaton,image_field,artifacts,"
    "diabetic_retinopathy,macular_edema,scar,nevus,amd,vascular_occlusion,hypertensive_retinopathy,drusens,hemorrhage,"
    "retinal_detachment,myopic_fundus,increased_cup_disc,other,quality"
)
AGES = ("48.0", "", "60.0", "59.0", "77.0", "31.0")
GRADES = (0, 0, 1, 0, 3, 0, 4, 0, 2, 0)


def make(folder: Path, *, patients: int = 40, table: str = "labels.csv") -> Path:
    """40 patients of one to four images; two images without a grade, one patient with two sexes."""
    rng = np.random.default_rng(0)
    (folder / "fundus_photos").mkdir(parents=True)
    lines = [HEADER]
    for patient in range(1, patients + 1):
        for image in range((2, 2, 1, 4)[patient % 4]):
            name = f"img{len(lines):05d}"
            sex = 2 if patient % 3 else 1
            if patient == 7 and image == 1:
                sex = 3 - sex
            grade = "" if (patient, image) in {(8, 0), (9, 1)} else str(GRADES[patient % 10])
            cells = {
                "image_id": name,
                "patient_id": patient,
                "camera": ("Canon CR", "Canon CR", "NIKON NF5050")[patient % 3],
                "patient_age": AGES[patient % 6],
                "comorbidities": '"diabetes1, systemic hypertension"',
                "insuline": "yes" if patient % 2 else "no",
                "patient_sex": sex,
                "exam_eye": 1 + image % 2,
                "diabetes": "yes",
                "nationality": "Brazil",
                "DR_ICDR": grade,
                "diabetic_retinopathy": int(grade not in ("", "0")),
                "quality": "Adequate",
            }
            lines.append(",".join(str(cells.get(column, 0)) for column in HEADER.split(",")))
            picture = Image.fromarray(rng.integers(0, 200, (48, 64, 3), dtype=np.uint8))
            picture.save(folder / "fundus_photos" / f"{name}.jpg")
    (folder / table).write_text("\n".join(lines) + "\n")
    return folder
