"""MIMIC-CXR: chest radiographs of Beth Israel Deaconess Medical Center, with demographics from MIMIC-IV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card import Attribute
from fairmedfm_monai.data.manifest import group_column
from fairmedfm_monai.data.prepare import chexpert_labels, mimic_iv
from fairmedfm_monai.data.prepare.attributes import grouped
from fairmedfm_monai.data.prepare.balanced import FAIRMEDFM, subset_columns, with_balanced_subsets
from fairmedfm_monai.data.prepare.folders import one_of
from fairmedfm_monai.data.prepare.published import split_82
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import merge_unique, read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples
from fairmedfm_monai.data.splits import split_patients

METADATA, LABELS, SPLIT = (
    f"mimic-cxr-2*-{name}.csv|mimic-cxr-2*-{name}.csv.gz" for name in ("metadata", "chexpert", "split")
)
_PLACES = "{0}.csv|{0}.csv.gz|hosp/{0}.csv*|core/{0}.csv*|*/hosp/{0}.csv*|*/core/{0}.csv*|*/*/hosp/{0}.csv*"
PATIENTS, ADMISSIONS = _PLACES.format("patients"), _PLACES.format("admissions")
IMAGES = "files|p1*"
SEEDED = "seeded_split"
BALANCED = ("sex", "age", "race")
FRONTAL = {"ap": ["AP"], "pa": ["PA"]}
_IMAGES, _PATIENTS = 377_110, 65_379
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
# FairMedFM: images of patients that MIMIC-IV has, a fifth of the smaller sex of each sex in the test set.
_PUBLISHED = {
    "cases": 357_542,
    "sex/male": 186_739,
    "sex/female": 170_803,
    "class/no_finding": 115_825,
    "class/finding": 241_717,
    "split/train": 289_222,
    "split/test": 68_320,
}


def read(source: Path, choice: Choice) -> Release:
    """One row per radiograph, from the owner's tables and those of MIMIC-IV."""
    file = one_of(source, METADATA)
    raw = read_table(file, ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"])
    raw = raw[["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate"]]
    counted = (
        f"{file.name} lists {len(raw):,} images of {raw['subject_id'].nunique():,} patients (the whole release: "
        f"{_IMAGES:,} of {_PATIENTS:,})"
    )
    published = choice.protocol == FAIRMEDFM
    raw, labelled = _with_labels(source, raw, keep_absent=published)
    raw, kept = _kept_views(raw) if not published else (raw, ())
    patients, admissions = one_of(source, PATIENTS), one_of(source, ADMISSIONS)
    people = mimic_iv.read_people(patients, admissions, raw["subject_id"], published=published)
    raw = raw.join(people.table, on="subject_id")
    truth, told = chexpert_labels.truth(raw, choice.rule)
    raw = raw.loc[truth.index].drop(columns=list(chexpert_labels.FINDINGS))
    table = _case_columns(source, raw).join(truth).reset_index(drop=True)
    notes = (counted, *labelled, *kept, *people.notes, *told)
    version = "2.1.0" if any(source.glob("mimic-cxr-2.1.0-*")) else "2.0.0"
    version = f"MIMIC-CXR-JPG {version}, MIMIC-IV with {people.size:,} patients"
    if published:
        return _published(table, version, notes, choice)
    table["age"] = mimic_iv.ages_at(file, table, table["StudyDate"].str[:4])
    oldest = int((table["anchor_age"] == str(mimic_iv.OLDEST_ANCHOR)).sum())
    notes += (f"{oldest:,} images are of patients above 89 years, given as 91: their ages are not exact",)
    table, split = _split(source, table.drop(columns=["StudyDate", "anchor_age", "anchor_year"]), choice)
    groups = mimic_iv.two_groups(published=False)
    table, sizes = with_balanced_subsets(table, groups, seed=choice.seed, names=BALANCED)
    return Release(table=table, version=version, notes=(*notes, *split, sizes))


def _with_labels(source: Path, raw: pd.DataFrame, *, keep_absent: bool) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Join the labels by study; a study that is absent is something else than one that mentions nothing."""
    file = one_of(source, LABELS)
    keys = ["subject_id", "study_id"]
    labels = read_table(file, [*keys, *chexpert_labels.FINDINGS])[[*keys, *chexpert_labels.FINDINGS]]
    chexpert_labels.check_cells(file, labels)
    raw = merge_unique(raw, labels.assign(labelled="yes"), on=keys, where=file)
    absent = raw.pop("labelled") == ""
    what = f"{int(absent.sum()):,} images are of {raw['study_id'][absent].nunique():,} studies that {file.name} lacks"
    if keep_absent:
        return raw, (f"{what}: without a finding mentioned, as published",)
    return raw[~absent].reset_index(drop=True), (f"{what}: left out",)


def _kept_views(raw: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    frontal = raw["ViewPosition"].isin([view for views in FRONTAL.values() for view in views])
    counts = raw["ViewPosition"][~frontal].replace("", "not stated").value_counts()
    listed = ", ".join(f"{view} {number:,}" for view, number in counts.items())
    note = f"{int((~frontal).sum()):,} images that are neither AP nor PA views are left out: {listed or 'none'}"
    return raw[frontal].reset_index(drop=True), (note,)


def _case_columns(source: Path, raw: pd.DataFrame) -> pd.DataFrame:
    top = "files/" if (source / "files").is_dir() else ""
    subject, study = raw["subject_id"], raw["study_id"]
    path = top + "p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + raw["dicom_id"] + ".jpg"
    return raw.assign(image=path).rename(columns={"dicom_id": "case_id", "subject_id": "patient_id"})


def _split(source: Path, table: pd.DataFrame, choice: Choice) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The owner's split, by patient; or a seeded one."""
    try:
        file = one_of(source, SPLIT)
    except DatasetError:
        file = None
    if file is None or choice.protocol == SEEDED:
        stratify = [*chexpert_labels.stratify(choice.rule), "gender", "race"]
        why = "as chosen" if file else "the folder has no split table"
        return split_patients(table, seed=choice.seed, stratify=stratify), (f"patients are split by seed: {why}",)
    owner = read_table(file, ["dicom_id", "split"])[["dicom_id", "split"]].rename(columns={"dicom_id": "case_id"})
    table = merge_unique(table, owner, on="case_id", where=file)
    strange = table[~table["split"].isin(_SPLITS)]
    if len(strange):
        listed = examples(strange["case_id"] + ": " + strange["split"].map(repr))
        message = f"column 'split' must hold {', '.join(_SPLITS)} for every image, but {len(strange)} differ: {listed}"
        raise DatasetError(file, [Problem("split", message)])
    return table.assign(split=table["split"].map(_SPLITS)), ()


def _published(table: pd.DataFrame, version: str, notes: tuple[str, ...], choice: Choice) -> Release:
    """Rows, groups and split of FairMedFM (Jin et al., NeurIPS 2024)."""
    kept = table[table["gender"] != ""].reset_index(drop=True)
    groups = mimic_iv.two_groups(published=True)
    sexes = group_column(Attribute.from_dict("sex", groups["sex"]), kept)
    kept["split"] = split_82(kept.assign(group=sexes), sex="group")
    both = kept.groupby("patient_id")["split"].nunique().gt(1)
    notice = (
        f"{chexpert_labels.POSITIVE_IS_NORMAL} The test set is drawn by image, as published: {int(both.sum()):,} of "
        f"{len(both):,} patients have images in both training and test set, and there is no validation set."
    )
    kept = kept.rename(columns={"patient_id": "subject_id", "anchor_age": "age"}).assign(patient_id=kept["case_id"])
    kept = kept.drop(columns=["StudyDate", "anchor_year"])
    kept, sizes = with_balanced_subsets(kept, groups, seed=choice.seed, published=True, names=BALANCED)
    left = f"{len(table) - len(kept):,} images of patients without a sex are left out, as published"
    return Release(table=kept, version=version, expected=_PUBLISHED, notes=(*notes, left, sizes), notice=notice)


def card(choice: Choice) -> dict[str, Any]:
    """Card for a label rule."""
    attributes = {
        **mimic_iv.attributes(),
        **grouped("view", "ViewPosition", FRONTAL, title="View position"),
    }
    extra = ["study_id"]
    if choice.protocol == FAIRMEDFM:
        attributes, extra = mimic_iv.two_groups(published=True), ["study_id", "subject_id", "ViewPosition"]
    return {
        "task": "classification",
        "modality": "xray",
        "spatial_dims": 2,
        **chexpert_labels.card_parts(choice.rule),
        "attributes": attributes,
        "intersections": [["sex", "age"], ["sex", "race"]],
        "extra_columns": [*extra, *subset_columns(BALANCED)],
    }


DATASET = PublicDataset(
    name="mimic_cxr",
    title="MIMIC-CXR",
    summary=(
        "Chest radiographs of the emergency department of Beth Israel Deaconess Medical Center, Boston, 2011 to 2016 "
        "(MIMIC-CXR-JPG); findings mined from the reports, demographics from the hospital records of MIMIC-IV."
    ),
    size="377,110 images of 65,379 patients",
    access="https://physionet.org/content/mimic-cxr-jpg/ and https://physionet.org/content/mimiciv/, after training",
    licence="PhysioNet Credentialed Health Data License 1.5.0",
    citation=(
        "Johnson A.E.W. et al., MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs, "
        "arXiv 1901.07042, 2019; Johnson A.E.W. et al., MIMIC-IV, Scientific Data 2023"
    ),
    layout={
        "mimic-cxr-2.0.0-metadata.csv": "one row per image (.csv.gz works too, as for all tables)",
        "mimic-cxr-2.0.0-chexpert.csv": "findings per study",
        "mimic-cxr-2.0.0-split.csv": "the owner's split; without it patients are split by seed",
        "patients.csv, admissions.csv": "of MIMIC-IV; or its folder hosp/ (core/ in version 1)",
        "files/pNN/pNNNNNNNN/sNNNNNNNN/DICOM_ID.jpg": "the images; or the folders pNN without files/",
    },
    needs=(METADATA, LABELS, PATIENTS, ADMISSIONS, IMAGES),
    read=read,
    card=card,
    rules=chexpert_labels.RULES,
    protocols={
        FAIRMEDFM: (
            "FairMedFM: positive means normal, all views, split by image, no validation; age in the anchor year, race "
            "of the first admission, White or not (unknown included)"
        ),
        SEEDED: "patients split by seed: the owner's test set has a few hundred patients, too few for small groups",
    },
    protocol_rules={FAIRMEDFM: "no_finding"},
    hazards=(
        "Labels come from reports, not from images.",
        "The false-positive rate means over-diagnosis where the positive class is finding, under-diagnosis where it is "
        "no_finding.",
        "Only AP and PA views are kept by default. AP views are of patients in bed: compare groups within a view.",
        "Race, language, insurance and marital status are those of hospital admissions; where these contradict each "
        "other, or where there is none, they are unknown.",
        "Until MIMIC-IV 2.2 every language but English is '?', which is unknown here.",
        "Ages are counted in shifted years; above 89 they are not exact.",
    ),
    aliases=("mimic", "mimic-cxr", "mimic_cxr_jpg"),
)
