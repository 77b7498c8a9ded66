"""TUSC, Stanford's thyroid ultrasound cine-clips: frames with the outline of the nodule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import ages, grouped, sex
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.hdf5 import frame, read_column, read_shape
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import merge_unique, read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

ARRAYS = "dataset.hdf5|dataset.h5"
INSIDE = 255  # value of the nodule in the files
CLIPS = 192
FRAMES_IN_FAIRMEDFM = 860
_SEX = {"female": ("Female", "F"), "male": ("Male", "M")}
# Numbers are whole in one file and have a point in another, where a row lacks them.
_LEVELS = {f"tr{level}": (f"{level}", f"{level}.0") for level in range(1, 6)}
_HISTOLOGY = {"benign": ("0", "0.0"), "malignant": ("1", "1.0")}
_OPTIONAL = ("ti-rads_level", "histopath_diagnosis")


def read(source: Path, choice: Choice) -> Release:
    """One row per frame, from the HDF5 file or from the prepared pictures; each clip stands for its patient."""
    original = any((source / name).is_file() for name in ARRAYS.split("|"))
    table = _from_arrays(one_of(source, ARRAYS)) if original else _from_pictures(source)
    file = one_of(source, "metadata.csv|meta.csv" if original else "meta.csv|metadata.csv")
    clips, notes = _clips(file)
    lost = sorted(set(table["patient_id"]) - set(clips["patient_id"]))
    if lost:
        message = f"{len(lost)} clips have frames but no row in {file.name}: {examples(lost)}"
        raise DatasetError(source, [Problem("missing_row", message)])
    silent = len(set(clips["patient_id"]) - set(table["patient_id"]))
    notes += (f"{silent} clips of {file.name} have no frame",) if silent else ()
    table = merge_unique(table, clips, on="patient_id", where=file)
    expected = {"patients": CLIPS} if original else {"cases": FRAMES_IN_FAIRMEDFM}
    if choice.protocol == FAIRMEDFM:
        table = table.drop(columns=["age", *_OPTIONAL]).assign(split="test")
        if original:
            notes += (f"the study tested {FRAMES_IN_FAIRMEDFM} frames; which of all is not published: all are tested",)
    version = "the owner's HDF5 file" if original else "pictures prepared by FairMedFM"
    return Release(table=table, version=version, expected=expected, notes=notes)


def _clips(file: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row per clip: ``patient_id``, sex, age and what else the table tells; and notes on what it does not."""
    raw = read_table(file, ["annot_id", "sex", "age"])
    absent = [name for name in _OPTIONAL if name not in raw]
    raw = raw.assign(patient_id=raw["annot_id"].str.rstrip("_"), **dict.fromkeys(absent, ""))
    notes = tuple(f"{file.name} has no column {name!r}: unknown" for name in absent)
    return raw[["patient_id", "sex", "age", *_OPTIONAL]], notes


def _from_pictures(source: Path) -> pd.DataFrame:
    """The prepared form: ``image/<annot_id><frame>.png`` and a mask of the same name in ``label/``."""
    names = sorted(path.name for path in (source / "image").glob("*.png"))
    parts = [name.removesuffix(".png").rpartition("_") for name in names]
    strange = [name for name, (clip, _, number) in zip(names, parts, strict=True) if not (clip and number.isdigit())]
    if strange or not names:
        what = f"but {len(strange)} are not: {examples(strange)}" if strange else "but there is none"
        message = f"pictures of image/ must be named <annot_id><frame>.png, as 103_7.png, {what}"
        raise DatasetError(source, [Problem("file_name", message)])
    cases = [name.removesuffix(".png") for name in names]
    images, masks = ([f"{folder}/{name}" for name in names] for folder in ("image", "label"))
    clips = [clip for clip, _, _ in parts]
    return pd.DataFrame({"case_id": cases, "patient_id": clips, "image": images, "mask": masks})


