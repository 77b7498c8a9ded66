"""PAPILA: fundus photographs of both eyes of patients with and without glaucoma."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare import fundus
from fairmedfm_monai.data.prepare.attributes import grouped, sex
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

EYES = {"OD": "right", "OS": "left"}
_TABLE = "ClinicalData/patient_data_{eye}.xlsx|ClinicalData/patient_data_{eye}.csv"
TABLES = {eye: _TABLE.format(eye=eye.lower()) for eye in EYES}
# The workbook has three lines of header; the first cell of the first one is empty, which pandas names.
COLUMNS = ("ID|Unnamed: 0|id", "Age|age", "Gender|gender", "Diagnosis|diagnosis")
_NO_ID = ("", "ID")  # first cells of the other two lines
_SEX = {"female": ("1",), "male": ("0",)}
_SUSPECT = "2"
_CLASSES = {
    "glaucoma": {"0": "normal", "1": "glaucoma"},
    "glaucoma_or_suspect": {"0": "normal", "1": "glaucoma", _SUSPECT: "glaucoma"},
    "three_classes": {"0": "normal", "1": "glaucoma", _SUSPECT: "suspect"},
}
_EXPECTED = {
    "glaucoma": {"cases": 420, "sex/female": 274, "sex/male": 146},
    "glaucoma_or_suspect": {"cases": 488, "patients": 244},
    "three_classes": {"cases": 488, "patients": 244},
}
_PUBLISHED = {"split/test": 56}


def read(source: Path, choice: Choice) -> Release:
    """One row per eye, from the tables of right and left eyes."""
    files = {eye: one_of(source, names) for eye, names in TABLES.items()}
    table = pd.concat([_eyes(file, eye) for eye, file in files.items()], ignore_index=True)
    classes = _CLASSES[choice.rule]
    strange = table["Diagnosis"][~table["Diagnosis"].isin([*_CLASSES["three_classes"], ""])].value_counts()
    if len(strange):
        listed = examples(f"{value!r} ({number})" for value, number in strange.items())
        message = f"column 'Diagnosis' must hold 0 (normal), 1 (glaucoma) or 2 (suspect), but got {listed}"
        raise DatasetError(source, [Problem("label", message)])
    notes = fundus.differing(table, {"sex": "Gender", "age": "Age"})
    kept = table[table["Diagnosis"].isin(list(classes))].reset_index(drop=True)
    kept["label"] = kept.pop("Diagnosis").map(classes)
    kept, listed_notes, notice = fundus.with_split(
        source,
        kept,
        _attributes(choice),
        choice,
        listed=("Path", kept["case_id"] + ".jpg"),
        stratify=["label", "Gender"],
    )
    published = choice.protocol == fundus.FAIRMEDFM
    return Release(
        table=kept.drop(columns="eye") if published else kept,
        version=" and ".join(sorted({file.suffix.removeprefix(".") for file in files.values()})) + " tables",
        expected=_EXPECTED[choice.rule] | (_PUBLISHED if published else {}),
        notes=(*notes, *_left_out(table["Diagnosis"], classes), *listed_notes),
        notice=notice,
    )


def _eyes(file: Path, eye: str) -> pd.DataFrame:
    """Rows of one table; ids are ``#002``, with gaps, and images are named after them."""
    raw = read_table(file, COLUMNS)
    raw = raw[~raw["ID"].isin(_NO_ID)].reset_index(drop=True)
    wrong = raw["ID"][~raw["ID"].str.fullmatch(r"#?\d+")]
    if len(wrong):
        message = f"column 'ID' must hold ids such as #002, but got {examples(wrong)}"
        raise DatasetError(file, [Problem("patient_id", message)])
    numbers = raw["ID"].str.removeprefix("#").str.zfill(3)
    names = "RET" + numbers + eye
    return pd.DataFrame(
        {
            "case_id": names,
            "patient_id": numbers,
            "image": "FundusImages/" + names + ".jpg",
            "eye": eye,
            **{name: raw[name] for name in ("Age", "Gender", "Diagnosis")},
        }
    )


def _left_out(diagnosis: pd.Series, classes: dict[str, str]) -> tuple[str, ...]:
    suspects = int((diagnosis == _SUSPECT).sum()) if _SUSPECT not in classes else 0
    empty = int((diagnosis == "").sum())
    counted = ((suspects, "eyes with suspected glaucoma"), (empty, "eyes without diagnosis"))
    return tuple(f"{number:,} {what} are left out" for number, what in counted if number)


def _attributes(choice: Choice) -> dict[str, Any]:
    eyes = {word: [eye] for eye, word in EYES.items()}
    return fundus.attributes_of("Age", {**sex("Gender", **_SEX), **grouped("eye", "eye", eyes, title="Eye")}, choice)


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    classes = {
        "normal": fundus.prompts("normal", "a fundus photograph of a healthy eye", "a retina without glaucoma"),
        "glaucoma": fundus.prompts(
            "glaucoma", "a fundus photograph of an eye with glaucoma", "a retina with a cupped optic disc"
        ),
        "suspect": fundus.prompts("glaucoma suspect", "a fundus photograph of an eye with suspected glaucoma"),
    }
    return {
        "task": "classification",
        "modality": "fundus",
        "spatial_dims": 2,
        "classes": {name: classes[name] for name in dict.fromkeys(_CLASSES[choice.rule].values())},
        **({} if choice.rule == "three_classes" else {"positive_class": "glaucoma"}),
        "attributes": _attributes(choice),
        "intersections": [["sex", "age"]],
        "extra_columns": fundus.extra_columns(choice),
    }


DATASET = PublicDataset(
    name="papila",
    title="PAPILA",
    summary=(
        "Fundus photographs of both eyes of patients of one hospital in Murcia, Spain, with a diagnosis per eye: "
        "normal, glaucoma, or suspected glaucoma."
    ),
    size="488 images of 244 patients",
    access="https://doi.org/10.6084/m9.figshare.14798004, free download",
    licence="as stated on its figshare page",
    citation=(
        "Kovalyk O. et al., PAPILA: Dataset with fundus images and clinical data of both eyes of the same patient for "
        "glaucoma assessment, Scientific Data 2022"
    ),
    layout={
        "ClinicalData/patient_data_od.xlsx, patient_data_os.xlsx": "right and left eyes; CSV works too",
        "FundusImages/RETNNNOD.jpg, RETNNNOS.jpg": "the photographs",
        "split/new_train.csv, split/new_test.csv": fundus.LISTS_MEANING,
    },
    needs=(*TABLES.values(), "FundusImages"),
    read=read,
    card=card,
    rules={
        "glaucoma": "glaucoma against normal; suspected glaucoma is left out",
        "glaucoma_or_suspect": "glaucoma or suspected glaucoma against normal",
        "three_classes": "normal, glaucoma and suspected glaucoma",
    },
    protocols={fundus.FAIRMEDFM: fundus.PROTOCOL},
    protocol_rules={fundus.FAIRMEDFM: "glaucoma"},
    hazards=(
        "Few eyes have glaucoma: a fifth of the patients as test set gives groups of a handful of diseased eyes, for "
        "which no difference can be told from chance.",
        "Both eyes of a patient are in one split; they are not independent.",
        "Some models for retinal images were trained on this dataset; the catalog names them.",
    ),
)
