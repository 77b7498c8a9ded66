"""BRSET: fundus photographs from Sao Paulo with grades of diabetic retinopathy, two cameras."""

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

VERSIONS = {
    "labels.csv": "1.0.0 (labels.csv)",
    "labels_brset.csv": "1.0.1 (labels_brset.csv)",
    "label_brset.csv": "1.0.2 (label_brset.csv)",
}
TABLES = "|".join(VERSIONS)
_USED = ("camera", "patient_age", "patient_sex", "exam_eye")
_GRADES = ("0", "1", "2", "3", "4")  # International Clinical Diabetic Retinopathy scale
_LOWEST = {"any_retinopathy": "1", "referable": "2"}  # grade from which on the class is positive
_SEX = {"female": ("2",), "male": ("1",)}
_CAMERAS = {"canon_cr": ["Canon CR"], "nikon_nf5050": ["NIKON NF5050"]}
_EYES = {"right": ["1"], "left": ["2"]}
_EXPECTED = {"cases": 16_266, "patients": 8_524, "sex/female": 10_052, "sex/male": 6_214}


def read(source: Path, choice: Choice) -> Release:
    """One row per photograph, from the release's table."""
    file = one_of(source, TABLES)
    raw = read_table(file, ["image_id", "patient_id", *_USED, "DR_ICDR"])
    names = raw["image_id"].str.removesuffix(".jpg")
    label, notes = _labels(file, raw["DR_ICDR"], choice)
    table = pd.DataFrame(
        {
            "case_id": names,
            "patient_id": raw["patient_id"],
            "image": "fundus_photos/" + names + ".jpg",
            "label": label,
            **{name: raw[name] for name in _USED},
        }
    )
    notes += fundus.differing(table, {"sex": "patient_sex", "age": "patient_age"})
    table = table[table["label"] != ""].reset_index(drop=True)
    table, listed_notes, notice = fundus.with_split(
        source,
        table,
        _attributes(choice),
        choice,
        listed=("image_id", table["case_id"]),
        stratify=["label", "patient_sex", "camera"],
    )
    published = choice.protocol == fundus.FAIRMEDFM
    # FairMedFM's two lists need not name every image, and of their sizes none is published.
    return Release(
        table=table.drop(columns=["camera", "exam_eye"]) if published else table,
        version=VERSIONS[file.name],
        expected={} if published else _EXPECTED,
        notes=(*notes, *listed_notes),
        notice=notice,
    )


def _labels(file: Path, grades: pd.Series, choice: Choice) -> tuple[pd.Series, tuple[str, ...]]:
    """Class per row, empty where there is no grade, and what became of those rows."""
    grades = grades.map(lambda text: text.removesuffix(".0"))
    strange = grades[~grades.isin([*_GRADES, ""])].value_counts()
    if len(strange):
        listed = examples(f"{value!r} ({number})" for value, number in strange.items())
        message = f"column 'DR_ICDR' must hold grades from 0 to 4, but got {listed}"
        raise DatasetError(file, [Problem("label", message)])
    label = (grades >= _LOWEST[choice.rule]).map({True: "retinopathy", False: "normal"})
    empty = grades == ""
    if not empty.any():
        return label, ()
    if choice.protocol == fundus.FAIRMEDFM:
        note = "images without a grade count as retinopathy, as they do where the class is every grade but 0"
        return label.mask(empty, "retinopathy"), (f"{int(empty.sum()):,} {note}",)
    return label.mask(empty, ""), (f"{int(empty.sum()):,} images without a grade of retinopathy are left out",)


def _attributes(choice: Choice) -> dict[str, Any]:
    groups = {
        **sex("patient_sex", **_SEX),
        **grouped("camera", "camera", _CAMERAS, title="Camera"),
        **grouped("eye", "exam_eye", _EYES, title="Eye"),
    }
    return fundus.attributes_of("patient_age", groups, choice)


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    seen = "retinopathy" if choice.rule == "any_retinopathy" else "referable diabetic retinopathy"
    return {
        "task": "classification",
        "modality": "fundus",
        "spatial_dims": 2,
        "classes": {
            "normal": fundus.prompts("normal", "a fundus photograph of a healthy retina", f"a retina without {seen}"),
            "retinopathy": fundus.prompts(
                "retinopathy", f"a fundus photograph of an eye with {seen}", "a retina with microaneurysms or bleeding"
            ),
        },
        "positive_class": "retinopathy",
        "attributes": _attributes(choice),
        "intersections": [["sex", "age"]],
        "extra_columns": fundus.extra_columns(choice),
    }


DATASET = PublicDataset(
    name="brset",
    title="BRSET",
    summary=(
        "Macula-centred fundus photographs of three outpatient centres in Sao Paulo, Brazil, taken with two cameras, "
        "with graded diabetic retinopathy and further findings (which are not read here)."
    ),
    size="16,266 images of 8,524 patients",
    access="https://physionet.org/content/brazilian-ophthalmological/, credentialed access after training",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation=(
        "Nakayama L. F. et al., BRSET: A Brazilian Multilabel Ophthalmological Dataset of Retina Fundus Photos, PLOS "
        "Digital Health 2024"
    ),
    layout={
        "labels.csv": "one row per image; labels_brset.csv or label_brset.csv in later versions",
        "fundus_photos/imgNNNNN.jpg": "the photographs",
        "split/new_train.csv, split/new_test.csv": fundus.LISTS_MEANING,
    },
    needs=(TABLES, "fundus_photos"),
    read=read,
    card=card,
    rules={
        "any_retinopathy": "any diabetic retinopathy (ICDR grade 1 to 4) against none",
        "referable": "moderate or worse retinopathy (ICDR grade 2 to 4) against none or mild",
    },
    protocols={fundus.FAIRMEDFM: fundus.PROTOCOL},
    protocol_rules={fundus.FAIRMEDFM: "any_retinopathy"},
    hazards=(
        "Pictures of the two cameras look different; compare groups within a camera.",
        "Some ages are missing, and some patients may have more than one sex or age over their images.",
        "Some models for retinal images were trained on this dataset; the catalog names them.",
    ),
    aliases=("brest",),
)
