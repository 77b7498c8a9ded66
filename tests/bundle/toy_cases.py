"""Small dataset folders of noise in which each class lights up its own corner, in 2D and 3D."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

CORNERS = ((4, 4), (4, 20), (20, 4), (20, 20))
SIZE, DEPTH = 32, 6
PER_SPLIT = {"train": 24, "val": 16, "test": 16}


def make_toy(folder: Path, *, classes: int = 2, multi_label: bool = False, spatial_dims: int = 2) -> Path:
    """Write a folder: class 0 shows nothing unless labels are independent; volumes show their class on one slice."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for split, count in PER_SPLIT.items():
        for index in range(count):
            present = _present(index, classes, multi_label)
            name = f"{split}-{index:02d}"
            image = rng.normal(0, 20, (SIZE, SIZE, DEPTH)).astype(np.float32)
            for label in present:
                x, y = CORNERS[label]
                image[x : x + 8, y : y + 8, DEPTH // 2] += 150
            rows.append(
                {
                    "case_id": name,
                    "patient_id": f"p-{name}",
                    "image": _write(folder, name, image, spatial_dims),
                    "split": split,
                    "sex": "FM"[(index // classes) % 2],
                    **_labels(present, classes, multi_label),
                }
            )
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    (folder / "dataset.json").write_text(json.dumps(_card(classes, multi_label, spatial_dims)))
    return folder


def _present(index: int, classes: int, multi_label: bool) -> list[int]:
    if multi_label:
        return [label for label in range(classes) if (index >> label) % 2]
    return [index % classes] if index % classes else []


def _labels(present: list[int], classes: int, multi_label: bool) -> dict[str, int]:
    if multi_label:
        return {f"class_{label}": int(label in present) for label in range(classes)}
    return {"label": present[0] if present else 0}


def _write(folder: Path, name: str, image: np.ndarray, spatial_dims: int) -> str:
    if spatial_dims == 3:
        nib.save(nib.Nifti1Image(image, np.diag([-1.0, -1.0, 2.0, 1.0])), folder / "images" / f"{name}.nii.gz")
        return f"images/{name}.nii.gz"
    picture = np.clip(image[..., DEPTH // 2] + 60, 0, 255).astype(np.uint8)
    Image.fromarray(picture.T).save(folder / "images" / f"{name}.png")
    return f"images/{name}.png"


def _card(classes: int, multi_label: bool, spatial_dims: int) -> dict[str, object]:
    corners = ("nothing", "nodule in the left lower zone", "nodule in the right upper zone", "mass")
    return {
        "schema": 1,
        "name": "toy",
        "task": "classification",
        "modality": "ct" if spatial_dims == 3 else "xray",
        "spatial_dims": spatial_dims,
        "classes": {f"class_{label}": [f"image showing {corners[label]}"] for label in range(classes)},
        **({"multi_label": True} if multi_label else {}),
        **({"positive_class": "class_1"} if classes == 2 and not multi_label else {}),
        "attributes": {"sex": {"column": "sex", "groups": {"female": ["F"], "male": ["M"]}}},
        "window": [0, 400] if spatial_dims == 3 else None,
    }
