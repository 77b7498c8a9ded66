"""Harvard-FairSeg: optic disc and cup in scanning laser ophthalmoscopy of the fundus, with demographics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.prepare import harvard
from fairmedfm_monai.data.prepare.attributes import grouped, sex
from fairmedfm_monai.data.prepare.folders import index_files
from fairmedfm_monai.data.prepare.made import Made
from fairmedfm_monai.data.prepare.makers.npz import label_map, picture, read_scalars
from fairmedfm_monai.data.prepare.spec import Choice, PublicDataset, Release
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors
from fairmedfm_monai.data.splits import carve_validation

ARCHIVES = "data_*.npz|*/data_*.npz|*/*/data_*.npz"
LISTS = ("lists/FairSeg_final", "SAMed/lists/FairSeg_final", "TransUNet/lists/FairSeg_final", "lists", ".")
# Names of the same array in the versions of the release, the present one first.
IMAGE_KEYS = ("slo_fundus", "fundus_slo", "fundus")
MASK_KEYS = ("disc_cup_mask", "disc_cup", "disc_cup_borders")
_RIM, _CUP = -1, -2  # in the files
_VALUES = {"rim_cup": ((0, 0), (_RIM, 1), (_CUP, 2)), "disc": ((0, 0), (_RIM, 1), (_CUP, 1))}
_LABELS = {"rim_cup": {"rim": 1, "cup": 2}, "disc": {"disc": 1}}
_OLDER_RACES = {"2": "0", "3": "1", "7": "2"}  # codes that the owner's SAMed loader expects -> those of the release
_OLDEST_AGE = 150  # years; where most ages are above it, they are days
_DAYS = {"default": 365.25, "fairmedfm": 365.25, "fairseg": 365.0}
_EXPECTED = {"cases": 10_000, "patients": 10_000}


def read(source: Path, choice: Choice) -> Release:
    """One row per npz file; its demographics stand in the file."""
    known = {name: path for name, path in index_files(source, suffixes=(".npz",)).items() if name.startswith("data_")}
    lists = _lists(source)
    if choice.protocol == "fairseg" and not lists:
        message = (
            "the protocol fairseg needs the owner's lists: put train.txt and test.txt of SAMed/lists/FairSeg_final "
            "(https://github.com/Harvard-Ophthalmology-AI-Lab/FairSeg) into lists/FairSeg_final of the release folder"
        )
        raise DatasetError(source, [Problem("missing_file", message)])
    names = sorted({*known, *lists.get("train", ()), *lists.get("test", ())})
    paths = [known.get(name, name) for name in names]
    values, notes, older = _demographics(source, paths, choice)
    cases = [name.removesuffix(".npz") for name in names]
    table = pd.DataFrame({"case_id": cases, "patient_id": cases}).join(values)
    table["image"] = [_image(case, path) for case, path in zip(cases, paths, strict=True)]
    table["mask"] = [_mask(case, path, choice.rule) for case, path in zip(cases, paths, strict=True)]
    notes += _compare(source, table)
    table, expected, split_notes = _split(source, table, names, lists, choice)
    used = {part["column"] for part in _attributes(choice).values()}
    unused = [name for name in harvard.COLUMNS if name not in used]
    return Release(
        table=table.drop(columns=unused),
        version="older files (ages in days or other codes of race)" if older else "",
        expected=_EXPECTED | expected,
        notes=(*notes, *split_notes),
    )


def _image(case: str, path: str) -> Made:
    return Made(f"images/{case}.png", (path,), picture, (("keys", IMAGE_KEYS),))


def _mask(case: str, path: str, rule: str) -> Made:
    options = (("keys", MASK_KEYS), ("values", _VALUES[rule]), ("like", IMAGE_KEYS))
    return Made(f"masks/{case}.png", (path,), label_map, options)


def _demographics(source: Path, paths: list[str], choice: Choice) -> tuple[pd.DataFrame, list[str], bool]:
    """The values inside the files as text, ages in years, races in present codes; notes; whether they were others."""
    found = read_scalars([source / path for path in paths], harvard.KEYS)
    values = pd.DataFrame([entry or {} for entry in found], columns=list(harvard.KEYS)).fillna("")
    notes = [
        f"{int((values[name] == '').sum()):,} files do not tell {name}: unknown"
        for name in values
        if (values[name] == "").any()
    ]
    older_races, age = bool(set(values["race"]) & {"3", "7"}), pd.to_numeric(values["age"], errors="coerce")
    days = bool(age.max() > _OLDEST_AGE and age.median() > _OLDEST_AGE)
    if older_races:
        values["race"] = values["race"].replace(_OLDER_RACES)
        notes.append("races 2, 3 and 7 of the older release are read as Asian, Black and White")
    if days:
        length = _DAYS[choice.protocol]
        values["age"] = values["age"].where(~(age > 0), (age / length).map("{:.2f}".format))
        notes.append(f"ages are days in this release (median {age.median():,.0f}): divided by {length:g}")
    return values, notes, older_races or days


def _compare(source: Path, table: pd.DataFrame) -> list[str]:
    """Where the owner's overview is in the folder, it must say the same as the files."""
    file = next((source / name for name in harvard.TABLES.split("|") if (source / name).is_file()), None)
    if file is None:
        return []
    overview = read_table(file, ["filename", "gender", "race"])
    overview["case_id"] = overview["filename"].str.removesuffix(".npz")
    rows = overview.drop_duplicates("case_id").set_index("case_id").reindex(table["case_id"]).fillna("")
    rows = rows.reset_index().set_index(table.index)
    problems, note = harvard.disagreements(file, rows, table, harvard.demographics())
    raise_errors(source, problems)
    return [note]


