"""ADNI1 Screening 1.5T: the miniature release."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.adni import make

TABLE = "ADNI1_Screening_1.5T_2_20_2024.csv"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("adni") / "raw")


@pytest.fixture(scope="module")
def truth(raw: Path) -> pd.DataFrame:
    """What is kept, read by pandas alone."""
    table = pd.read_csv(raw / TABLE)
    return table[(table["Visit"] == "sc") & (table["Group"] != "MCI")].set_index("Image Data ID")


def test_prepares_validates_and_evaluates(raw: Path, truth: pd.DataFrame, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("adni", raw, tmp_path / "out")
    table = info.table.set_index("case_id").loc[truth.index]
    assert len(info.table) == len(truth) == 24
    assert (table["label"] == (truth["Group"] == "AD")).all()
    assert (table["patient_id"] == truth["Subject"]).all()
    assert (table["age"] == np.where(truth["Age"] >= 75, "ge75", "lt75")).all()
    assert all("source/ADNI" in case["image"] and case["case_id"] in case["image"] for case in info.cases("train"))
    assert "table of 2/20/2024" in result.summary[0]
    assert any("1 rows left out by Visit" in line for line in result.summary)
    assert any("12 rows left out by Group" in line for line in result.summary)
    assert any(
        "8 of 16 subjects have several images; 16 images share subject and day" in line for line in result.summary
    )
    evaluate(info, tmp_path, tracking_uri, slices=2)


def test_one_image_per_subject(raw: Path, truth: pd.DataFrame) -> None:
    dataset = find_dataset("adni")
    table = dataset.read(raw, dataset.choose(rule="ad_cn_one_per_subject")).table
    first = truth.reset_index().groupby("Subject")["Image Data ID"].min()  # equally long numbers
    assert set(table["case_id"]) == set(first)
    assert table["patient_id"].is_unique


def test_published_protocol_is_by_image_and_says_so(raw: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    from sklearn.model_selection import train_test_split

    info, _ = prepared("adni", raw, tmp_path / "out", protocol="fairmedfm")
    drawn: set[str] = set()
    for code in "MF":
        drawn |= set(train_test_split(np.unique(truth.index[truth["Sex"] == code]), test_size=1, random_state=0)[1])
    test = info.table["split"] == "test"
    assert set(info.table.loc[test, "case_id"]) == drawn
    subjects = truth["Subject"].reindex(info.table["case_id"]).to_numpy()
    both = set(subjects[test]) & set(subjects[~test])
    assert info.notice is not None
    assert f"{len(both)} of 16 subjects are in training and in test" in info.notice
    assert list(info.attributes["age"]) == ["lt60", "ge60"]


@pytest.mark.parametrize("options", [{"deep": True}, {"packed": True}])
def test_other_trees(tmp_path: Path, options: dict[str, bool]) -> None:
    make(tmp_path / "raw", subjects=9, **options)
    dataset = find_dataset("adni")
    images = dataset.read(tmp_path / "raw", dataset.choose()).table["image"]
    assert all((tmp_path / "raw" / image).is_file() for image in images)


def test_two_tables_two_files_and_other_groups_stop(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    dataset = find_dataset("adni")
    table = tmp_path / "raw" / TABLE
    text = table.read_text(encoding="utf-8")
    table.write_text(text.replace('"AD"', '"LMCI"', 2))
    with pytest.raises(DatasetError, match=r"must hold AD, CN or MCI, but got 'LMCI' \(2\)"):
        dataset.read(tmp_path / "raw", dataset.choose())
    table.write_text(text)
    file = next((tmp_path / "raw" / "ADNI").glob("002_S_0413/*Scaled/*/*/*I45108.nii"))
    shutil.copy(file, file.with_name("copy.nii"))
    with pytest.raises(DatasetError, match="image I45108 has 2 files"):
        dataset.read(tmp_path / "raw", dataset.choose())
    shutil.copy(table, table.with_name("ADNI1_Screening_1.5T_1_01_2025.csv"))
    with pytest.raises(DatasetError, match="2 tables match"):
        dataset.read(tmp_path / "raw", dataset.choose())


def test_missing_images_and_levels(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "ADNI" / "002_S_0413")
    dataset = find_dataset("adni")
    with pytest.raises(DatasetError, match="1 of 24 cases lack files of the release: ADNI/002_S_0413/I45108"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("adni", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert len(info.table) == 23
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, tmp_path / "raw" / "ADNI", tmp_path / "other", progress=False)
