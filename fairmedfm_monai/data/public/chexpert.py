"""CheXpert: chest radiographs of Stanford Hospital with fourteen findings mined from reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare import chexpert_labels, chexpert_people
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, subset_columns, with_balanced_subsets
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import carve_validation, split_patients

TRAIN, VALID = "train.csv|train.csv.gz", "valid.csv|valid.csv.gz"
EXPERT_TEST = "expert_test"
BALANCED = ("sex", "age", "race")
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_PATIENT = r"(patient\d{5})"
_NO_SPLIT = (
    "The lists of FairMedFM's training and test images are not public. Here patients are split by seed, so that "
    "results are not comparable image by image."
)
# Frontal images of the owner's train.csv; valid.csv adds 202 of 200 patients.
_TRAIN = {"cases": 191_027, "patients": 64_534, "view/ap": 161_590, "view/pa": 29_420}
_CLASSES = {"class/no_finding": 16_974, "class/finding": 174_053}
# FairMedFM: all views of train.csv whose patients have a race in the demographic table.
_PUBLISHED = {
    "cases": 221_006,
    "sex/male": 131_155,
    "sex/female": 89_851,
    "race/white": 125_491,
    "race/non_white": 95_515,
    "class/no_finding": 22_150,
    "class/finding": 198_856,
}


def read(source: Path, choice: Choice) -> Release:
    """One row per radiograph, from the owner's tables."""
    published = choice.protocol == FAIRMEDFM
    raw, version, notes = _images(source, choice)
    raw, joined = chexpert_people.with_demographics(source, raw, choice)
    notes += joined
    if not published:
        frontal = raw["Frontal/Lateral"] == "Frontal"
        notes += (f"{int((~frontal).sum()):,} lateral images are left out",)
        raw = raw[frontal].reset_index(drop=True)
    truth, counted = chexpert_labels.truth(raw, choice.rule)
    if len(truth) < len(raw):
        raw, truth = raw.loc[truth.index].reset_index(drop=True), truth.reset_index(drop=True)
    infants = int((raw["Age"] == "0").sum())
    notes += (*counted, f"{infants} images have the age 0, which is implausible here")
    table = _split(pd.concat([raw.drop(columns=list(chexpert_labels.FINDINGS)), truth], axis=1), choice)
    table, sizes = with_balanced_subsets(
        table, chexpert_people.two_groups(published=published), seed=choice.seed, published=published, names=BALANCED
    )
    expected = _expected(choice, valid="valid" in set(table["owner_split"]))
    return Release(table=table, version=version, expected=expected, notes=(*notes, sizes))


def _images(source: Path, choice: Choice) -> tuple[pd.DataFrame, str, tuple[str, ...]]:
    """Rows of train.csv, and of valid.csv where it is there and wanted."""
    parts: list[pd.DataFrame] = []
    notes: tuple[str, ...] = ()
    for name, files in (("train", TRAIN), ("valid", VALID)):
        if name == "valid" and choice.protocol == FAIRMEDFM:
            continue
        if name == "valid" and not any((source / file).is_file() for file in files.split("|")):
            if choice.protocol == EXPERT_TEST:
                message = f"protocol {EXPERT_TEST} needs valid.csv beside train.csv"
                raise DatasetError(source, [Problem("missing_file", message)])
            notes = ("valid.csv is not in the folder: its 234 images are left out",)
            continue
        file = one_of(source, files)
        part = read_table(file, [*_COLUMNS, *chexpert_labels.FINDINGS])
        chexpert_labels.check_cells(file, part)
        parts.append(_rows(file, part).assign(owner_split=name))
    first = parts[0]["Path"].iloc[0].split("/")[0] if len(parts[0]) else ""
    version = f"{first} ({'reduced size' if 'small' in first else 'original size'})"
    return pd.concat(parts, ignore_index=True).drop(columns="Path"), version, notes


