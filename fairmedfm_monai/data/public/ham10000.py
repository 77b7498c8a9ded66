"""HAM10000: dermatoscopic images of pigmented skin lesions with seven diagnoses, several images per lesion."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card import Attribute
from fairmedfm_monai.data.manifest import group_column
from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, subset_columns, with_balanced_subsets
from fairmedfm_monai.data.prepare.folders import index_files, one_of
from fairmedfm_monai.data.prepare.published import split_82
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import split_patients

TABLES = "HAM10000_metadata|HAM10000_metadata.csv|HAM10000_metadata.tab"
IMAGES = "HAM10000_images*|ham10000_images*|images|image|*.jpg"
LICENCE = "CC-BY-NC-4.0"
ACCESS = "https://doi.org/10.7910/DVN/DBW86T, free download for non-commercial use"
CITATION = (
    "Tschandl P. et al., The HAM10000 dataset, a large collection of multi-source dermatoscopic images of common "
    "pigmented skin lesions, Scientific Data 2018"
)
DIAGNOSES = {
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}
SOURCES = ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias")
LAYOUT = {
    "HAM10000_metadata": "one row per image, with or without the ending .csv or .tab",
    "HAM10000_images_part_1/, HAM10000_images_part_2/": "the JPEG files; or images/, or image/",
}
HAZARDS = (
    "There is no patient id: lesion_id takes its place, and a patient with several lesions may be in two splits.",
    "Ages are rounded to five years; 39 images have the age 0.",
    "Diagnoses, sexes and ages differ between the four sources, and so do their cameras: compare within a source.",
)
EXPECTED = {"cases": 10_015, "patients": 7_470, "sex/female": 4_552, "sex/male": 5_406, "sex/unknown": 57}
SITES = {"rosendahl": 2_259, "vidir_modern": 3_363, "vidir_molemax": 3_954, "vienna_dias": 439}
_SEX = {"female": ("female", "F"), "male": ("male", "M")}
_IMAGES = {"akiec": 327, "bcc": 514, "bkl": 1_099, "df": 115, "mel": 1_113, "nv": 6_705, "vasc": 142}
_POSITIVE = {"malignant": ("akiec", "bcc", "mel"), "akiec_mel": ("akiec", "mel")}
# Of the 9,958 images with an age, which is how the published code begins.
_PUBLISHED = {
    "cases": 9_958,
    "sex/female": 4_548,
    "sex/male": 5_400,
    "sex/unknown": 10,
    "class/malignant": 1_438,
    "class/benign": 8_520,
}


def read_metadata(source: Path) -> tuple[pd.DataFrame, str, tuple[str, ...]]:
    """Rows of both tasks, from the owner's table.

    Returns:
        ``case_id``, ``patient_id`` (the lesion), ``image``, ``dx``, ``sex``, ``age`` and ``dataset`` (the source, empty
        where the table does not tell it); the version; and notes.
    """
    raw = read_table(one_of(source, TABLES), ["lesion_id", "image_id", "dx", "age", "sex|sexBinary"])
    paths, notes = find_files(source, ("HAM10000_images*", "ham10000_images*", "images", "image"), ".jpg")
    raw["case_id"], raw["patient_id"] = raw["image_id"], raw["lesion_id"]
    raw["image"] = [paths.get(f"{name}.jpg", f"HAM10000_images_part_1/{name}.jpg") for name in raw["image_id"]]
    version = "table with the source of each image"
    if "dataset" not in raw:
        version, raw["dataset"] = "table without the source of each image", ""
        notes += ("the table has no column 'dataset': site unknown",)
    return raw[["case_id", "patient_id", "image", "dx", "sex", "age", "dataset"]], version, notes


def find_files(source: Path, folders: Iterable[str], ending: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """File name -> path inside the release, from the first of some folders (or its top) that has it; a note on copies.

    Archives on public platforms hold some folders twice, so that a name in two of them is no fault.
    """
    found = {path.name: path.name for path in source.glob(f"*{ending}")}
    copies = 0
    for folder in dict.fromkeys(path.name for name in folders for path in sorted(source.glob(name)) if path.is_dir()):
        inside = index_files(source, below=(folder,), suffixes=(ending,))
        copies += len(found.keys() & inside.keys())
        found = inside | found
    return found, (f"{copies:,} files stand in two folders: the first is used",) if copies else ()


def demographics() -> dict[str, Any]:
    """The card's attributes of both tasks."""
    return {
        **sex("sex", **_SEX, missing=("unknown",)),
        **ages("age", missing=("unknown",)),
        **grouped("site", "dataset", {name: [name] for name in SOURCES}, title="Source"),
    }


def site_counts(table: pd.DataFrame) -> dict[str, int]:
    """The known counts of the sources, where the table tells them."""
    return {f"site/{name}": number for name, number in SITES.items()} if (table["dataset"] != "").any() else {}


