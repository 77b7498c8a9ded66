"""ADNI1 Screening 1.5T: brain MRI of patients with Alzheimer's disease and of controls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import age_bands, ages, sex
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, published_age, subset_columns, with_balanced_subsets
from fairmedfm_monai.data.prepare.folders import index_files
from fairmedfm_monai.data.prepare.published import split_82
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors
from fairmedfm_monai.data.splits import split_patients

TABLES = "ADNI1_Screening_1.5T*.csv"
COLUMNS = ("Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality", "Description", "Acq Date")
ONE_EACH = "ad_cn_one_per_subject"
SUBJECT = "release_patient_id"  # where the protocol makes the image the patient
CUT = 75  # years; 60 leaves 8 of 550 images on one side
_LABELS = {"CN": "normal", "AD": "alzheimers"}
_IMAGE_ID = re.compile(r"I\d+")
# FairMedFM's table of 2024, after its rule: screening visits without MCI.
_EXPECTED = {"cases": 550, "patients": 417, "sex/female": 261, "sex/male": 289, "age/lt75": 243, "age/ge75": 307}
_PUBLISHED = {
    "cases": 550,
    "sex/female": 261,
    "sex/male": 289,
    "age/lt60": 8,
    "age/ge60": 542,
    "split/train": 446,
    "split/test": 104,
}


def read(source: Path, choice: Choice) -> Release:
    """One row per image of a screening visit of a patient with AD or a control."""
    file = _table_file(source)
    raw, notes = _screening(file, read_table(file, COLUMNS))
    if choice.rule == ONE_EACH:
        raw, note = _one_each(raw)
        notes.append(note)
    paths = _paths(source)
    table = pd.DataFrame(
        {
            "case_id": raw["Image Data ID"],
            "patient_id": raw["Subject"],
            "image": [
                paths.get(image, f"ADNI/{subject}/{image}")
                for image, subject in zip(raw["Image Data ID"], raw["Subject"], strict=True)
            ],
            "label": raw["Group"].map(lambda group: _LABELS.get(group, group)),
            "site": raw["Subject"].str.partition("_")[0],
        }
    ).join(raw[["Sex", "Age", "Description"]])
    notes.append(_repeats(raw))
    version = file.stem.removeprefix("ADNI1_Screening_1.5T").strip("_") or "undated"
    table, notice, note = _with_split(table, choice)
    return Release(
        table=table,
        version=f"table of {version.replace('_', '/')}",
        expected=_expected(choice),
        notes=(*notes, note),
        notice=notice,
    )


def _table_file(source: Path) -> Path:
    """The one table; its name ends in the day of the download.

    Raises:
        DatasetError: several.
    """
    found = sorted(source.glob(TABLES))
    if len(found) > 1:
        message = f"{len(found)} tables match {TABLES}: {examples(path.name for path in found)}; leave the one to use"
        raise DatasetError(source, [Problem("table", message)])
    return found[0]


def _screening(file: Path, raw: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Rows of MRI at screening without MCI, and notes of the others."""
    strange = raw["Group"][~raw["Group"].isin([*_LABELS, "MCI"])].value_counts()
    if len(strange):
        listed = examples(f"{name!r} ({number})" for name, number in strange.items())
        message = f"column 'Group' must hold AD, CN or MCI, but got {listed}"
        raise DatasetError(file, [Problem("label", message)])
    notes = []
    for column, keep, what in (
        ("Visit", raw["Visit"] == "sc", "another visit than screening (sc)"),
        ("Modality", raw["Modality"] == "MRI", "another modality than MRI"),
        ("Group", raw["Group"] != "MCI", "mild cognitive impairment (MCI)"),
    ):
        left_out = int((~keep.reindex(raw.index)).sum())
        if left_out:
            notes.append(f"{left_out:,} rows left out by {column}: {what}")
        raw = raw[keep.reindex(raw.index)]
    return raw.reset_index(drop=True), notes


