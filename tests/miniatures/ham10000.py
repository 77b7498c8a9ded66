"""A miniature of the HAM10000 release: layouts, column names and oddities of the owner's and of public copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)  # columns, rows; the release has 600 x 450
DIAGNOSES = ("nv", "mel", "bkl", "bcc", "nv", "akiec", "vasc", "mel", "df", "bcc")
SEXES = ("female", "male", "male", "female")
AGES = ("45.0", "60.0", "75.0", "0.0", "65.0")
SOURCES = ("vidir_molemax", "vidir_modern", "rosendahl", "vienna_dias")
LETTERS = {"female": "F", "male": "M"}


def make(
    folder: Path,
    *,
    lesions: int = 60,
    layout: str = "owner",
    masks: bool = False,
    letters: bool = False,
    sources: bool = True,
) -> Path:
    """60 lesions, every third of two images, in the order of the lesions; sex and age are unknown together once.

    Args:
        folder: to make.
        lesions: how many.
        layout: ``owner`` (metadata without ending, two image folders), ``copies`` (as on a public platform: CSV, both
            folders twice, once in lower case) or ``fairmedfm`` (CSV, ``image`` and ``label``).
        masks: with the masks.
        letters: sex as F and M.
        sources: with the column ``dataset``.
    """
    rng = np.random.default_rng(0)
    header = "lesion_id,image_id,dx,dx_type,age,sex,localization"
    lines = [header + (",dataset" if sources else "")]
    ids = iter(rng.permutation(lesions * 2))
    for lesion in range(lesions):
        dx, sex, age = DIAGNOSES[lesion % 10], SEXES[lesion // 10 % 4], AGES[lesion // 3 % 5]
        if lesion == 0:
            sex, age = "unknown", ""
        sex = LETTERS.get(sex, sex) if letters else sex
        for view in range(1 + (lesion % 3 == 0)):
            name = f"ISIC_{24306 + next(ids):07d}"
            cells = [f"HAM_{lesion:07d}", name, dx, "histo", age, sex, "back", SOURCES[lesion // 2 % 4]]
            lines.append(",".join(cells if sources else cells[:-1]))
            _save(folder, name, rng, layout, 1 + (lesion + view) % 2, masks=masks)
    table = "HAM10000_metadata" + (".csv" if layout != "owner" else "")
    (folder / table).write_text("\n".join(lines) + "\n")
    if layout == "copies":
        for part in (1, 2):
            shutil.copytree(folder / f"HAM10000_images_part_{part}", folder / f"ham10000_images_part_{part}")
    return folder


def _save(folder: Path, name: str, rng: np.random.Generator, layout: str, part: int, *, masks: bool) -> None:
    columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    centre, radius = rng.uniform(0.4, 0.6, 2) * SIZE, rng.uniform(8, 16)
    lesion = (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < radius**2
    skin = rng.integers(150, 220, (*lesion.shape, 3)) - 100 * lesion[..., None]
    images = folder / ("image" if layout == "fairmedfm" else f"HAM10000_images_part_{part}")
    images.mkdir(parents=True, exist_ok=True)
    Image.fromarray(skin.astype(np.uint8)).save(images / f"{name}.jpg")
    if masks:
        place = folder / ("label" if layout == "fairmedfm" else "HAM10000_segmentations_lesion_tschandl")
        place.mkdir(exist_ok=True)
        Image.fromarray((255 * lesion).astype(np.uint8)).save(place / f"{name}_segmentation.png")