def read(source: Path, choice: Choice) -> Release:
    """One row per image, with the class of its diagnosis."""
    table, version, notes = read_metadata(source)
    strange = table["dx"][~table["dx"].isin(list(DIAGNOSES))].value_counts()
    if len(strange):
        listed = examples(f"{value!r} ({number})" for value, number in strange.items())
        message = f"column 'dx' must hold one of {', '.join(DIAGNOSES)}, but got {listed}"
        raise DatasetError(one_of(source, TABLES), [Problem("label", message)])
    table["label"] = table["dx"]
    if choice.rule in _POSITIVE:
        table["label"] = table["dx"].isin(_POSITIVE[choice.rule]).map({True: "malignant", False: "benign"})
    if choice.protocol == FAIRMEDFM:
        return _published(table, version, notes, choice)
    table = split_patients(table, seed=choice.seed, stratify=["label", "sex"])
    table, sizes = with_balanced_subsets(table, demographics(), seed=choice.seed)
    table = table.drop(columns="dx")
    expected = {f"class/{name}": number for name, number in _class_counts(choice).items()}
    expected |= EXPECTED | site_counts(table)
    return Release(table=table, version=version, expected=expected, notes=(*notes, sizes))


def _published(table: pd.DataFrame, version: str, notes: tuple[str, ...], choice: Choice) -> Release:
    """Rows, groups and split of FairMedFM (Jin et al., NeurIPS 2024); of the split only the rule is public."""
    kept = table[table["age"] != ""].reset_index(drop=True)
    dropped = f"{len(table) - len(kept)} images without age are left out, as in the published code"
    groups = group_column(Attribute.from_dict("sex", demographics()["sex"]), kept)
    kept["split"] = split_82(kept.assign(group=groups), sex="group")
    both = kept.groupby("patient_id")["split"].nunique().gt(1)
    notice = (
        "The test set is drawn by FairMedFM's published rule (as many images of women as of men, by image); the list "
        "that the authors used (907 images of women, 904 of men) is not part of the release. "
        f"{int(both.sum()):,} of {len(both):,} lesions have images in both training and test set, and each image "
        "stands for a patient, so that intervals are too narrow; there is no validation set."
    )
    kept = kept.rename(columns={"patient_id": "lesion_id"}).assign(patient_id=kept["case_id"])
    kept, sizes = with_balanced_subsets(kept, demographics(), seed=choice.seed, published=True)
    kept = kept.drop(columns=["dx", "dataset"])
    return Release(table=kept, version=version, expected=_PUBLISHED, notes=(*notes, dropped, sizes), notice=notice)


def _class_counts(choice: Choice) -> dict[str, int]:
    if choice.rule == "seven":
        return _IMAGES
    malignant = sum(_IMAGES[name] for name in _POSITIVE[choice.rule])
    return {"malignant": malignant, "benign": sum(_IMAGES.values()) - malignant}


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule; under FairMedFM two groups of sex and of age."""
    classes = {
        "benign": ["a photo of a benign lesion", "a dermatoscopic image of a benign skin lesion"],
        "malignant": ["a photo of a malignant lesion", "a dermatoscopic image of a malignant skin lesion"],
    }
    if choice.rule == "seven":
        words = DIAGNOSES.items()
        classes = {name: [f"a photo of a {text}", f"a dermatoscopic image of a {text}"] for name, text in words}
    attributes, extra = demographics(), subset_columns()
    if choice.protocol == FAIRMEDFM:
        attributes, extra = {name: attributes[name] for name in ("sex", "age")}, [*extra, "lesion_id"]
    return {
        "task": "classification",
        "modality": "dermoscopy",
        "spatial_dims": 2,
        "classes": classes,
        **({} if choice.rule == "seven" else {"positive_class": "malignant"}),
        "attributes": attributes,
        "intersections": [["sex", "age"]],
        "extra_columns": extra,
    }


DATASET = PublicDataset(
    name="ham10000",
    title="HAM10000",
    summary=(
        "Dermatoscopic images of pigmented skin lesions of patients in Vienna and Queensland, with one of seven "
        "diagnoses; many lesions were photographed more than once."
    ),
    size="10,015 images of 7,470 lesions",
    access=ACCESS,
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    needs=(TABLES, IMAGES),
    read=read,
    card=card,
    rules={
        "malignant": "akiec, bcc and mel against the others",
        "akiec_mel": "akiec and mel against the others: basal cell carcinoma counts as benign, as in FairMedFM",
        "seven": "the seven diagnoses",
    },
    protocols={
        FAIRMEDFM: (
            "FairMedFM: images with a known age, split by image after its rule (its own list is not part of the "
            "release), no validation, sex and age alone"
        )
    },
    protocol_rules={FAIRMEDFM: "akiec_mel"},
    hazards=(
        *HAZARDS,
        "Malignant diagnoses are confirmed by histology, many benign ones by follow-up or consensus only.",
    ),
    aliases=("ham", "isic2018"),
)
