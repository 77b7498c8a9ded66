"""NIH ChestX-ray14: frontal chest radiographs with fourteen findings mined from reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.folders import index_files, one_of
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import carve_validation

TABLES = "Data_Entry_2017_v2020.csv|Data_Entry_2017_v2020.csv.gz|Data_Entry_2017.csv|Data_Entry_2017.csv.gz"
FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"),
    *("Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
NO_FINDING = "No Finding"
# The study on CLIP models and chest radiographs uses six balanced diseases of 200 images and does not say which; these
# are the six with the most images that show nothing else.
SIX = ("Infiltration", "Atelectasis", "Effusion", "Nodule", "Pneumothorax", "Mass")
IMAGES_PER_DISEASE = 200
_SEX = {"female": ("F",), "male": ("M",)}
_EXPECTED = {
    "cases": 112_120,
    "patients": 30_805,
    "sex/female": 48_780,
    "sex/male": 63_340,
    "sex/unknown": 0,
    "view/pa": 67_310,
    "view/ap": 44_810,
}
# Images per finding in the owner's release; the 2017 and the 2020 table do not differ in them.
_IMAGES = {
    "Atelectasis": 11_559,
    "Cardiomegaly": 2_776,
    "Effusion": 13_317,
    "Infiltration": 19_894,
    "Mass": 5_782,
    "Nodule": 6_331,
    "Pneumonia": 1_431,
    "Pneumothorax": 5_302,
    "Consolidation": 4_667,
    "Edema": 2_303,
    "Emphysema": 2_516,
    "Fibrosis": 1_686,
    "Pleural_Thickening": 3_385,
    "Hernia": 227,
    NO_FINDING: 60_361,
}


def read(source: Path, choice: Choice) -> Release:
    """One row per radiograph, from the release's table."""
    file = one_of(source, TABLES)
    columns = ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender|Patient Sex"]
    raw = read_table(file, [*columns, "View Position"])
    found = _findings(file, raw)
    table = pd.DataFrame(
        {
            "case_id": raw["Image Index"],
            "patient_id": raw["Patient ID"],
            "image": _paths(source, raw["Image Index"]),
            "Patient Gender": raw["Patient Gender"],
            "Patient Age": raw["Patient Age"],
            "View Position": raw["View Position"],
        }
    )
    version = "2020 table (corrected ages)" if "v2020" in file.name else "2017 table (before ages were corrected)"
    if choice.rule == "six_diseases":
        return _six_diseases(table, found, version, choice)
    table = table.join(_truth(found, choice))
    table, notes = _split(source, table, choice)
    return Release(table=table, version=version, expected=_expected(choice), notes=notes)


def _findings(file: Path, raw: pd.DataFrame) -> pd.DataFrame:
    """0/1 per image and finding."""
    found = raw["Finding Labels"].str.get_dummies("|")
    strange = sorted({str(name) for name in found} - {*FINDINGS, NO_FINDING})
    if strange:
        message = f"column 'Finding Labels' holds names that are no finding of this dataset: {examples(strange)}"
        raise DatasetError(file, [Problem("label", message)])
    found = found.reindex(columns=[*FINDINGS, NO_FINDING], fill_value=0)
    both = raw["Image Index"][(found[NO_FINDING] == 1) & (found[list(FINDINGS)].sum(axis=1) > 0)]
    empty = raw["Image Index"][found.sum(axis=1) == 0]
    problems = [
        Problem("label", f"{len(rows)} images have {what}: {examples(rows)}")
        for rows, what in ((both, f"{NO_FINDING!r} beside a finding"), (empty, "no entry in 'Finding Labels'"))
        if len(rows)
    ]
    if problems:
        raise DatasetError(file, problems)
    return found


def _paths(source: Path, names: pd.Series) -> pd.Series:
    """Images lie in ``images`` or, as downloaded, in ``images_001/images`` to ``images_012/images``."""
    folders = sorted(path.name for path in source.glob("images*") if path.is_dir())
    known = index_files(source, below=folders, suffixes=(".png",))
    return names.map(lambda name: known.get(name, f"images/{name}"))


