"""KiTS23: abdominal CT of kidneys with tumours and cysts before surgery."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card import raw_text
from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.masks import renumber
from fairmedfm_monai.data.prepare.nnunet import IMAGES, volume_names, volume_paths
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

TABLE = "kits23.json"
_USED = ("gender", "age_at_nephrectomy", "bmi", "smoking_history", "malignant")
_LABELS = {
    "labels": {"kidney": 1, "tumour": 2, "cyst": 3},
    "kidney_and_masses": {"kidney_and_masses": 1},
    "masses": {"masses": 1},
}
_VALUES = {
    "kidney_and_masses": ((0, 0), (1, 1), (2, 1), (3, 1)),
    "masses": ((0, 0), (1, 0), (2, 1), (3, 1)),
}
_NEITHER = "transgender_male_to_female"  # one patient: a group of one tells nothing
_BOUND = re.compile(r">\s*=?\s*(\d+)")
_BMI = ("underweight", "normal", "overweight", "obese")
_SMOKING = {"never": ["never_smoked"], "previous": ["previous_smoker"], "current": ["current_smoker"]}
_EXPECTED = {
    "cases": 489,
    "patients": 489,
    "sex/female": 182,
    "sex/male": 306,
    "sex/unknown": 1,
    "bmi/unknown": 1,
    "smoking/unknown": 4,
}
_LAST_PUBLISHED = "case_00587"


def read(source: Path, choice: Choice) -> Release:
    """One row per entry of ``kits23.json``, joined with its volume by case id."""
    table = _metadata(source / TABLE)
    cases = table["case_id"].tolist()
    flat = not (source / IMAGES).is_dir()
    paths = [(f"{case}/imaging.nii.gz", f"{case}/segmentation.nii.gz") for case in cases]
    table[["image", "mask"]] = paths if flat else volume_paths(source, ".", cases)
    if choice.rule in _VALUES:
        made = [_mask(case, mask, choice.rule) for case, mask in zip(cases, table["mask"], strict=True)]
        table["mask"] = pd.Series(made, index=table.index, dtype=object)
    there = {path.name for path in source.glob("case_*")} if flat else volume_names(source, ".")
    notes, expected = _extra(there - set(cases)), _EXPECTED
    if choice.protocol == "fairmedfm":
        late = table["case_id"] > _LAST_PUBLISHED
        table = table[~late].drop(columns=list(_USED[1:])).assign(split="test").reset_index(drop=True)
        notes.append(f"{int(late.sum())} cases after {_LAST_PUBLISHED} are left out, as in the published code")
        expected = {"cases": 488, "split/test": 488}
    else:
        notes += [*_bounded_ages(table), *_neither(table)]
    version = f"{len(cases)} entries in {TABLE}; " + ("one folder per case" if flat else "nnU-Net folders")
    return Release(table=table, version=version, expected=expected, notes=tuple(notes))


def _metadata(file: Path) -> pd.DataFrame:
    """The used entries as text."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        table = pd.DataFrame(entries if isinstance(entries, list) else [])
    except (OSError, ValueError) as error:
        message = f"the table cannot be read, it may be damaged or partly downloaded: {error}"
        raise DatasetError(file, [Problem("table_unreadable", message)]) from error
    lacking = [name for name in ("case_id", *_USED) if name not in table]
    if lacking:
        message = f"it must be a list of objects with {', '.join(('case_id', *_USED))}, but lacks {', '.join(lacking)}"
        raise DatasetError(file, [Problem("missing_column", message)])
    texts = {name: table[name].astype(object).map(raw_text) for name in ("case_id", *_USED)}
    return pd.DataFrame(texts).assign(patient_id=texts["case_id"])


def _mask(case: str, path: str, rule: str) -> Made:
    return Made(f"masks/{case}.nii.gz", (path,), renumber, (("values", _VALUES[rule]),))


def _extra(names: set[str]) -> list[str]:
    """A note of volumes that nothing is known about."""
    if not names:
        return []
    return [f"{len(names)} volumes have no entry in {TABLE} and are left out: {examples(sorted(names))}"]


def _bounded_ages(table: pd.DataFrame) -> list[str]:
    """Ages such as ``>=90`` become their bound, which no cut of the card lies above."""
    bounds = table["age_at_nephrectomy"].str.extract(_BOUND, expand=False)
    number = int(bounds.notna().sum())
    table["age_at_nephrectomy"] = bounds.fillna(table["age_at_nephrectomy"])
    return [f"{number} ages are given as a bound such as '>=90' and read as that number"] if number else []


def _neither(table: pd.DataFrame) -> list[str]:
    number = int((table["gender"] == _NEITHER).sum())
    told = f"{number} patient with the sex {_NEITHER!r} is in neither group, and in all overall numbers"
    return [told] if number else []


def card(choice: Choice) -> dict[str, Any]:
    """Card; FairMedFM compares sexes alone, and its code takes every value but ``female`` for male."""
    if choice.protocol == "fairmedfm":
        attributes = sex("gender", female=("female",), male=("male", _NEITHER))
    else:
        bmi = {"column": "bmi", "bins": [5, 18.5, 25, 30, 150], "groups": list(_BMI), "title": "Body mass index (WHO)"}
        attributes = {
            **sex("gender", female=("female",), male=("male",), missing=(_NEITHER,)),
            **ages("age_at_nephrectomy"),
            "bmi": bmi,
            **grouped("smoking", "smoking_history", _SMOKING, missing=("not_found_in_emr",), title="Smoking"),
            **grouped("malignant", "malignant", {"yes": ["True"], "no": ["False"]}, title="Malignant tumour"),
        }
    return {
        "task": "segmentation",
        "modality": "ct",
        "spatial_dims": 3,
        "labels": _LABELS[choice.rule],
        "window": "abdomen",
        "attributes": attributes,
        "intersections": [["sex", "age"]] if "age" in attributes else [],
    }


DATASET = PublicDataset(
    name="kits23",
    title="KiTS23",
    summary=(
        "Contrast-enhanced abdominal CT of patients before surgery of a kidney tumour, with outlines of kidneys, "
        "tumours and cysts, and with clinical data of each patient."
    ),
    size="489 volumes of 489 patients",
    access="https://github.com/neheller/kits23, free download",
    licence="CC-BY-NC-SA-4.0",
    citation=(
        "Heller N. et al., The KiTS21 Challenge: Automatic segmentation of kidneys, renal tumors, and renal cysts in "
        "corticomedullary-phase CT, arXiv 2307.01984, 2023"
    ),
    layout={
        TABLE: "clinical data, from the owner's repository",
        "case_NNNNN/imaging.nii.gz, segmentation.nii.gz": "the owner's layout; or",
        "imagesTr/case_NNNNN_0000.nii.gz, labelsTr/case_NNNNN.nii.gz": "that of nnU-Net",
    },
    needs=(TABLE, "imagesTr|case_*"),
    read=read,
    card=card,
    rules={
        "labels": "kidney (1), tumour (2) and cyst (3), which exclude each other",
        "kidney_and_masses": "kidney, tumour and cyst together (1)",
        "masses": "tumour and cyst together (1)",
    },
    protocols={"fairmedfm": "FairMedFM: every case up to case_00587 is tested, sex alone"},
    hazards=(
        "Not every patient has a cyst: its score is undefined where there is none.",
        "The owner's classes of the challenge overlap (kidney and masses, masses, tumour); the first two are rules of "
        "their own here, because labels of one folder exclude each other.",
        "Ages from 90 on may be given as 90.",
        "Patients of one hospital system, who all have surgery: tumours are larger than those of screening.",
    ),
    aliases=("kits",),
)
