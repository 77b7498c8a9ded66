"""A small made-up release: a table, pictures, and arrays that must be converted."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fairmedfm_monai.data.prepare import Choice, Made, PublicDataset, Release
from fairmedfm_monai.data.prepare.attributes import ages, sex
from fairmedfm_monai.data.prepare.tables import read_table

CASES = 12
STOP_AT = "TOY_STOP_AT"  # environment: the case at which the maker kills its process or finds the disk full


def npy_picture(inputs: Sequence[Path], target: Path) -> None:
    stop, _, how = os.environ.get(STOP_AT, "").partition("=")
    if stop and inputs[0].stem == stop:
        if how == "kill":
            target.write_bytes(b"half")
            os._exit(9)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    Image.fromarray(np.load(inputs[0], allow_pickle=False)).save(target, format="png")


def read(source: Path, choice: Choice) -> Release:
    raw = read_table(source / "meta.csv", ["id", "patient", "sex", "age", "sick", "file"])
    converted = choice.rule == "converted"
    images = [
        Made(f"images/{case}.png", (f"arrays/{case}.npy",), npy_picture) if converted else f"pictures/{file}"
        for case, file in zip(raw["id"], raw["file"], strict=True)
    ]
    table = pd.DataFrame({"case_id": raw["id"], "patient_id": raw["patient"], "image": images})
    table = table.join(raw[["sex", "age"]]).assign(label=raw["sick"].map({"0": "well", "1": "sick"}))
    return Release(table=table, version="1", expected={"cases": CASES, "sex/female": 6})


def card(choice: Choice) -> dict[str, Any]:
    return {
        "task": "classification",
        "modality": "xray",
        "spatial_dims": 2,
        "classes": {"well": ["a well person"], "sick": ["a sick person"]},
        "positive_class": "sick",
        "attributes": {**sex("sex", female=["F"], male=["M"], missing=["?"]), **ages("age")},
        "intersections": [["sex", "age"]],
    }


DATASET = PublicDataset(
    name="toy",
    title="Toy release",
    summary="Made by tests.",
    size="12 pictures of 6 patients",
    access="none",
    licence="CC0-1.0",
    citation="none",
    layout={"meta.csv": "one row per picture", "pictures/": "PNG", "arrays/": "npy"},
    needs=("meta.csv", "pictures|images"),
    read=read,
    card=card,
    rules={"referenced": "pictures as they are", "converted": "pictures made from arrays"},
    protocols={"published": "nothing"},
    aliases=("toys",),
)


def make(folder: Path) -> Path:
    """Twelve pictures of six patients; one age is missing, one impossible."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "arrays").mkdir()
    lines = ["id,patient,sex,age,sick,file"]
    for index in range(CASES):
        pixels = np.random.default_rng(index).integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"p{index}.png")
        np.save(folder / "arrays" / f"c{index}.npy", pixels)
        age = {3: "", 4: "155"}.get(index, str(20 + 5 * index))
        lines.append(f"c{index},{index // 2},{'FM'[index // 2 % 2]},{age},{index % 2},p{index}.png")
    (folder / "meta.csv").write_text("\n".join(lines) + "\n")
    return folder
