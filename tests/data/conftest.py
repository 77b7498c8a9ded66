"""Small dataset folders made on the fly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

CARD: dict[str, Any] = {
    "schema": 1,
    "name": "toy",
    "task": "classification",
    "modality": "xray",
    "spatial_dims": 2,
    "unit": "patient",
    "licence": "CC0-1.0",
    "classes": {"no_finding": ["a normal film"], "finding": ["a film of a patient", "a sick chest"]},
    "positive_class": "finding",
    "attributes": {
        "sex": {"column": "Sex", "groups": {"female": ["F", "Female"], "male": ["M", 1]}, "missing": ["Unknown"]},
        "age": {"column": "Age", "bins": [0, 60, 200], "groups": ["lt60", "ge60"]},
    },
    "intersections": [["sex", "age"]],
    "window": None,
}


@pytest.fixture
def card_dict() -> dict[str, Any]:
    return json.loads(json.dumps(CARD))


@pytest.fixture
def rows() -> pd.DataFrame:
    """Twelve images of six patients, two per patient, in three splits."""
    count = 12
    return pd.DataFrame(
        {
            "case_id": [f"c{index:02d}" for index in range(count)],
            "patient_id": [f"p{index // 2}" for index in range(count)],
            "image": [f"images/c{index:02d}.png" for index in range(count)],
            "split": ["train"] * 6 + ["val"] * 2 + ["test"] * 4,
            "label": ["finding", "0", "1", "no_finding"] * 3,
            "Sex": ["F", "F", "M", "M", "1", "1", "Female", "F", "Unknown", "", "M", "M"],
            "Age": ["59", "59", "60", "60", "061Y", "061Y", "718M", "718M", "", "", "12", "12"],
        }
    )


def save_png(path: Path, seed: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write card, manifest and the images that the manifest names."""

    def make(table: pd.DataFrame, card: dict[str, Any], *, name: str = "toy", images: bool = True) -> Path:
        root = tmp_path / name
        root.mkdir()
        (root / "dataset.json").write_text(json.dumps(card))
        table.to_csv(root / "manifest.csv", index=False)
        for index, image in enumerate(table["image"] if images else []):
            save_png(root / image, index)
        return root

    return make
