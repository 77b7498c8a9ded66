"""SPIDER: lumbar spine MRI with label maps of vertebrae, discs and spinal canal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import grouped, sex
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import carve_validation

TABLE = "overview.csv"
SEQUENCES = {"t1": ("t1", 196), "t2": ("t2", 210), "t2_space": ("t2_SPACE", 41)}
_LEVELS = {"seven_levels": 7, "nine_levels": 9}
_CANAL, _FIRST_DISC = 100, 201
_NAME = r"^(?P<patient>\d+)_(?P<sequence>.+)$"
_SPLITS = {"training": "train", "validation": "test"}
_MAKERS = ("philips", "siemens", "ge")
_OPTIONAL = ("subset", "Manufacturer", "MagneticFieldStrength", "num_vertebrae", "num_discs")


def labels(rule: str) -> dict[str, int]:
    """Label -> value in the masks; levels are counted from the lowest."""
    levels = range(1, _LEVELS[rule] + 1)
    vertebrae = {f"vertebra_{level}": level for level in levels}
    discs = {f"disc_{level}": _FIRST_DISC + level - 1 for level in levels}
    return {**vertebrae, "spinal_canal": _CANAL, **discs}


def read(source: Path, choice: Choice) -> Release:
    """One row per series; a patient has up to three."""
    file = source / TABLE
    raw = read_table(file, ["new_file_name", "sex"])
    parts = raw["new_file_name"].str.extract(_NAME)
    _check(file, raw, parts)
    table = pd.DataFrame(
        {
            "case_id": raw["new_file_name"],
            "patient_id": parts["patient"],
            "image": "images/" + raw["new_file_name"] + ".mha",
            "mask": "masks/" + raw["new_file_name"] + ".mha",
            "sex": raw["sex"],
            "sequence": parts["sequence"],
        }
    )
    absent = [name for name in _OPTIONAL if name not in raw]
    notes = [f"{TABLE} lacks {', '.join(absent)}: unknown"] if absent else []
    raw = raw.reindex(columns=[*raw, *absent], fill_value="")
    expected = {"cases": 447, "patients": 218}
    if choice.protocol == "fairmedfm":
        table = table.assign(split="test").drop(columns="sequence")
        return Release(table=table, expected=expected | {"split/test": 447}, notes=tuple(notes))
    table["manufacturer"] = raw["Manufacturer"].map(_maker)
    table["field"] = raw["MagneticFieldStrength"]
    table, note = _split(file, table, raw["subset"], choice)
    notes += [note, *_levels(raw, choice)]
    expected |= {f"sequence/{name}": number for name, (_, number) in SEQUENCES.items()}
    return Release(table=table, expected=expected, notes=tuple(notes))


def _check(file: Path, raw: pd.DataFrame, parts: pd.DataFrame) -> None:
    """Names must tell the patient, and all series of a patient the same sex.

    Raises:
        DatasetError: with all names.
    """
    problems = []
    strange = raw["new_file_name"][parts["patient"].isna()]
    if len(strange):
        message = f"{len(strange)} names are not <patient>_<sequence>, e.g. 12_t2: {examples(map(repr, strange))}"
        problems.append(Problem("name", message))
    sexes = raw["sex"].where(raw["sex"] != "").groupby(parts["patient"]).nunique()
    several = sexes.index[sexes > 1]
    if len(several):
        message = f"column 'sex' differs between series of {len(several)} patients: {examples(several)}"
        problems.append(Problem("disagreement", message))
    if problems:
        raise DatasetError(file, problems)


def _maker(raw: str) -> str:
    """Manufacturer in one spelling: the release has several of the same one."""
    return next((name for name in _MAKERS if raw.lower().startswith(name)), raw)


def _split(file: Path, table: pd.DataFrame, subset: pd.Series, choice: Choice) -> tuple[pd.DataFrame, str]:
    """The owner's training and validation patients; their test set is not public, so validation is our test set.

    Raises:
        DatasetError: other words in the column.
    """
    if (subset == "").all():
        return table, "the owner's split is not in the table: split by seed"
    strange = subset[~subset.isin(_SPLITS)].value_counts()
    if len(strange):
        listed = examples(f"{value!r} ({number})" for value, number in strange.items())
        message = f"column 'subset' must hold {' or '.join(_SPLITS)}, but got {listed}"
        raise DatasetError(file, [Problem("split", message)])
    table = carve_validation(table.assign(split=subset.map(_SPLITS)), seed=choice.seed, stratify=["sex", "sequence"])
    patients = table.groupby("split")["patient_id"].nunique()
    listed = ", ".join(f"{name} {patients.get(name, 0)}" for name in ("train", "val", "test"))
    return table, f"the owner's validation patients are the test set here, val is carved from training: {listed}"


def _levels(raw: pd.DataFrame, choice: Choice) -> list[str]:
    highest = raw[["num_vertebrae", "num_discs"]].apply(pd.to_numeric, errors="coerce").max(axis=1)
    more = int((highest > _LEVELS[choice.rule]).sum())
    known = _LEVELS[choice.rule]
    return [f"{more} series have more than {known} vertebrae or discs; those count as background"] if more else []


def card(choice: Choice) -> dict[str, Any]:
    """Card: vertebrae and discs counted from the lowest, and the canal; under the protocol sex alone."""
    attributes = sex("sex", female=["F"], male=["M"])
    if choice.protocol != "fairmedfm":
        sequences = {name: [raw] for name, (raw, _) in SEQUENCES.items()}
        field = {"column": "field", "bins": [0, 2, 10], "groups": ["lt2t", "ge2t"], "title": "Field strength"}
        attributes |= {
            **grouped("sequence", "sequence", sequences, title="Sequence"),
            **grouped("manufacturer", "manufacturer", {name: [name] for name in _MAKERS}, title="Manufacturer"),
            "field": field,
        }
    return {
        "task": "segmentation",
        "modality": "mri",
        "spatial_dims": 3,
        "labels": labels(choice.rule),
        "attributes": attributes,
        "intersections": [["sex", "sequence"]] if "sequence" in attributes else [],
    }


DATASET = PublicDataset(
    name="spider",
    title="SPIDER lumbar spine",
    summary=(
        "Sagittal T1, T2 and T2 SPACE series of the lumbar spine of patients with low back pain, from four hospitals, "
        "with label maps of vertebrae, intervertebral discs and the spinal canal."
    ),
    size="447 series of 218 patients",
    access="https://doi.org/10.5281/zenodo.10159290, free download",
    licence="CC-BY-4.0",
    citation=(
        "van der Graaf J. W. et al., Lumbar spine segmentation in MR images: a dataset and a public benchmark, "
        "Scientific Data 11, 264 (2024)"
    ),
    layout={
        TABLE: "one row per series",
        "images/<patient>_<sequence>.mha": "volumes",
        "masks/<patient>_<sequence>.mha": "label maps of the same names",
    },
    needs=(TABLE, "images", "masks"),
    read=read,
    card=card,
    rules={
        "seven_levels": "vertebrae 1-7, canal 100 and discs 201-207, the ids that FairMedFM names",
        "nine_levels": "the same with vertebrae 8 and 9 and discs 208 and 209, which few patients show",
    },
    protocols={
        "fairmedfm": (
            "FairMedFM: every series is tested, sex alone; its preparation makes pictures of slices and pools them, "
            "and writes the sex of the table's first row for all (version ac062df); here volumes stay volumes and each "
            "series has the sex of its own row"
        )
    },
    hazards=(
        "Levels are counted from the lowest vertebra that is seen: level 1 need not be L5.",
        "A patient has up to three series, which are not independent: splits and intervals go by patient.",
        "Series are sagittal with thick slices: prompt and slice along the first axis (`slice_axis=0` of the bundles).",
        "Some label maps were made by resampling that of another sequence and were corrected by hand.",
        "The four hospitals are not named in the release; manufacturer and field strength stand in for them.",
        "Ages are not read: where the table has them is not documented.",
    ),
    aliases=("spider_lumbar",),
)