def _from_arrays(file: Path) -> pd.DataFrame:
    """The owner's form: one array of all frames, one of all masks, and the clip and number of each frame."""
    try:
        clips, numbers = (read_column(file, key) for key in ("annot_id", "frame_num"))
        shapes = [read_shape(file, key)[:3] for key in ("image", "mask")]
    except ValueError as error:
        raise DatasetError(file, [Problem("damaged", str(error))]) from error
    lengths = {len(clips), len(numbers), *(shape[0] for shape in shapes)}
    if len(lengths) > 1 or shapes[0] != shapes[1]:
        message = (
            f"image {shapes[0]}, mask {shapes[1]}, annot_id ({len(clips)},) and frame_num ({len(numbers)},) must have "
            "the same number of frames, image and mask the same size"
        )
        raise DatasetError(file, [Problem("geometry", message)])
    clips = [clip.rstrip("_") for clip in clips]
    cases = [f"{clip}_{number.rstrip('_')}" for clip, number in zip(clips, numbers, strict=True)]
    images = [_made(file, "image", case, index) for index, case in enumerate(cases)]
    masks = [_made(file, "mask", case, index, values=(0, INSIDE)) for index, case in enumerate(cases)]
    return pd.DataFrame({"case_id": cases, "patient_id": clips, "image": images, "mask": masks})


def _made(file: Path, key: str, case: str, index: int, **options: Any) -> Made:
    return Made(f"{key}s/{case}.png", (file.name,), frame, (("key", key), ("index", index), *options.items()))


def card(choice: Choice) -> dict[str, Any]:
    """Card; FairMedFM compares sexes alone, and takes every frame for a sample of its own."""
    attributes = sex("sex", **_SEX)
    if choice.protocol != FAIRMEDFM:
        attributes |= ages("age")
        attributes |= grouped("ti_rads", "ti-rads_level", _LEVELS, title="ACR TI-RADS level")
        attributes |= grouped("histology", "histopath_diagnosis", _HISTOLOGY, title="Histopathology")
    return {
        "task": "segmentation",
        "modality": "ultrasound",
        "spatial_dims": 2,
        **({"unit": "image"} if choice.protocol == FAIRMEDFM else {}),
        "labels": {"nodule": INSIDE},
        "attributes": attributes,
        "intersections": [["sex", "age"]] if "age" in attributes else [],
    }


DATASET = PublicDataset(
    name="tusc",
    title="TUSC (Stanford thyroid ultrasound cine-clips)",
    summary=(
        "Ultrasound cine-clips of biopsied thyroid nodules of one centre, frame by frame, with the nodule outlined by "
        "a radiologist, TI-RADS level and histopathology."
    ),
    size="192 clips of 167 patients; FairMedFM's pictures: 860 frames",
    access="https://stanfordaimi.azurewebsites.net/datasets/a72f2b02-7b53-4c5d-963c-d7253220bfd5, on registration",
    licence="Stanford University Dataset Research Use Agreement",
    citation=(
        "Yamashita R. et al., Toward Reduction in False-Positive Thyroid Nodule Biopsies with a Deep Learning-based "
        "Risk Stratification System Using US Cine-Clip Images, Radiology: Artificial Intelligence 2022"
    ),
    layout={
        "dataset.hdf5, metadata.csv": "the owner's form: arrays image, mask, annot_id, frame_num; one row per clip",
        "image/, label/, meta.csv": "FairMedFM's form: <annot_id><frame>.png, masks of the same name, one row per clip",
    },
    needs=("metadata.csv|meta.csv", f"{ARRAYS}|image"),
    read=read,
    card=card,
    rules={"nodule": "the nodule"},
    protocols={FAIRMEDFM: "FairMedFM: every frame is tested and a sample of its own, sex alone"},
    hazards=(
        "The release names clips (annot_id), not patients: its 192 clips are of 167 patients, so some patients may "
        "be in two splits.",
        "Frames of a clip are near copies of each other: intervals go by clip.",
        "Most patients are women and few nodules are malignant: some groups are small.",
    ),
    aliases=("thyroid_cine_clip", "stanford_thyroid"),
)
