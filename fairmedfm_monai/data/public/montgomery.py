"""Montgomery County: chest radiographs with outlines of both lungs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.masks import combine
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

IMAGES, READINGS = "CXR_png", "ClinicalReadings"
MASKS = ("ManualMask/leftMask", "ManualMask/rightMask")
_LABELS = {"left_right": {"left_lung": 1, "right_lung": 2}, "lung": {"lung": 1}}
_NAME = re.compile(r"(MCUCXR_\d+)_([01])")
_GAP = r"[^\S\n]*"
_LINE = rf"^{_GAP}Patient\W?s +NAME{_GAP}:{_GAP}(.*?){_GAP}$"
_LINES = {name: re.compile(_LINE.replace("NAME", name), re.I | re.M) for name in ("Sex", "Age")}
_FINDINGS = {"normal": ["0"], "tuberculosis": ["1"]}
_EXPECTED = {"cases": 138, "patients": 138, "finding/normal": 80, "finding/tuberculosis": 58}


def read(source: Path, choice: Choice) -> Release:
    """One row per radiograph that an image, a mask or a reading tells of."""
    places = [*((folder, "[!.]*.png") for folder in (IMAGES, *MASKS)), (READINGS, "[!.]*.txt")]
    names = sorted({path.stem for folder, pattern in places for path in (source / folder).glob(pattern)})
    matches = [_NAME.fullmatch(name) for name in names]
    wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
    if wrong:
        message = f"files must be named as MCUCXR_0001_0 (1: abnormal), but there are {examples(wrong)}"
        raise DatasetError(source, [Problem("file_name", message)])
    known = [match for match in matches if match]
    table = pd.DataFrame(
        {
            "case_id": names,
            "patient_id": [match[1] for match in known],
            "image": [f"{IMAGES}/{name}.png" for name in names],
            "mask": [_mask(name, choice.rule) for name in names],
            "finding": [match[2] for match in known],
        }
    )
    readings = [_reading(source / READINGS / f"{name}.txt") for name in names]
    for column in _LINES:
        table[column] = [reading[column] for reading in readings]
    notes = [
        f"{int((table[name] == '').sum())} readings do not tell the {name.lower()}: unknown"
        for name in _LINES
        if (table[name] == "").any()
    ]
    if choice.protocol == "fairmedfm":
        kept = table.drop(columns=["Age", "finding"]).assign(split="test")
        return Release(table=kept, expected={"cases": 138, "split/test": 138}, notes=tuple(notes))
    return Release(table=table, expected=_EXPECTED, notes=tuple(notes))


def _mask(name: str, rule: str) -> Made:
    labels = tuple(_LABELS[rule].values())
    inputs = tuple(f"{folder}/{name}.png" for folder in MASKS)
    return Made(f"masks/{name}.png", inputs, combine, (("labels", labels * (len(MASKS) // len(labels))),))


def _reading(file: Path) -> dict[str, str]:
    """Raw sex and age (``027Y``) of a reading, empty where its lines are not as they should be."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = {name: line.search(text) for name, line in _LINES.items()}
    return {name: match[1].upper() if match else "" for name, match in found.items()}


def card(choice: Choice) -> dict[str, Any]:
    """Card: each lung, or both as one label. O is DICOM's sex of neither group."""
    attributes = sex("Sex", female=("F",), male=("M",), missing=("O",))
    if choice.protocol != "fairmedfm":
        attributes |= ages("Age") | grouped("finding", "finding", _FINDINGS, title="Finding")
    return {
        "task": "segmentation",
        "modality": "xray",
        "spatial_dims": 2,
        "labels": _LABELS[choice.rule],
        "attributes": attributes,
        "intersections": [["sex", "age"]] if "age" in attributes else [],
    }


DATASET = PublicDataset(
    name="montgomery",
    title="Montgomery County chest X-ray set",
    summary=(
        "Frontal chest radiographs of the tuberculosis programme of Montgomery County, USA, normal or with signs of "
        "tuberculosis, with outlines of the left and of the right lung drawn by hand."
    ),
    size="138 images of 138 patients",
    access=(
        "https://data.lhncbc.nlm.nih.gov/public/Tuberculosis-Chest-X-ray-Datasets/Montgomery-County-CXR-Set/, free "
        "download"
    ),
    licence="NLM terms: free use with attribution, no redistribution",
    citation=(
        "Jaeger S. et al., Two public chest X-ray datasets for computer-aided screening of pulmonary diseases, "
        "Quantitative Imaging in Medicine and Surgery 2014"
    ),
    layout={
        "CXR_png/MCUCXR_NNNN_0.png": "radiographs; _1 is abnormal",
        "ManualMask/leftMask/, ManualMask/rightMask/": "outlines of the lungs, named as the radiographs",
        "ClinicalReadings/MCUCXR_NNNN_0.txt": "sex, age and what the reader saw",
    },
    needs=(IMAGES, *MASKS, READINGS),
    read=read,
    card=card,
    rules={
        "left_right": "left lung (1) and right lung (2), as the patient has them",
        "lung": "both lungs as one label (1)",
    },
    protocols={"fairmedfm": "FairMedFM: every image is tested, sex alone"},
    hazards=(
        "58 of the 138 patients have tuberculosis, which changes what a lung looks like: compare groups within normal "
        "and within abnormal images.",
        "The part of the lung behind the heart is not in the outlines.",
        "The owner states no patient id: the number in the file name stands for the patient.",
    ),
    aliases=("montgomery_county",),
)
