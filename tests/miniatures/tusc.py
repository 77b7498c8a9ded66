"""A miniature of Stanford's thyroid cine-clips: the owner's HDF5 file, and the pictures that FairMedFM prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

SIZE = (48, 64)  # rows, columns
HEADER = (
    "annot_id,age,sex,location,size_x,size_y,size_z,ti-rads_composition,ti-rads_echogenicity,ti-rads_shape,"
    "ti-rads_margin,ti-rads_echogenicfoci,ti-rads_level,histopath_diagnosis"
)
AGES = ("34", "59", "60", "61", "78")


def make(folder: Path, *, clips: int = 30, frames: int = 2, original: bool = True, **storage: Any) -> Path:
    """30 clips of two frames; every fourth is of a man, one lacks its TI-RADS level (numbers then have points).

    Args:
        folder: to make.
        clips: how many.
        frames: per clip, numbered from 1.
        original: the owner's form; else ``image``, ``label`` and ``meta.csv`` with sex and age only.
        storage: of the arrays in the HDF5 file, e.g. ``chunks``.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, images, masks, ids, numbers = [HEADER], [], [], [], []
    for clip in range(clips):
        annot, sex, level = (
            f"{clip + 3}_",
            "Male" if clip % 4 == 3 else "Female",
            "" if clip == 5 else f"{clip % 5 + 1}.0",
        )
        rows.append(f"{annot},{AGES[clip % 5]},{sex},left mid,1.2,0.9,1.4,1,2,0,0,0,{level},{int(clip % 7 == 0)}")
        for number in range(1, frames + 1):
            picture, mask = _frame(rng)
            images.append(picture)
            masks.append(mask)
            ids.append(annot)
            numbers.append(number)
    if original:
        (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
        with h5py.File(folder / "dataset.hdf5", "w") as file:
            file.create_dataset("image", data=np.stack(images), **storage)
            file.create_dataset("mask", data=np.stack(masks), **storage)
            file.create_dataset("annot_id", data=ids, dtype=h5py.string_dtype())
            file.create_dataset("frame_num", data=numbers)
            file.create_dataset("num_frames", data=[frames] * len(ids))
        return folder
    short = [",".join(np.array(row.split(","))[[0, 2, 1]]) for row in rows]
    (folder / "meta.csv").write_text("\n".join(short) + "\n")
    for place, pictures in (("image", images), ("label", masks)):
        (folder / place).mkdir()
        for annot, number, picture in zip(ids, numbers, pictures, strict=True):
            Image.fromarray(picture).save(folder / place / f"{annot}{number}.png")
    return folder


def _frame(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.meshgrid(*map(np.arange, SIZE), indexing="ij")
    centre, radius = rng.uniform(0.4, 0.6, 2) * SIZE, rng.uniform(8, 14)
    nodule = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    return (rng.integers(90, 200, SIZE) - 80 * nodule).astype(np.uint8), (255 * nodule).astype(np.uint8)
