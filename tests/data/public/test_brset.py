"""BRSET: miniatures of three versions of the release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.brset import make


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("brset") / "raw")


def _truth(raw: Path, table: str = "labels.csv") -> pd.DataFrame:
    return pd.read_csv(raw / table).set_index("image_id")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("brest", raw, tmp_path / "out")
    truth = _truth(raw).dropna(subset="DR_ICDR")
    table = info.table.set_index("case_id").loc[truth.index]
    assert len(info.table) == len(truth) == len(_truth(raw)) - 2
    assert (table["label"] == (truth["DR_ICDR"] > 0)).all()
    assert (table["sex"] == truth["patient_sex"].map({1: "male", 2: "female"})).all()
    age = truth["patient_age"].map(lambda years: "ge60" if years >= 60 else "lt60" if years < 60 else "unknown")
    assert (table["age"] == age).all()
    assert set(age) == {"ge60", "lt60", "unknown"}
    assert (table["camera"] == truth["camera"].map({"Canon CR": "canon_cr", "NIKON NF5050": "nikon_nf5050"})).all()
    assert (table["eye"] == truth["exam_eye"].map({1: "right", 2: "left"})).all()
    assert len(set(zip(truth["patient_id"], table["split"], strict=True))) == truth["patient_id"].nunique()
    told = "\n".join(result.summary)
    assert "2 images without a grade of retinopathy are left out" in told
    assert "1 patients have more than one sex" in told
    assert "1.0.0" in result.summary[0]
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"nikon_nf5050", "left", "female__ge60"} <= set(subgroups["group"])


def test_later_versions_and_referable_retinopathy(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "raw", table="labels_brset.csv")
    info, result = prepared("brset", tmp_path / "raw", tmp_path / "out", rule="referable")
    assert "1.0.1" in result.summary[0]
    truth = _truth(raw).dropna(subset="DR_ICDR")["DR_ICDR"]
    assert (info.table.set_index("case_id")["label"].loc[truth.index] == (truth >= 2)).all()


def test_fairmedfm_counts_images_without_a_grade_as_retinopathy(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("brset")
    choice = dataset.choose(protocol="fairmedfm")
    with pytest.raises(DatasetError, match="needs FairMedFM's lists"):
        prepare_dataset(dataset, raw, tmp_path / "none", choice=choice, progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    truth = _truth(raw)
    (tmp_path / "raw" / "split").mkdir()
    test = truth.index[::5]
    for part, names in (("train", truth.index.difference(test)), ("test", test)):
        pd.Series(names, name="image_id").to_csv(tmp_path / "raw" / "split" / f"{part}.csv", index=False)
    info, result = prepared("brset", tmp_path / "raw", tmp_path / "out", protocol="fairmedfm")
    table = info.table.set_index("case_id").loc[truth.index]
    assert (table["label"] == (truth["DR_ICDR"] != 0)).all()  # a missing grade is not equal to 0
    assert set(table.index[table["split"] == "test"]) == set(test)
    assert any("2 images without a grade count as retinopathy" in line for line in result.summary)
    assert "patients have images in both training and test set" in (info.notice or "")


def test_what_is_wrong_is_told(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("brset")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, raw / "fundus_photos", tmp_path / "out", progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    file = tmp_path / "raw" / "labels.csv"
    text = file.read_text(encoding="utf-8")
    for old, new, message in (
        ("patient_sex", "Sex", "lacks the column 'patient_sex'"),
        ("NIKON NF5050", "Topcon", r"'camera'.*'Topcon'"),
        ("Brazil,0,0,0,0,4,", "Brazil,0,0,0,0,9,", r"'DR_ICDR' must hold grades from 0 to 4, but got '9'"),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        with pytest.raises(DatasetError, match=message):
            prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    file.write_text(text)
    (tmp_path / "raw" / "fundus_photos" / "img00003.jpg").unlink()
    with pytest.raises(DatasetError, match=r"lack files of the release: fundus_photos/img00003\.jpg"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("brset", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert "img00003" not in set(info.table["case_id"])