def _rows(file: Path, raw: pd.DataFrame) -> pd.DataFrame:
    """The patient by pattern, and the path below ``train`` or ``valid``: the first folder's name differs by release."""
    inner = raw["Path"].str.extract(rf"(?:^|/)((?:train|valid)/{_PATIENT}/.+)$")
    wrong = raw["Path"][inner[0].isna()]
    if len(wrong):
        message = (
            f"column 'Path' must hold .../train/patientNNNNN/... or .../valid/patientNNNNN/..., but {len(wrong)} of "
            f"{len(raw)} rows do not: {examples(wrong)}"
        )
        raise DatasetError(file, [Problem("patient_id", message)])
    names = inner[0].str.split("/", n=1).str[1].str.replace("/", "_").str.rsplit(".", n=1).str[0]
    kept = raw[[*_COLUMNS, *chexpert_labels.FINDINGS]]
    return kept.assign(case_id=names, patient_id=inner[1], image=inner[0])


def _split(table: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    stratify = [*chexpert_labels.stratify(choice.rule), "Sex", "PRIMARY_RACE"]
    if choice.protocol != EXPERT_TEST:
        return split_patients(table, seed=choice.seed, stratify=stratify)
    owner = table.assign(split=table["owner_split"].map({"valid": "test", "train": "train"}))
    return carve_validation(owner, seed=choice.seed, stratify=stratify)


def _expected(choice: Choice, *, valid: bool) -> Mapping[str, int]:
    if choice.protocol == FAIRMEDFM:
        return _PUBLISHED
    if choice.rule.endswith("u_ignore"):
        return {}
    if valid:
        return {"cases": _TRAIN["cases"] + 202, "patients": _TRAIN["patients"] + 200}
    return _TRAIN | (_CLASSES if choice.rule in ("any_finding", "no_finding") else {})


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    published = choice.protocol == FAIRMEDFM
    parts = chexpert_labels.card_parts(choice.rule)
    if published:
        parts["notice"] = f"{parts['notice']} {_NO_SPLIT}"
    return {
        "task": "classification",
        "modality": "xray",
        "spatial_dims": 2,
        **parts,
        "attributes": chexpert_people.two_groups(published=True) if published else chexpert_people.demographics(),
        "intersections": [["sex", "age"], ["sex", "race"]],
        "extra_columns": [
            "owner_split",
            "Frontal/Lateral",
            *(["AP/PA"] if published else []),
            *subset_columns(BALANCED),
        ],
    }


DATASET = PublicDataset(
    name="chexpert",
    title="CheXpert",
    summary=(
        "Chest radiographs of Stanford Hospital, 2002 to 2017; fourteen findings mined from the reports, each "
        "positive, negative, uncertain or not mentioned. Race and ethnicity come from a table given out separately."
    ),
    size="223,414 images of 64,540 patients (191,027 frontal), and 234 images labelled by three radiologists",
    access="https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2, after registration",
    licence="Stanford University Dataset Research Use Agreement",
    citation=(
        "Irvin J., Rajpurkar P. et al., CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert "
        "Comparison, AAAI 2019"
    ),
    layout={
        "train.csv": "one row per image, of CheXpert-v1.0 or CheXpert-v1.0-small",
        "train/patientNNNNN/studyN/viewN_frontal.jpg": "the images (those of all batches in one folder train/)",
        "valid.csv, valid/": "the 234 images labelled by radiologists; may be missing",
        "CHEXPERT DEMO.xlsx": "race and ethnicity, a download of its own; without it both are unknown",
    },
    needs=(TRAIN, "train"),
    read=read,
    card=card,
    rules=chexpert_labels.RULES,
    protocols={
        FAIRMEDFM: (
            "FairMedFM: positive means normal, all views of train.csv, patients with a race, White or not (unknown "
            "included). Its split is private: patients are split by seed instead"
        ),
        EXPERT_TEST: "test on valid.csv (200 patients, labelled by radiologists), validation is part of train.csv",
    },
    protocol_rules={FAIRMEDFM: "no_finding"},
    hazards=(
        "Labels come from reports, not from images, but for those of valid.csv; by default both are split alike.",
        "The false-positive rate means over-diagnosis where the positive class is finding, under-diagnosis where it is "
        "no_finding.",
        "Lateral views are left out by default. AP views are of patients in bed: compare groups within a view.",
        "The age 90 stands for 90 and above; an age of 0 counts as unknown.",
        "Unknown and refused answers about race (about a tenth of the images) are unknown here; FairMedFM counts them "
        "as not White.",
    ),
    aliases=("cxp", "chexpert-small"),
)