def _lists(source: Path) -> dict[str, list[str]]:
    """The owner's ``train.txt`` and ``test.txt``, from wherever they lie; empty where there are none."""
    for folder in LISTS:
        files = {part: source / folder / f"{part}.txt" for part in ("train", "test")}
        if all(file.is_file() for file in files.values()):
            return {part: file.read_text(encoding="utf-8").split() for part, file in files.items()}
    return {}


def _split(
    source: Path, table: pd.DataFrame, names: list[str], lists: dict[str, list[str]], choice: Choice
) -> tuple[pd.DataFrame, dict[str, int], tuple[str, ...]]:
    """The owner's lists; validation is an eighth of their training patients, and none under the protocol fairseg."""
    if choice.protocol == "fairmedfm":
        return table.assign(split="test"), {"split/test": 10_000}, ()
    if not lists:
        return table, {}, ("train.txt and test.txt of lists/FairSeg_final are not in the folder: split by seed",)
    file = pd.Series(names, index=table.index)
    in_train, in_test = file.isin(lists["train"]), file.isin(lists["test"])
    wrong = file[in_train == in_test]
    if len(wrong):
        message = f"{len(wrong)} files are in both lists or in neither: {examples(wrong)}"
        raise DatasetError(source, [Problem("split", message)])
    table = table.assign(split=in_test.map({True: "test", False: "train"}))
    if choice.protocol == "fairseg":
        return table, {"split/train": 8_000, "split/test": 2_000}, ()
    return carve_validation(table, seed=choice.seed, stratify=["gender", "race"]), {"split/test": 2_000}, ()


def _attributes(choice: Choice) -> dict[str, Any]:
    """All; under fairseg two groups of age and of marital status; under fairmedfm sex alone."""
    if choice.protocol == "fairmedfm":
        return sex("gender", **harvard.SEX, missing=harvard.UNKNOWN)
    attributes = harvard.demographics()
    if choice.protocol == "fairseg":
        other = [raw for group, raws in harvard.MARITAL_STATUS.items() if group != "partnered" for raw in raws]
        status = {"partnered": harvard.MARITAL_STATUS["partnered"], "other": other}
        del attributes["age_bands"]
        attributes |= grouped(
            "marital_status", "maritalstatus", status, missing=harvard.UNKNOWN, title="Marital status"
        )
    return attributes


def card(choice: Choice) -> dict[str, Any]:
    """Card: rim and cup, which exclude each other, or both together as the disc."""
    attributes = _attributes(choice)
    pairs = [["sex", "age"], ["sex", "race"]]
    return {
        "task": "segmentation",
        "modality": "slo",
        "spatial_dims": 2,
        "labels": _LABELS[choice.rule],
        "attributes": attributes,
        "intersections": [pair for pair in pairs if set(pair) <= set(attributes)],
    }


DATASET = PublicDataset(
    name="fairseg",
    title="Harvard-FairSeg",
    summary=(
        "Scanning laser ophthalmoscopy (SLO) fundus images of one eye clinic, one per patient, with masks of the rim "
        "of the optic disc and of its cup, and six demographic attributes."
    ),
    size="10,000 images of 10,000 patients",
    access="https://github.com/Harvard-Ophthalmology-AI-Lab/FairSeg, on request, non-commercial research only",
    licence=harvard.LICENCE,
    citation=(
        "Tian Y. et al., FairSeg: A Large-Scale Medical Image Segmentation Dataset for Fairness Learning Using Segment "
        "Anything Model with Fair Error-Bound Scaling, ICLR 2024"
    ),
    layout={
        "data_NNNNN.npz": "one per patient, at the top or in a folder; names of older releases are known",
        "lists/FairSeg_final/train.txt, test.txt": "the owner's split, from the code repository; else split by seed",
        "ReadMe/data_summary.csv": "the owner's overview, compared with the files where it is there",
    },
    needs=(ARCHIVES,),
    read=read,
    card=card,
    rules={
        "rim_cup": "neuroretinal rim (1) and cup (2), which exclude each other",
        "disc": "the optic disc: rim and cup together (1)",
    },
    protocols={
        "fairseg": "FairSeg: the owner's 8,000 training and 2,000 test files, no validation; married or not",
        "fairmedfm": "FairMedFM: every file is tested, sex alone",
    },
    hazards=(
        "Whether the masks were drawn by people or by a machine is not stated.",
        "Some downloads hold masks that are background everywhere: such files are refused.",
        "An older release has ages in days and other codes of race; both are recognised and told.",
        "The owner states one image per patient, so the file stands for the patient.",
    ),
    aliases=("harvard_fairseg",),
)
