"""A miniature of MIMIC-CXR-JPG with the two tables of MIMIC-IV: layout, column names and oddities of the owner's."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.miniatures.chexpert import REPORTS

FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture"),
    *("Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia"),
    *("Pneumothorax", "Support Devices"),
)
METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
PATIENTS = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
ADMISSIONS = (
    "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,admission_location,"
    "discharge_location,insurance,language,marital_status,race,edregtime,edouttime,hospital_expire_flag"
)
# Race, language, insurance and marital status of each admission of a patient.
STAYS: tuple[tuple[tuple[str, str, str, str], ...], ...] = (
    (("WHITE", "English", "Medicare", "MARRIED"), ("WHITE - RUSSIAN", "Russian", "Medicare", "WIDOWED")),
    (("BLACK/AFRICAN AMERICAN", "English", "Medicaid", "SINGLE"), ("UNKNOWN", "English", "Medicaid", "SINGLE")),
    (("ASIAN - CHINESE", "Chinese", "Private", "MARRIED"),),
    (("WHITE", "English", "Other", ""), ("HISPANIC OR LATINO", "Spanish", "Medicare", "DIVORCED")),
    (("PATIENT DECLINED TO ANSWER", "?", "Other", "SINGLE"),),
    (),
    (("OTHER", "Modern Greek (1453-)", "Private", "DIVORCED"),),
)
VIEWS = ("PA", "AP", "LATERAL", "AP", "")


def make(folder: Path, *, patients: int = 42, packed: bool = True) -> Path:
    """42 patients, most with two studies, one image in the first and two in the second.

    The second study of subject 10000003 is absent from the labels, subject 10000005 is absent from MIMIC-IV, and
    subject 10000007 is above 89 years old. Tables are packed, as downloaded, or not.
    """
    rows: dict[str, list[str]] = {
        "mimic-cxr-2.0.0-metadata": [METADATA],
        "mimic-cxr-2.0.0-chexpert": [",".join(["subject_id", "study_id", *FINDINGS])],
        "mimic-cxr-2.0.0-split": ["dicom_id,study_id,subject_id,split"],
        "hosp/patients": [PATIENTS],
        "hosp/admissions": [ADMISSIONS],
    }
    for number in range(1, patients + 1):
        subject = 10_000_000 + number
        split = ("train", "train", "validate", "train", "test")[number % 5]
        for study in range(2):
            _study(folder, rows, subject, 50_000_000 + 2 * number + study, images=1 + study, split=split)
        age = 91 if number == 7 else 50 + number % 20
        if number != 5:
            rows["hosp/patients"].append(f"{subject},{'FM'[number % 2]},{age},2150,2011 - 2013,")
        for race, language, insurance, marital in STAYS[number % 7]:
            stay = f"{subject},{20_000_000 + len(rows['hosp/admissions'])},2150-01-01 00:00:00,2150-01-03 00:00:00,,"
            who = f"{insurance},{language},{marital},{race}"
            rows["hosp/admissions"].append(f"{stay}URGENT,P05VLX,EMERGENCY ROOM,HOME,{who},,,0")
    for name, lines in rows.items():
        _table(folder / f"{name}.csv", lines, packed=packed)
    return folder


def _study(folder: Path, rows: dict[str, list[str]], subject: int, study: int, *, images: int, split: str) -> None:
    """Studies are of 2149 and 2151, a year before and after the year of the anchor age."""
    report = REPORTS[(subject + study) % 7]
    if (subject, study) != (10_000_003, 50_000_007):
        cells = ",".join(report.get(name, "") for name in FINDINGS)
        rows["mimic-cxr-2.0.0-chexpert"].append(f"{subject},{study},{cells}")
    for index in range(images):
        dicom = f"{study:08x}-{index:08x}-aaaa"
        view = VIEWS[(subject + study + 2 * index) % 5]
        year = 2149 + 2 * (study % 2)
        rows["mimic-cxr-2.0.0-metadata"].append(
            f'{dicom},{subject},{study},"CHEST (PA, LAT)",{view},3056,2544,{year}0506,213014.531,CHEST,,Erect'
        )
        rows["mimic-cxr-2.0.0-split"].append(f"{dicom},{study},{subject},{split}")
        file = folder / "files" / f"p{str(subject)[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(study + index).integers(0, 255, (60, 50), dtype=np.uint8)
        Image.fromarray(pixels).save(file)


def _table(file: Path, lines: Sequence[str], *, packed: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(lines) + "\n"
    if packed:
        file.with_suffix(".csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        file.write_text(text)
