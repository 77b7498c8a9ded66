"""Harvard-FairVLMed: scanning laser ophthalmoscopy of the fundus, with glaucoma and demographics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare import harvard
from fairmedfm_monai.data.prepare.folders import index_files, one_of
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.npz import picture
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table

PICTURES = "Training/slo_fundus_*.jpg|Test/slo_fundus_*.jpg|slo_fundus_*.jpg|*/slo_fundus_*.jpg"
ARCHIVES = "Training/data_*.npz|Test/data_*.npz|data_*.npz|*/data_*.npz"
_KEYS = ("slo_fundus",)
_EXPECTED = {
    "cases": 10_000,
    "patients": 10_000,
    "sex/female": 5_631,
    "sex/male": 4_369,
    "language/english": 9_250,
    "language/spanish": 176,
    "language/other": 76,
    "language/unknown": 498,
    "split/train": 7_000,
    "split/val": 1_000,
    "split/test": 2_000,
}
# FairMedFM: 873 of each sex in the test set, two groups per attribute.
_PUBLISHED = {"cases": 10_000, "sex/female": 5_631, "sex/male": 4_369, "split/train": 8_254, "split/test": 1_746}


def read(source: Path, choice: Choice) -> Release:
    """One row per picture, from the owner's table."""
    file = one_of(source, harvard.TABLES)
    raw = read_table(file, ["filename", *harvard.COLUMNS, "glaucoma", "use"])
    names = raw["filename"].str.removesuffix(".npz")
    images, note = _images(source, names, raw["use"])
    table = pd.DataFrame(
        {"case_id": names, "patient_id": names, "image": images, "label": harvard.label_of(raw["glaucoma"])}
    ).join(raw[list(harvard.COLUMNS)])
    table, sizes = harvard.with_split(table, raw["use"], file, choice)
    return Release(
        table=table, expected=_PUBLISHED if choice.protocol == harvard.FAIRMEDFM else _EXPECTED, notes=(note, sizes)
    )


def _images(source: Path, names: pd.Series, use: pd.Series) -> tuple[list[str | Made], str]:
    """The JPEG files where the release has them, else the same pictures inside the npz files."""
    jpeg = index_files(source, suffixes=(".jpg",))
    numbers = names.str.removeprefix("data_")
    folders = use.str.capitalize()
    if any(name.startswith("slo_fundus_") for name in jpeg):
        wanted = "slo_fundus_" + numbers + ".jpg"
        found = [jpeg.get(name, f"{folder}/{name}") for name, folder in zip(wanted, folders, strict=True)]
        return list(found), "images are the JPEG files of the release"
    archives = index_files(source, suffixes=(".npz",))
    made: list[str | Made] = []
    for name, folder in zip(names, folders, strict=True):
        path = archives.get(f"{name}.npz", f"{folder}/{name}.npz")
        made.append(Made(f"images/{name}.png", (path,), picture, (("keys", _KEYS),)))
    return made, "there are no JPEG files: images are made from the npz files, which hold them without compression"


def card(choice: Choice) -> dict[str, Any]:
    """Card; FairMedFM has two groups per attribute, and counts an unknown language as not English."""
    template = "a scanning laser ophthalmoscope fundus image of a {}"
    return {
        "task": "classification",
        "modality": "slo",
        "spatial_dims": 2,
        "classes": {
            "normal": [
                template.format("normal"),
                "an SLO fundus image of a healthy eye",
                "a retinal image without signs of glaucoma",
            ],
            "glaucoma": [
                template.format("glaucoma"),
                "an SLO fundus image of an eye with glaucoma",
                "a retinal image with glaucomatous cupping of the optic disc",
            ],
        },
        "positive_class": "glaucoma",
        "attributes": (harvard.classification_attributes(choice)),
        "intersections": [["sex", "age"], ["sex", "race"]],
        "extra_columns": harvard.subset_columns(),
    }


DATASET = PublicDataset(
    name="fairvlmed10k",
    title="Harvard-FairVLMed",
    summary=(
        "Scanning laser ophthalmoscopy (SLO) fundus images of one eye clinic, one per patient, with glaucoma, six "
        "demographic attributes and clinical notes (which are not read here)."
    ),
    size="10,000 images of 10,000 patients",
    access="https://huggingface.co/datasets/harvardairobotics/FairVLMed, on request, non-commercial research only",
    licence=harvard.LICENCE,
    citation=("Luo Y. et al., FairCLIP: Harnessing Fairness in Vision-Language Learning, CVPR 2024"),
    layout={
        "ReadMe/data_summary.csv": "one row per patient (or data_summary.csv at the top)",
        "Training/, Validation/, Test/": "slo_fundus_NNNNN.jpg, or where these are missing data_NNNNN.npz",
    },
    needs=(harvard.TABLES, f"{PICTURES}|{ARCHIVES}"),
    read=read,
    card=card,
    rules={"glaucoma": "normal against glaucoma, as in the owner's table"},
    protocols={harvard.FAIRMEDFM: harvard.FAIRMEDFM_MEANS},
    hazards=(
        "Most patients whose language is not English have an unknown one: FairMedFM counts these as not English; here "
        "they are unknown.",
        "There is no patient column; the owner states one image per patient, so the file stands for the patient.",
        "The images are dark and not square (664 x 512): a centre crop cuts the periphery off.",
    ),
    aliases=("fairvlmed", "harvard_fairvlmed"),
)