def _truth(found: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    if choice.rule == "fourteen_labels":
        return found[list(FINDINGS)].rename(columns=_slug).astype(str)
    label = found[NO_FINDING].map({1: "no_finding", 0: "finding"})
    return label.to_frame("label")


def _split(source: Path, table: pd.DataFrame, choice: Choice) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The owner's lists where they are; validation is an eighth of their training patients."""
    lists = {name: source / f"{name}_list.txt" for name in ("train_val", "test")}
    if not all(path.is_file() for path in lists.values()):
        return table, ("train_val_list.txt and test_list.txt are not in the folder: split by seed",)
    members = {name: set(path.read_text(encoding="utf-8").split()) for name, path in lists.items()}
    in_test = table["case_id"].isin(members["test"])
    unlisted = table["case_id"][~in_test & ~table["case_id"].isin(members["train_val"])]
    if len(unlisted):
        message = f"{len(unlisted)} images are in neither list: {examples(unlisted)}"
        raise DatasetError(source, [Problem("split", message)])
    official = table.assign(split=in_test.map({True: "test", False: "train"}))
    stratify = ["label", "Patient Gender"] if "label" in table else ["Patient Gender"]
    return carve_validation(official, seed=choice.seed, stratify=stratify), ()


def _six_diseases(table: pd.DataFrame, found: pd.DataFrame, version: str, choice: Choice) -> Release:
    """200 images of each disease, of as many patients, with that one finding only."""
    single = found[list(FINDINGS)].sum(axis=1) == 1
    order = table.sample(frac=1, random_state=choice.seed).index
    chosen: dict[Any, str] = {}
    taken: set[str] = set()
    for name in sorted(SIX, key=lambda name: int((single & (found[name] == 1)).sum())):
        rows = table.loc[order][(single & (found[name] == 1)).loc[order]]
        rows = rows[~rows["patient_id"].isin(taken)].drop_duplicates("patient_id").head(IMAGES_PER_DISEASE)
        chosen |= dict.fromkeys(rows.index, _slug(name))
        taken |= set(rows["patient_id"])
    picked = table.loc[sorted(chosen)].assign(label=[chosen[index] for index in sorted(chosen)])
    note = (
        "six diseases, drawn by seed: images with exactly one finding, one per patient; which six diseases the study "
        "used was not published, these are ours"
    )
    expected = {"cases": 6 * IMAGES_PER_DISEASE, **{f"class/{_slug(name)}": IMAGES_PER_DISEASE for name in SIX}}
    return Release(table=picked, version=version, expected=expected, notes=(note,))


def _expected(choice: Choice) -> dict[str, int]:
    if choice.rule == "fourteen_labels":
        return _EXPECTED | {f"class/{_slug(name)}": _IMAGES[name] for name in FINDINGS}
    none = _IMAGES[NO_FINDING]
    return _EXPECTED | {"class/no_finding": none, "class/finding": _EXPECTED["cases"] - none}


def _slug(finding: str) -> str:
    return finding.lower()


def _prompts(finding: str) -> list[str]:
    words = finding.replace("_", " ").lower()
    return [f"a chest X-ray of a patient with {words}", f"a chest radiograph showing {words}", f"chest X-ray: {words}"]


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    classes = {
        "no_finding": ["a chest X-ray with no finding", "a normal chest radiograph", "chest X-ray: no finding"],
        "finding": ["a chest X-ray of a diseased patient", "an abnormal chest radiograph", "chest X-ray: disease"],
    }
    if choice.rule != "any_finding":
        classes = {_slug(name): _prompts(name) for name in (SIX if choice.rule == "six_diseases" else FINDINGS)}
    return {
        "task": "classification",
        "modality": "xray",
        "spatial_dims": 2,
        "classes": classes,
        **({"positive_class": "finding"} if choice.rule == "any_finding" else {}),
        **({"multi_label": True} if choice.rule == "fourteen_labels" else {}),
        "attributes": {
            **sex("Patient Gender", **_SEX),
            **ages("Patient Age"),
            **grouped("view", "View Position", {"pa": ["PA"], "ap": ["AP"]}, title="View position"),
        },
        "intersections": [["sex", "age"]],
    }


DATASET = PublicDataset(
    name="nih_chestxray14",
    title="NIH ChestX-ray14",
    summary=(
        "Frontal chest radiographs of the NIH Clinical Center; fourteen findings mined from the radiology reports by "
        "text processing, so that labels are noisy."
    ),
    size="112,120 images of 30,805 patients",
    access="https://nihcc.app.box.com/v/ChestXray-NIHCC, free download",
    licence="NIH Clinical Center terms: free use with attribution",
    citation=(
        "Wang X. et al., ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on Weakly-Supervised "
        "Classification and Localization of Common Thorax Diseases, CVPR 2017"
    ),
    layout={
        "Data_Entry_2017_v2020.csv": "one row per image (the 2017 file works too; 35 % of its ages differ)",
        "images/ or images_001/images/ ...": "the PNG files",
        "train_val_list.txt, test_list.txt": "the owner's split; without them patients are split by seed",
    },
    needs=(TABLES, "images*"),
    read=read,
    card=card,
    rules={
        "any_finding": "no finding against any of the fourteen",
        "fourteen_labels": "fourteen independent labels",
        "six_diseases": "six diseases that exclude each other, 200 images each, one finding and one image per patient",
    },
    hazards=(
        "Labels come from reports, not from images: agreement with adjudicated labels is moderate.",
        "The view position (AP for patients in bed) goes with severity; compare groups within a view.",
        "The 2017 table holds impossible ages such as 155; ages from 120 on count as unknown.",
    ),
    aliases=("nih", "chestxray14", "nih_cxr14"),
)
