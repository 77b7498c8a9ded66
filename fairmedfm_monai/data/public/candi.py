"""CANDI Share (Schizophrenia Bulletin 2008): brain MRI of children and adolescents with anatomical label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare.attributes import age_bands, grouped, sex
from fairmedfm_monai.data.prepare.folders import index_files, one_of
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

# Name of the table -> start of its subjects' names, and how many there are.
GROUPS = {"HC": ("HC", 29), "SS": ("SS", 20), "BPDwithPsy": ("BPDwPsy", 19), "BPDwithoutPsy": ("BPDwoPsy", 35)}
TABLES = tuple(f"{name}_Basic_Demographics.csv|*/{name}_Basic_Demographics.csv" for name in GROUPS)
COLUMNS = ("Subject", "Gender", "Age", "Handedness")
AGE_CUTS = (10, 13)  # ours, for three groups of about the same size: subjects are 4 to 17 years old
# FreeSurfer's ids and names; sides by id: the right one of a pair.
_PAIRS = {
    "cerebral_white_matter": (2, 41),
    "cerebral_cortex": (3, 42),
    "lateral_ventricle": (4, 43),
    "inferior_lateral_ventricle": (5, 44),
    "cerebellum_white_matter": (7, 46),
    "cerebellum_cortex": (8, 47),
    "thalamus": (10, 49),
    "caudate": (11, 50),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "accumbens": (26, 58),
    "ventral_diencephalon": (28, 60),
    "vessel": (30, 62),
}
_MIDLINE = {"third_ventricle": 14, "fourth_ventricle": 15, "brain_stem": 16, "cerebrospinal_fluid": 24}
_TARGETS = (2, 3, 4, 16, 41, 42, 43)


def labels(rule: str) -> dict[str, int]:
    """Label -> value in the masks, by value."""
    sides = {f"{side}_{name}": ids[at] for name, ids in _PAIRS.items() for at, side in enumerate(("left", "right"))}
    found = dict(sorted((sides | _MIDLINE).items(), key=lambda item: item[1]))
    return {name: value for name, value in found.items() if rule == "all" or value in _TARGETS}


def read(source: Path, choice: Choice) -> Release:
    """One row per subject, from the four tables."""
    files = {name: one_of(source, table) for name, table in zip(GROUPS, TABLES, strict=True)}
    raw = pd.concat(
        [read_table(file, COLUMNS).assign(diagnosis=name) for name, file in files.items()], ignore_index=True
    )
    _check_names(source, raw)
    known = index_files(source, suffixes=("_procimg.nii.gz", "_seg.nii.gz"))
    table = raw.rename(columns={"Subject": "case_id"}).assign(patient_id=raw["Subject"])
    for column, ending in (("image", "procimg"), ("mask", "seg")):
        names = raw["Subject"].map(lambda subject, ending=ending: f"{subject}_{ending}.nii.gz")
        table[column] = [known.get(name, f"{case}/{name}") for name, case in zip(names, raw["Subject"], strict=True)]
    expected = {"cases": 103, "patients": 103}
    if choice.protocol == "fairmedfm":
        table = table.assign(split="test").drop(columns=["Age", "Handedness", "diagnosis"])
        return Release(table=table, expected=expected | {"split/test": 103})
    counts = {f"diagnosis/{_SLUGS[name]}": number for name, (_, number) in GROUPS.items()}
    note = f"age groups are ours, fixed at {AGE_CUTS[0]} and {AGE_CUTS[1]} years; no publication names any"
    return Release(table=table, expected=expected | counts, notes=(note,))


_SLUGS = {
    "HC": "control",
    "SS": "schizophrenia",
    "BPDwithPsy": "bipolar_with_psychosis",
    "BPDwithoutPsy": "bipolar_without_psychosis",
}


def _check_names(source: Path, raw: pd.DataFrame) -> None:
    """A subject's name starts with the group whose table it stands in.

    Raises:
        DatasetError: names that do not.
    """
    start = raw["Subject"].str.rpartition("_")[0]
    wrong = raw[start != raw["diagnosis"].map({name: prefix for name, (prefix, _) in GROUPS.items()})]
    if len(wrong):
        listed = examples(f"{row.Subject!r} in {row.diagnosis}" for row in wrong.itertuples())
        message = f"{len(wrong)} subjects stand in the table of another group than their name says: {listed}"
        raise DatasetError(source, [Problem("disagreement", message)])


def card(choice: Choice) -> dict[str, Any]:
    """Card: seven structures or all thirty-four; under the protocol sex alone."""
    attributes = sex("Gender", female=["female", "Female", "F"], male=["male", "Male", "M"])
    intersections: list[list[str]] = []
    if choice.protocol != "fairmedfm":
        hands = {"right": ["RH", "R", "Right"], "left": ["LH", "L", "Left"], "mixed": ["AH", "MH", "A", "Mixed"]}
        attributes |= {
            **age_bands("age", "Age", AGE_CUTS),
            **grouped("handedness", "Handedness", hands, missing=["NA", "N/A", "unknown", "Unknown"]),
            **grouped("diagnosis", "diagnosis", {slug: [name] for name, slug in _SLUGS.items()}),
        }
        intersections = [["sex", "age"], ["sex", "diagnosis"]]
    return {
        "task": "segmentation",
        "modality": "mri",
        "spatial_dims": 3,
        "labels": labels(choice.rule),
        "attributes": attributes,
        "intersections": intersections,
    }


DATASET = PublicDataset(
    name="candi",
    title="CANDI Share, Schizophrenia Bulletin 2008",
    summary=(
        "T1-weighted brain MRI of children and adolescents: healthy, with a schizophrenia spectrum disorder, or with "
        "bipolar disorder with or without psychosis; label maps of anatomical structures, drawn half by hand."
    ),
    size="103 volumes of 103 subjects (29 healthy, 20 schizophrenia spectrum, 19 and 35 bipolar)",
    access="https://www.nitrc.org/projects/candi_share, free download after registration",
    licence="as stated on its NITRC page",
    citation=(
        "Frazier J. A. et al., Diagnostic and Sex Effects on Limbic Volumes in Early-Onset Bipolar Disorder and "
        "Schizophrenia, Schizophrenia Bulletin 34(1), 2008; Kennedy D. N. et al., CANDIShare: A Resource for Pediatric "
        "Neuroimaging Data, Neuroinformatics 10(3), 2012"
    ),
    layout={
        "<group>_Basic_Demographics.csv": "for HC, SS, BPDwithPsy, BPDwithoutPsy, at the top or in the group's folder",
        "<Subject>/<Subject>_procimg.nii.gz, <Subject>_seg.nii.gz": "volume and label map, at any depth",
    },
    needs=TABLES,
    read=read,
    card=card,
    rules={
        "targets": "the seven structures of FairMedFM: white matter, cortex and lateral ventricle of both sides, stem",
        "all": "all thirty-four structures that the release labels",
    },
    protocols={
        "fairmedfm": (
            "FairMedFM: every subject is tested, sex alone; its preparation makes pictures of slices across the second "
            "axis (as many as the last axis is long) and pools them, here volumes stay volumes"
        )
    },
    hazards=(
        "Diagnoses have different ages and shares of sexes: compare groups within a diagnosis.",
        "Subjects are 4 to 17 years old, so that an age cut at 60 is meaningless: three bands, cut at 10 and 13 years.",
        "Under the rule targets other structures count as background, and validation tells that masks hold them.",
        "Label ids 29, 61, 72, 77 and 85 of FreeSurfer's table do not occur in the release by FairMedFM's list.",
    ),
    aliases=("candishare", "candi_share"),
)
