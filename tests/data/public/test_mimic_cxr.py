"""MIMIC-CXR: the miniature release with the tables of MIMIC-IV."""

from __future__ import annotations

import csv
import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.mimic_cxr import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("mimic") / "raw")


def _rows(raw: Path, name: str) -> Iterator[dict[str, str]]:
    """Rows of a table, read without this project."""
    with gzip.open(next(raw.glob(f"{name}.csv.gz")), "rt", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def _labels(raw: Path) -> dict[str, dict[str, str]]:
    return {row["study_id"]: row for row in _rows(raw, "mimic-cxr-2.0.0-chexpert")}


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, _ = prepared("mimic", raw, tmp_path / "out")
    labels = _labels(raw)
    people = {row["subject_id"]: row for row in _rows(raw, "hosp/patients")}
    split = {row["dicom_id"]: row["split"] for row in _rows(raw, "mimic-cxr-2.0.0-split")}
    table = info.table.set_index("case_id")
    wanted = [
        row
        for row in _rows(raw, "mimic-cxr-2.0.0-metadata")
        if row["ViewPosition"] in ("AP", "PA") and row["study_id"] in labels
    ]
    assert set(table.index) == {row["dicom_id"] for row in wanted}
    for row in wanted:
        got, subject = table.loc[row["dicom_id"]], row["subject_id"]
        assert got["patient_id"] == subject
        assert got["label"] == (0 if labels[row["study_id"]]["No Finding"] == "1.0" else 1)
        assert got["split"] == {"train": "train", "validate": "val", "test": "test"}[split[row["dicom_id"]]]
        assert got["view"] == row["ViewPosition"].lower()
        sex, age = "unknown", "unknown"
        if subject in people:
            sex = {"F": "female", "M": "male"}[people[subject]["gender"]]
            years = int(people[subject]["anchor_age"]) + int(row["StudyDate"][:4]) - int(people[subject]["anchor_year"])
            age = "ge60" if years >= 60 else "lt60"
        assert (got["sex"], got["age"]) == (sex, age)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"black", "chinese", "private", "divorced", "female__ge60"} <= set(subgroups["group"])


