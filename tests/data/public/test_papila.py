"""PAPILA: miniatures as workbooks and as CSV, with and without FairMedFM's lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from openpyxl import load_workbook

from fairmedfm_monai.data.prepare import find_dataset, prepare_dataset
from fairmedfm_monai.data.problems import DatasetError
from tests.data.public.checks import evaluate, prepared
from tests.miniatures.papila import make, make_lists


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("papila") / "raw")


def _truth(raw: Path) -> pd.DataFrame:
    """The workbooks as openpyxl reads them, without the three lines of header."""
    rows = []
    for eye in ("OD", "OS"):
        sheet = load_workbook(raw / "ClinicalData" / f"patient_data_{eye.lower()}.xlsx").active
        rows += [(f"RET{row[0][1:]}{eye}", *row[:4]) for row in sheet.iter_rows(min_row=4, values_only=True)]
    return pd.DataFrame(rows, columns=["case_id", "ID", "Age", "Gender", "Diagnosis"]).set_index("case_id")


def test_prepares_validates_and_evaluates(raw: Path, tmp_path: Path, tracking_uri: str) -> None:
    info, result = prepared("papila", raw, tmp_path / "out")
    truth = _truth(raw)
    kept = truth[truth["Diagnosis"] != 2]
    table = info.table.set_index("case_id").loc[kept.index]
    assert len(info.table) == len(kept)
    assert (table["label"] == kept["Diagnosis"]).all()  # normal is the class 0
    assert (table["sex"] == kept["Gender"].map({0: "male", 1: "female"})).all()
    assert (table["age"] == (kept["Age"] >= 60).map({True: "ge60", False: "lt60"})).all()
    assert (table["eye"] == kept.index.str[-2:].map({"OD": "right", "OS": "left"})).all()
    assert len(set(zip(kept["ID"], table["split"], strict=True))) == kept["ID"].nunique()  # both eyes together
    assert any(f"{len(truth) - len(kept)} eyes with suspected glaucoma are left out" in line for line in result.summary)
    subgroups = evaluate(info, tmp_path, tracking_uri)
    assert {"right", "female__ge60"} <= set(subgroups["group"])


def test_balanced_test_subsets(raw: Path, tmp_path: Path) -> None:
    info, _ = prepared("papila", raw, tmp_path / "out")
    manifest = pd.read_csv(info.root / "manifest.csv")
    for name, column in (("sex", "sex"), ("age", "age")):
        chosen = info.table[(manifest[f"fairmedfm_test_{name}"] == 1).to_numpy()]
        assert set(chosen["split"]) == {"test"}
        assert len(set(chosen[column].value_counts())) == 1
        test = info.table[info.table["split"] == "test"]
        assert chosen[column].value_counts().iloc[0] == test[column].value_counts().min()


def test_suspects_as_glaucoma_or_as_a_class(raw: Path, tmp_path: Path) -> None:
    truth = _truth(raw)["Diagnosis"]
    both, _ = prepared("papila", raw, tmp_path / "both", rule="glaucoma_or_suspect")
    three, _ = prepared("papila", raw, tmp_path / "three", rule="three_classes")
    assert (both.table.set_index("case_id")["label"].loc[truth.index] == (truth > 0)).all()
    assert (three.table.set_index("case_id")["label"].loc[truth.index] == truth).all()
    assert list(three.classes) == ["normal", "glaucoma", "suspect"]


def test_csv_tables_give_the_same(raw: Path, tmp_path: Path) -> None:
    make(tmp_path / "raw", tables="csv")
    by_csv, result = prepared("papila", tmp_path / "raw", tmp_path / "csv")
    by_xlsx, _ = prepared("papila", raw, tmp_path / "xlsx")
    assert "csv tables" in result.summary[0]
    pd.testing.assert_frame_equal(by_csv.table, by_xlsx.table)


def test_fairmedfm_needs_its_lists_and_keeps_to_them(raw: Path, tmp_path: Path) -> None:
    dataset = find_dataset("papila")
    choice = dataset.choose(protocol="fairmedfm")
    with pytest.raises(DatasetError, match="not public, and no rule gives them"):
        prepare_dataset(dataset, raw, tmp_path / "none", choice=choice, progress=False)
    shutil.copytree(raw, tmp_path / "raw")
    lists = make_lists(tmp_path / "raw")
    info, result = prepared("papila", tmp_path / "raw", tmp_path / "out", protocol="fairmedfm")
    dropped = _truth(raw)["Diagnosis"] == 2
    for part, names in lists.items():
        members = {name.removesuffix(".jpg") for name in names} - set(dropped.index[dropped])
        assert set(info.table.loc[info.table["split"] == part, "case_id"]) == members
    assert (info.table["patient_id"] == info.table["case_id"]).all()
    patients = info.table["case_id"].str[3:6]
    both = len(set(zip(patients, info.table["split"], strict=True))) - patients.nunique()
    assert f"{both} of {patients.nunique()} patients have images in both" in (info.notice or "")
    assert any("are in neither list and left out" in line for line in result.summary)
    assert list(info.attributes) == ["sex", "age"]
    ages = _truth(raw)["Age"].loc[info.table["case_id"]].to_numpy()
    assert (info.table["age"] == pd.Series(ages > 60).map({True: "gt60", False: "le60"})).all()
    with pytest.raises(ValueError, match="has the `rule` 'glaucoma'"):
        dataset.choose(protocol="fairmedfm", rule="three_classes")
    make_lists(tmp_path / "raw", shared=2)
    with pytest.raises(DatasetError, match="2 images are in both lists"):
        prepare_dataset(dataset, tmp_path / "raw", tmp_path / "again", choice=choice, progress=False)


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    make(tmp_path / "raw", tables="csv")
    dataset = find_dataset("papila")
    with pytest.raises(DatasetError, match=r"wrong level of the release: give .*raw"):
        prepare_dataset(dataset, tmp_path / "raw" / "ClinicalData", tmp_path / "out", progress=False)
    file = tmp_path / "raw" / "ClinicalData" / "patient_data_od.csv"
    text = file.read_text(encoding="utf-8")

    def changed(old: str, new: str, message: str) -> None:
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(DatasetError, match=message):
            prepare_dataset(dataset, tmp_path / "raw", tmp_path / "out", progress=False)

    changed(",Gender,", ",Hair,", "lacks the column 'Gender'")
    changed("#002,47,0,0", "#002,47,0,3", r"'Diagnosis' must hold 0 .* but got '3' \(1\)")
    changed("#002,47,0,0", "#002,47,2,0", r"'sex'.*'2' \(1\)")
    changed("#002,", "patient,", "'ID' must hold ids such as #002, but got patient")
    file.write_text(text.replace("#002,47,0,0", "#002,48,0,", 1))
    _, result = prepared("papila", tmp_path / "raw", tmp_path / "out")
    assert any("1 eyes without diagnosis are left out" in line for line in result.summary)
    assert any("1 patients have more than one age" in line for line in result.summary)


def test_missing_photographs_stop_or_are_left_out(raw: Path, tmp_path: Path) -> None:
    shutil.copytree(raw, tmp_path / "raw")
    (tmp_path / "raw" / "FundusImages" / "RET002OD.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of \d+ cases lack files of the release: FundusImages/RET002OD\.jpg"):
        prepare_dataset(find_dataset("papila"), tmp_path / "raw", tmp_path / "out", progress=False)
    info, _ = prepared("papila", tmp_path / "raw", tmp_path / "out", incomplete=True)
    assert "RET002OD" not in set(info.table["case_id"])
    assert "RET002OS" in set(info.table["case_id"])