def _one_each(raw: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The image with the lowest number of each subject."""
    number = pd.to_numeric(raw["Image Data ID"].str.removeprefix("I"), errors="coerce")
    first = raw.loc[number.sort_values(kind="stable").index].drop_duplicates("Subject").sort_index()
    note = f"one image per subject, that with the lowest Image Data ID: {len(raw) - len(first):,} others left out"
    return first.reset_index(drop=True), note


def _repeats(raw: pd.DataFrame) -> str:
    several = raw.groupby("Subject")["Image Data ID"].nunique()
    same_day = raw.duplicated(["Subject", "Acq Date"], keep=False)
    return (
        f"{int((several > 1).sum()):,} of {len(several):,} subjects have several images; {int(same_day.sum()):,} "
        "images share subject and day with another (the scan repeated, or processed twice)"
    )


def _paths(source: Path) -> dict[str, str]:
    """Image Data ID -> file; it is the name of a folder above the file, or the end of the file's name.

    Raises:
        DatasetError: several files of one ID.
    """
    found: dict[str, list[str]] = {}
    for name, path in index_files(source, below=("ADNI",), suffixes=(".nii", ".nii.gz")).items():
        last = name.removesuffix(".gz").removesuffix(".nii").rpartition("_")[2]
        ids = {part for part in (*Path(path).parts[:-1], last) if _IMAGE_ID.fullmatch(part)}
        for image in ids:
            found.setdefault(image, []).append(path)
    raise_errors(
        source,
        [
            Problem("duplicate_file", f"image {image} has {len(paths)} files: {examples(paths)}; leave one")
            for image, paths in found.items()
            if len(paths) > 1
        ],
    )
    return {image: paths[0] for image, paths in found.items()}


def _with_split(table: pd.DataFrame, choice: Choice) -> tuple[pd.DataFrame, str, str]:
    """The table with splits and balanced subsets, the card's notice and a note."""
    if choice.protocol != FAIRMEDFM:
        table = split_patients(table, seed=choice.seed, stratify=["label", "Sex"])
        table, note = with_balanced_subsets(table, _attributes(choice), seed=choice.seed)
        return table, "", note
    table["split"] = split_82(table.assign(sex=table["Sex"].map({"F": "female", "M": "male"})), sex="sex")
    members = [set(table.loc[table["split"] == part, "patient_id"]) for part in ("train", "test")]
    both, subjects = len(members[0] & members[1]), len(members[0] | members[1])
    table[SUBJECT], table["patient_id"] = table["patient_id"], table["case_id"]
    table, note = with_balanced_subsets(table, _attributes(choice), seed=choice.seed, published=True)
    notice = (
        f"The published split is by image: {both} of {subjects} subjects are in training and in test. Here an image "
        "stands for a patient, so that intervals are too narrow; for results about patients use the protocol default."
    )
    return table, notice, note


def _expected(choice: Choice) -> dict[str, int]:
    if choice.rule == ONE_EACH:
        return {"cases": 417, "patients": 417}
    return _PUBLISHED if choice.protocol == FAIRMEDFM else _EXPECTED


def _attributes(choice: Choice) -> dict[str, Any]:
    if choice.protocol == FAIRMEDFM:
        age = published_age("Age")
    else:
        age = {**ages("Age", cut=CUT), **age_bands("age_bands", "Age", (65, 75, 85))}
    return {**sex("Sex", female=["F"], male=["M"]), **age}


def card(choice: Choice) -> dict[str, Any]:
    """Card; under the protocol the subject is kept as a column."""
    return {
        "task": "classification",
        "modality": "mri",
        "spatial_dims": 3,
        "classes": {
            "normal": [
                "a brain MRI of normal",
                "a brain MRI of a healthy elderly person",
                "a T1 MRI of a normal brain",
            ],
            "alzheimers": [
                "a brain MRI of Alzheimer's disease",
                "a brain MRI of a patient with Alzheimer's disease",
                "a T1 MRI of a brain with atrophy from Alzheimer's disease",
            ],
        },
        "positive_class": "alzheimers",
        "attributes": _attributes(choice),
        "intersections": [["sex", "age"]],
        "extra_columns": ["site", "Description", SUBJECT, *subset_columns()],
    }


DATASET = PublicDataset(
    name="adni",
    title="ADNI1 Screening 1.5T",
    summary=(
        "T1-weighted brain MRI (MPRAGE, 1.5 T) of the screening visits of the Alzheimer's Disease Neuroimaging "
        "Initiative, as NIfTI after the owner's corrections; many sites of North America."
    ),
    size="550 images of 417 subjects with AD or without impairment (1,075 with MCI)",
    access="https://adni.loni.usc.edu, on request: image collection ADNI1_Screening_1.5T with its CSV file",
    licence="ADNI Data Use Agreement",
    citation=(
        "Jack C. R. et al., The Alzheimer's Disease Neuroimaging Initiative (ADNI): MRI methods, Journal of Magnetic "
        "Resonance Imaging 27(4), 2008"
    ),
    layout={
        "ADNI1_Screening_1.5T_<date>.csv": "one row per image, as downloaded with the collection",
        "ADNI/<Subject>/.../<Image Data ID>/...": "the NIfTI files, at any depth",
    },
    needs=(TABLES, "ADNI"),
    read=read,
    card=card,
    rules={
        "ad_cn": "AD against CN, all images of a subject; MCI left out",
        ONE_EACH: "AD against CN, one image per subject: the one with the lowest Image Data ID",
    },
    protocols={
        FAIRMEDFM: (
            "FairMedFM: its split by image (52 of each sex), no validation, age in two groups at 60; its preparation "
            "resamples to 224 x 224 and 24 slices and scales each slice by itself, here volumes stay as they are"
        )
    },
    hazards=(
        "Most subjects have several images of one visit: they stay in one split, and intervals count subjects.",
        "Age is cut at 75 years: below 60 there are 8 of 550 images, so that FairMedFM's groups compare nothing.",
        "Sites differ in scanners; the column site is the number before _S_ in the subject's name.",
        "Files differ in orientation: bundles turn volumes to one orientation before they take slices.",
        "Many medical models were trained on public dementia sets, maybe on these images.",
    ),
    aliases=("adni1", "adni-1.5t"),
)
