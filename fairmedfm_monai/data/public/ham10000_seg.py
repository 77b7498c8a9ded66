"""HAM10000 with lesion masks: outlines of the lesions in the same dermatoscopic images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairmedfm_monai.data.prepare.attributes import grouped
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.public import ham10000

MASKS = "HAM10000_segmentations*|masks|label"
INSIDE = 255  # value of the lesion in the files


def read(source: Path, choice: Choice) -> Release:
    """One row per image, with its mask as it lies in the release."""
    table, version, notes = ham10000.read_metadata(source)
    masks, copies = ham10000.find_files(source, MASKS.split("|"), "_segmentation.png")
    names = table["case_id"] + "_segmentation.png"
    table["mask"] = [masks.get(name, f"HAM10000_segmentations_lesion_tschandl/{name}") for name in names]
    expected = ham10000.EXPECTED | ham10000.site_counts(table)
    if choice.protocol == FAIRMEDFM:
        table = table.drop(columns=["dx", "age", "dataset"]).assign(split="test")
        expected = {"cases": 10_015, "sex/female": 4_552, "sex/male": 5_463, "split/test": 10_015}
    return Release(table=table, version=version, expected=expected, notes=(*notes, *copies))


def card(choice: Choice) -> dict[str, Any]:
    """Card; FairMedFM compares sexes alone, and its code takes every value but ``female`` for male."""
    attributes = ham10000.demographics()
    if choice.protocol == FAIRMEDFM:
        attributes = {"sex": attributes["sex"]}
        attributes["sex"]["groups"]["male"] += attributes["sex"].pop("missing")
    else:
        diagnoses = {name: [name] for name in ham10000.DIAGNOSES}
        attributes |= grouped("diagnosis", "dx", diagnoses, title="Diagnosis")
    return {
        "task": "segmentation",
        "modality": "dermoscopy",
        "spatial_dims": 2,
        "labels": {"lesion": INSIDE},
        "attributes": attributes,
        "intersections": [["sex", "age"]] if "age" in attributes else [],
    }


DATASET = PublicDataset(
    name="ham10000_seg",
    title="HAM10000 with lesion masks",
    summary=(
        "The dermatoscopic images of HAM10000, with the outline of the lesion in each, and with its diagnosis as a "
        "further group."
    ),
    size="10,015 images of 7,470 lesions",
    access=ham10000.ACCESS,
    licence=ham10000.LICENCE,
    citation=(
        f"{ham10000.CITATION}; masks: Tschandl P. et al., Human-computer collaboration for skin cancer recognition, "
        "Nature Medicine 2020"
    ),
    layout={
        **ham10000.LAYOUT,
        "HAM10000_segmentations_lesion_tschandl/": "<image_id>_segmentation.png, 255 inside; or masks/, or label/",
    },
    needs=(ham10000.TABLES, ham10000.IMAGES, MASKS),
    read=read,
    card=card,
    rules={"lesion": "the lesion"},
    protocols={FAIRMEDFM: "FairMedFM: every image is tested, sex alone, unknown sex counts as male"},
    hazards=(
        *ham10000.HAZARDS,
        "Which masks were drawn by hand and which were taken over from a network is not told per image.",
    ),
    aliases=("ham_seg", "ham10000-seg"),
)