def test_one_value_per_patient_over_all_admissions(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("mimic_cxr", raw, tmp_path / "out")
    seen = info.table.drop_duplicates("patient_id").set_index("patient_id")
    names = ["race", "language", "insurance", "marital_status"]
    expected = {
        7: ["white", "unknown", "medicare", "unknown"],  # WHITE and WHITE - RUSSIAN agree, the rest does not
        1: ["black", "english", "medicaid", "single"],  # UNKNOWN beside an answer says nothing
        2: ["asian", "chinese", "private", "married"],
        10: ["unknown", "unknown", "unknown", "divorced"],  # an empty cell beside an answer says nothing, either
        4: ["unknown", "unknown", "other", "single"],  # declined; "?"
        12: ["unknown"] * 4,  # never admitted
        6: ["other", "other", "private", "divorced"],
    }
    for number, values in expected.items():
        assert list(seen.loc[str(10_000_000 + number), names]) == values, number
    text = "\n".join(result.summary)
    assert "'PATIENT DECLINED TO ANSWER'" in text
    assert "'conflicting'" in text


def test_what_is_absent_is_told_from_what_is_not_mentioned(raw: Path, tmp_path: Path) -> None:
    info, result = prepared("mimic", raw, tmp_path / "out", rule="fourteen_labels")
    labels = _labels(raw)
    studies = pd.read_csv(info.root / "manifest.csv", dtype=str).set_index("case_id")["study_id"]
    for case, value in info.table.set_index("case_id")["label_edema"].items():
        assert value == (labels[studies[case]]["Edema"] == "1.0")  # empty and uncertain are 0
    absent = [row for row in _rows(raw, "mimic-cxr-2.0.0-metadata") if row["study_id"] not in labels]
    assert len(absent) == 2
    text = "\n".join(result.summary)
    assert "2 images are of 1 studies that mimic-cxr-2.0.0-chexpert.csv.gz lacks: left out" in text
    assert "3 images are of patients that patients.csv.gz lacks" in text
    assert "1 images are of patients above 89" in text
    assert "MIMIC-CXR-JPG 2.0.0, MIMIC-IV with 41 patients" in result.summary[0]


def test_published_protocol_draws_as_published(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("mimic", raw, tmp_path / "out", protocol="fairmedfm")
    people = {row["subject_id"]: row for row in _rows(raw, "hosp/patients")}
    images = {row["dicom_id"]: row["subject_id"] for row in _rows(raw, "mimic-cxr-2.0.0-metadata")}
    sexes = {dicom: people[subject]["gender"] for dicom, subject in images.items() if subject in people}
    assert set(info.table["case_id"]) == set(sexes)  # all views, and the study without labels
    number = min(int(0.2 * list(sexes.values()).count(sex)) for sex in "MF")
    test: set[str] = set()
    for sex in "MF":
        names = np.unique([dicom for dicom, own in sexes.items() if own == sex])
        test |= set(train_test_split(names, test_size=number, random_state=0)[1])
    assert set(info.table.loc[info.table["split"] == "test", "case_id"]) == test
    both = {images[dicom] for dicom in test} & {images[dicom] for dicom in set(sexes) - test}
    assert f"{len(both)} of {len(set(map(images.get, sexes)))} patients have images in both" in str(info.notice)
    first: dict[str, str] = {}
    for row in _rows(raw, "hosp/admissions"):
        first.setdefault(row["subject_id"], row["race"])
    for case, race in info.table.set_index("case_id")["race"].items():
        told = first.get(images[str(case)])
        assert race == ("unknown" if told is None else "white" if "WHITE" in told else "non_white")
    manifest = pd.read_csv(info.root / "manifest.csv")
    young = manifest[manifest["fairmedfm_test_age"] == 1]["age"] <= 60  # published: 60 is young in the subsets
    assert young.mean() == 0.5


def test_seeded_split_and_unpacked_tables_beside_the_images(tmp_path: Path) -> None:
    source = make(tmp_path / "raw", packed=False)
    for name in ("patients", "admissions"):
        (source / "hosp" / f"{name}.csv").rename(source / f"{name}.csv")
    (source / "files" / "p10").rename(source / "p10")
    (source / "files").rmdir()
    info, result = prepared("mimic", source, tmp_path / "out", protocol="seeded_split", seed=3)
    assert set(info.table["split"]) == {"train", "val", "test"}
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    assert any("split by seed: as chosen" in line for line in result.summary)
    (source / "mimic-cxr-2.0.0-split.csv").unlink()
    _, result = prepared("mimic", source, tmp_path / "other")
    assert any("split by seed: the folder has no split table" in line for line in result.summary)


def _edit(file: Path, old: str, new: str, count: int = 1) -> None:
    text = gzip.decompress(file.read_bytes()).decode()
    assert old in text
    file.write_bytes(gzip.compress(text.replace(old, new, count).encode()))


@pytest.mark.parametrize(
    ("table", "old", "new", "told"),
    [
        ("hosp/admissions", "BLACK/AFRICAN AMERICAN", "AFRICAN", r"'race': the card maps no group to 'AFRICAN' \(1\)"),
        ("hosp/patients", ",M,", ",X,", r"'X' \("),
        ("hosp/patients", ",51,2150", ",old,2150", "anchor_age must be a number"),
        ("hosp/patients", "\n10000002,", "\n10000001,", "must be unique, but stands twice: 10000001"),
        ("hosp/admissions", "marital_status", "marital", "lacks the column 'marital_status'"),
        ("mimic-cxr-2.0.0-chexpert", ",1.0,", ",3,", "must hold 1, 0, -1 or nothing"),
        ("mimic-cxr-2.0.0-split", "validate", "valid", "column 'split' must hold train, validate, test"),
    ],
)
def test_faults_stop(table: str, old: str, new: str, told: str, raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    _edit(tmp_path / "raw" / f"{table}.csv.gz", old, new)
    with pytest.raises(DatasetError, match=told):
        prepare_dataset(find_dataset("mimic"), tmp_path / "raw", tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_wrong_level_damaged_table_and_missing_image(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("mimic")
    with pytest.raises(DatasetError, match=f"wrong level of the release: give {raw}"):
        prepare_dataset(dataset, raw / "hosp", tmp_path / "out", progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    gone = next((tmp_path / "raw" / "files").glob("*/p10000002/*/*.jpg"))
    gone.unlink()
    with pytest.raises(DatasetError, match=r"1 of \d+ cases lack files"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("mimic", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert gone.stem in (info.root / "left_out.csv").read_text(encoding="utf-8")
    file = tmp_path / "raw" / "mimic-cxr-2.0.0-metadata.csv.gz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DatasetError, match="damaged or partly downloaded"):
        dataset.read(tmp_path / "raw", dataset.choose())
