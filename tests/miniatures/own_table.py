"""A ward's own table of fundus photographs: names, codes and gaps as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

PATIENTS = 30


def frame() -> pd.DataFrame:
    """Two eyes per patient: 0/1 label, sex in several spellings, an impossible age, gaps, a body mass index."""
    rows = []
    for patient in range(PATIENTS):
        for eye in ("L", "R"):
            rows.append(
                {
                    "filename": f"{patient:03d}_{eye}.png",
                    "pid": f"P{patient:03d}",
                    "Glaucoma": str(int(patient % 3 == 0)),
                    "Sex": ("F", "male", "f", "M", "Female", "?")[patient % 6],
                    "Age": "155" if patient == 4 else "" if patient == 5 else str(30 + 2 * patient),
                    "BMI": f"{18 + patient * 0.7:.1f}",
                    "Site": ("North Clinic", "south", "South ")[patient % 3],
                    "Remark": f"secret remark {patient}",
                }
            )
    return pd.DataFrame(rows)


def make(folder: Path, *, table: str = "meta.csv") -> Path:
    """Pictures in ``pics``, brighter for label 1, and the table in the format of its name."""
    pictures = folder / "pics"
    pictures.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = frame()
    for name, label in zip(content["filename"], content["Glaucoma"], strict=True):
        pixels = rng.integers(40, 120, (48, 48, 3), dtype=np.uint8) + np.uint8(60 * int(label))
        Image.fromarray(pixels).save(pictures / name)
    file = folder / table
    if file.suffix == ".xlsx":
        content.to_excel(file, index=False)
    elif file.suffix == ".parquet":
        content.astype({"Glaucoma": float, "BMI": float}).to_parquet(file, index=False)
    else:
        content.to_csv(file, index=False, sep={".tsv": "\t", ".txt": ";"}.get(file.suffix, ","))
    return folder
