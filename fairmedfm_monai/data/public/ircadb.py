"""3D-IRCADb: abdominal CT with many organs, of twenty patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card_checks import is_slug
from fairmedfm_monai.data.prepare.attributes import sex
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.masks import renumber
from fairmedfm_monai.data.prepare.nnunet import volume_names, volume_paths
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

TABLE, NAMES = "overview.csv", "labels.csv"
VOLUMES = "imagesTr|Dataset003_3D-IRCADb/imagesTr|*/imagesTr"
IDS = (1, 17, 33, 65, 97, 129, 193, 257, 321, 385, 449, 451, 453, 465, 481, 513)
_SEX = {"female": ("F", "f", "female", "Female"), "male": ("M", "m", "male", "Male")}
_EXPECTED = {"cases": 20, "patients": 20, "sex/female": 10, "sex/male": 10}
_NOTICE = (
    "Labels are named by the numbers in the files (id_1, id_17, ...): which organs they are is not documented in this "
    f"release. A table {NAMES} (columns id and name) in the release folder gives them names."
)


def read(source: Path, choice: Choice) -> Release:
    """One row per volume of the overview."""
    raw = read_table(source / TABLE, ["name", "sex"])
    names = raw["name"].str.removesuffix(".nii.gz")
    top = one_of(source, VOLUMES).parent.relative_to(source).as_posix()
    table = pd.DataFrame({"case_id": names, "patient_id": names, "sex": raw["sex"]})
    table[["image", "mask"]] = volume_paths(source, top, names)
    named = _named(source)
    values = {value: named.get(value, f"id_{value}") for value in sorted({*IDS, *named})}
    labels: dict[str, int] = {}
    for value, name in values.items():
        labels.setdefault(name, value)
    if len(labels) < len(values):
        pairs = ((0, 0), *((value, labels[name]) for value, name in values.items()))
        masks = zip(names, table["mask"], strict=True)
        table["mask"] = [Made(f"masks/{name}.nii.gz", (path,), renumber, (("values", pairs),)) for name, path in masks]
    notes = _notes(named, volume_names(source, top) - set(names))
    if choice.protocol == "fairmedfm":
        table["split"] = "test"
    complete = set(values) <= set(named)
    expected = _EXPECTED | ({"split/test": 20} if choice.protocol == "fairmedfm" else {})
    return Release(table=table, expected=expected, notes=notes, labels=labels, notice="" if complete else _NOTICE)


def _named(source: Path) -> dict[int, str]:
    """Value -> name of the user's table; empty where there is none.

    Raises:
        DatasetError: values or names that cannot be used, or a value in two rows.
    """
    file = source / NAMES
    if not file.is_file():
        return {}
    rows = read_table(file, ["id", "name"])
    rows = rows[rows["name"] != ""]
    problems = []
    wrong = [text for text in rows["id"] if not text.isdigit() or int(text) < 1]
    if wrong:
        problems.append(Problem("label", f"column 'id' must hold whole numbers from 1 on, but got {examples(wrong)}"))
    twice = rows["id"][rows["id"].duplicated()]
    if len(twice):
        problems.append(Problem("label", f"column 'id' holds values more than once: {examples(twice)}"))
    no_slugs = [name for name in rows["name"] if not is_slug(name)]
    if no_slugs:
        expected = "letters, digits, '_', '-' and '.', without '__'"
        problems.append(Problem("label", f"column 'name' must hold {expected}, but got {examples(no_slugs)}"))
    if problems:
        raise DatasetError(file, problems)
    return {int(value): name for value, name in zip(rows["id"], rows["name"], strict=True)}


def _notes(named: dict[int, str], extra: set[str]) -> tuple[str, ...]:
    notes = [f"{NAMES} names {len(named)} label values" if named else f"there is no {NAMES}: labels have no names"]
    shared = len(named) - len(set(named.values()))
    if shared:
        notes.append(f"{shared} label values share the name of another and are united with it: masks are made anew")
    if extra:
        notes.append(f"{len(extra)} volumes are not in {TABLE} and left out: {examples(sorted(extra))}")
    return tuple(notes)


def card(choice: Choice) -> dict[str, Any]:
    """Card; labels as far as they are known without the release."""
    return {
        "task": "segmentation",
        "modality": "ct",
        "spatial_dims": 3,
        "labels": {f"id_{value}": value for value in IDS},
        "window": "abdomen",
        "attributes": sex("sex", **_SEX),
    }


DATASET = PublicDataset(
    name="ircadb",
    title="3D-IRCADb",
    summary=(
        "Contrast-enhanced abdominal CT of ten women and ten men, most with liver tumours, with many organs outlined, "
        "in the layout of nnU-Net in which FairMedFM used it."
    ),
    size="20 volumes of 20 patients",
    access="https://www.ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01/, free download",
    licence="CC-BY-NC-ND-3.0",
    citation=(
        "Soler L. et al., 3D image reconstruction for comparison of algorithm database: a patient-specific anatomical "
        "and medical image database, IRCAD, Strasbourg, 2010"
    ),
    layout={
        TABLE: "name and sex of each volume",
        "imagesTr/NAME.nii.gz, labelsTr/NAME.nii.gz": "volumes and label maps, also inside Dataset003_3D-IRCADb/",
        NAMES: "your own table of label names, columns id and name; values of one name are united; optional",
    },
    needs=(TABLE, VOLUMES, VOLUMES.replace("imagesTr", "labelsTr")),
    read=read,
    card=card,
    rules={"labels": "the numbers in the files, each a label"},
    protocols={
        "fairmedfm": (
            "FairMedFM: every volume is tested; its published code calls the values 257 to 513 the labels 2 to 10, "
            "which changes no score"
        )
    },
    hazards=(
        "Twenty patients: no difference between groups can be told from chance.",
        "Which organ a number stands for is not documented in this release; the owner's original release has one "
        "folder of masks per organ, in which structures may overlap.",
        "Not every organ is outlined in every patient: a label that is absent has no score.",
    ),
    aliases=("3d_ircadb", "3dircadb"),
)
