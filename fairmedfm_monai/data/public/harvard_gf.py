"""Harvard-GF: thickness maps of the retinal nerve fibre layer (RNFLT) from OCT, with glaucoma and demographics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.prepare import harvard
from fairmedfm_monai.data.prepare.folders import index_files, one_of
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.npz import float_map, read_array, read_scalars
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import raise_errors

ARCHIVES = "data_*.npz|*/data_*.npz|*/*/data_*.npz"
MAP = ("rnflt",)
NO_DATA, HIGHEST = -2.0, 350.0  # micrometres
WINDOW = [(NO_DATA + HIGHEST) / 2, HIGHEST - NO_DATA]  # centre and width: NO_DATA becomes black, HIGHEST white
_EXPECTED = {
    "cases": 3_300,
    "patients": 3_300,
    "sex/female": 1_812,
    "sex/male": 1_488,
    "race/asian": 1_100,
    "race/black": 1_100,
    "race/white": 1_100,
    "language/english": 2_877,
    "language/spanish": 38,
    "language/other": 354,
    "language/unknown": 31,
    "split/train": 2_100,
    "split/val": 300,
    "split/test": 900,
}
# FairMedFM: 297 of each sex in the test set, two groups per attribute.
_PUBLISHED = {"cases": 3_300, "sex/female": 1_812, "sex/male": 1_488, "split/train": 2_706, "split/test": 594}


def read(source: Path, choice: Choice) -> Release:
    """One row per map, from the owner's table; label, sex and race are compared with the values in the npz files."""
    file = one_of(source, harvard.TABLES)
    raw = read_table(file, ["filename", *harvard.COLUMNS, "glaucoma", "use"])
    names = raw["filename"].str.removesuffix(".npz")
    known = index_files(source, suffixes=(".npz",))
    paths = [
        known.get(name, f"{use.capitalize()}/{name}") for name, use in zip(raw["filename"], raw["use"], strict=True)
    ]
    table = pd.DataFrame(
        {
            "case_id": names,
            "patient_id": names,
            "image": [
                Made(f"images/{name}.nii.gz", (path,), float_map, (("keys", MAP),))
                for name, path in zip(names, paths, strict=True)
            ],
            "label": harvard.label_of(raw["glaucoma"]),
        }
    ).join(raw[list(harvard.COLUMNS)])
    compared = _compare(file, table, source, paths)
    table["no_data"], filled = _no_data(source, paths)
    table, sizes = harvard.with_split(table, raw["use"], file, choice)
    return Release(
        table=table,
        expected=_PUBLISHED if choice.protocol == harvard.FAIRMEDFM else _EXPECTED,
        notes=(compared, filled, sizes),
    )


def _compare(file: Path, table: pd.DataFrame, source: Path, paths: list[str]) -> str:
    """A note of what was compared.

    Raises:
        DatasetError: the table says something else than a file, with the cases.
    """
    keys = {**{name: harvard.KEYS[name] for name in ("gender", "race")}, "label": ("glaucoma",)}
    read = read_scalars([source / path for path in paths], keys)
    scalars = pd.DataFrame([found or {} for found in read], columns=list(keys), index=table.index).fillna("")
    scalars["label"] = harvard.label_of(scalars["label"])
    problems, note = harvard.disagreements(file, table, scalars, harvard.demographics())
    raise_errors(source, problems)
    return note


def _no_data(source: Path, paths: list[str]) -> tuple[list[str], str]:
    """Share of each map without a measurement (empty where the file cannot be read), and a note."""
    shares, above = [], 0
    for path in paths:
        try:
            values = read_array(source / path, MAP)
            shares.append(float((values <= NO_DATA).mean()))
            above += bool((values > HIGHEST).any())
        except (ValueError, OSError):
            shares.append(float("nan"))  # the maker says why
    known = np.array(shares)[np.isfinite(shares)]
    middle = f"{np.median(known):.1%} (largest {known.max():.1%})" if len(known) else "unknown"
    note = (
        f"column no_data holds the share of each map without a measurement ({NO_DATA:g}), median {middle}; maps with "
        f"values above {HIGHEST:g} micrometres, which show as the brightest: {above}"
    )
    return ["" if share != share else f"{share:.4f}" for share in shares], note  # noqa: PLR0124 (NaN)


def card(choice: Choice) -> dict[str, Any]:
    """Card; FairMedFM has two groups per attribute, and counts an unknown language as not English."""
    return {
        "task": "classification",
        "modality": "oct",
        "spatial_dims": 2,
        "classes": {
            "normal": [
                "a photo of a normal",
                "a retinal nerve fibre layer thickness map of a healthy eye",
                "an OCT thickness map without glaucoma",
            ],
            "glaucoma": [
                "a photo of a glaucoma",
                "a retinal nerve fibre layer thickness map of an eye with glaucoma",
                "an OCT thickness map with a thin nerve fibre layer from glaucoma",
            ],
        },
        "positive_class": "glaucoma",
        "window": WINDOW,
        "attributes": harvard.classification_attributes(choice),
        "intersections": [["sex", "age"], ["sex", "race"]],
        "extra_columns": ["no_data", *harvard.subset_columns()],
    }


DATASET = PublicDataset(
    name="harvard_gf",
    title="Harvard-GF",
    summary=(
        "Thickness maps of the retinal nerve fibre layer around the optic disc, in micrometres, computed from OCT; one "
        "per patient, with glaucoma and six demographic attributes; equally many Asian, Black and White patients."
    ),
    size="3,300 maps of 3,300 patients",
    access="https://huggingface.co/datasets/harvardairobotics/Harvard-GF, on request, non-commercial research only",
    licence=harvard.LICENCE,
    citation=(
        "Luo Y. et al., Harvard Glaucoma Fairness: A Retinal Nerve Disease Dataset for Fairness Learning and Fair "
        "Identity Normalization, IEEE Transactions on Medical Imaging 43(7), 2024"
    ),
    layout={
        "ReadMe/data_summary.csv": "one row per patient (or data_summary.csv at the top)",
        "Training/, Validation/, Test/": "data_NNNN.npz, unpacked (or all in one folder)",
    },
    needs=(harvard.TABLES, ARCHIVES),
    read=read,
    card=card,
    rules={"glaucoma": "normal against glaucoma, as in the owner's table"},
    protocols={harvard.FAIRMEDFM: harvard.FAIRMEDFM_MEANS},
    hazards=(
        "Maps keep their micrometres; shown, they are cut to -2 (no measurement, black) to 350 (white). FairMedFM "
        "makes them 8 bits by the same range without cutting.",
        "The share without a measurement differs between eyes and may go with a group: see the column no_data.",
        "Racial groups are equally large by design, unlike in any clinic.",
        "The owner states one map per patient, so the file stands for the patient.",
    ),
    aliases=("gf3300", "gf"),
)
