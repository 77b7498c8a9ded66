from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.dataset import load_dataset
from fairmedfm_monai.data.problems import DatasetError

Make = Callable[..., Path]


def test_cases_are_monai_data_dicts(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    root = make_folder(rows, card_dict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = load_dataset(root)
    assert info.cases("val") == [
        {
            "image": str(root / "images/c06.png"),
            "label": 1,
            "case_id": "c06",
            "patient_id": "p3",
            "split": "val",
            "attributes": {"sex": "female", "age": "lt60"},
            "failed": "",
        },
        {
            "image": str(root / "images/c07.png"),
            "label": 0,
            "case_id": "c07",
            "patient_id": "p3",
            "split": "val",
            "attributes": {"sex": "female", "age": "lt60"},
            "failed": "",
        },
    ]
    assert info.cases("test")[0]["attributes"] == {"sex": "unknown", "age": "unknown"}
    assert len(info.cases()) == 12
    assert len(info.cases("train", "test")) == 10
    assert info.classes == ["no_finding", "finding"]
    assert info.attributes == {"sex": ["female", "male"], "age": ["lt60", "ge60"]}
    assert info.intersections == [["sex", "age"]]
    assert list(info.table) == ["case_id", "patient_id", "split", "image", "label", "sex", "age"]


@pytest.mark.parametrize("attributes", [["age"], "age", ("age",)])
def test_selected_attributes(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any], attributes: Any) -> None:
    info = load_dataset(make_folder(rows, card_dict), attributes=attributes)
    assert list(info.attributes) == ["age"]
    assert info.intersections == []
    assert info.cases()[2]["attributes"] == {"age": "ge60"}
    assert "sex" not in info.table


def test_undeclared_columns_stay_behind(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="PatientName"):
        info = load_dataset(make_folder(rows.assign(PatientName="Doe"), card_dict))
    assert "Doe" not in str(info.cases())
    assert "PatientName" not in info.table


def test_everything_wrong_is_in_one_message(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    rows.loc[0, "image"] = "images/none.png"
    rows.loc[1, "image"] = "/etc/passwd"
    rows.loc[2, "image"] = "../c02.png"
    rows.loc[3, "case_id"] = "c02"
    root = make_folder(rows.drop(columns="label"), card_dict, images=False)
    with pytest.raises(DatasetError, match="5 problems") as caught:
        load_dataset(root, attributes=["race"])
    text = str(caught.value)
    assert "10 of 12 files of column 'image' are missing: images/none.png" in text
    assert "paths inside the folder, but got ../c02.png, /etc/passwd" in text
    assert "lacks the column 'label'" in text
    assert "1 case ids" in text
    assert "the card has no 'race'; it has sex, age" in text


def test_card_and_manifest_errors_come_together(
    make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]
) -> None:
    root = make_folder(rows.assign(case_id="c"), card_dict | {"task": "x"})
    with pytest.raises(DatasetError, match=r"(?s)`task` must be.*1 case ids"):
        load_dataset(root)


def test_a_folder_without_dataset(tmp_path: Path) -> None:
    (tmp_path / "scan.png").touch()
    with pytest.raises(DatasetError, match=r"it holds scan.png.*manifest.csv.*dataset.json.*prepare") as caught:
        load_dataset(tmp_path)
    assert "demo/xray" in str(caught.value)
    with pytest.raises(DatasetError, match="no such folder"):
        load_dataset(tmp_path / "nothing")


def test_split_is_made_when_there_is_none(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    root = make_folder(rows.drop(columns="split"), card_dict)
    with pytest.warns(UserWarning, match="no column 'split'"):
        info = load_dataset(root)
    with pytest.warns(UserWarning, match="no column 'split'"):
        other = load_dataset(root, attributes=["age"])
    assert info.table.groupby("patient_id")["split"].nunique().max() == 1
    assert (info.table["split"] == other.table["split"]).all()


def test_splits_that_are_not_there(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    info = load_dataset(make_folder(rows[rows["split"] == "test"], card_dict))
    assert len(info.cases("val", "test")) == 4
    with pytest.raises(DatasetError, match=r"no case in split val; there is test \(4\)"):
        info.cases("val")
    with pytest.raises(ValueError, match="split 'validation' is not known"):
        info.cases("validation")


def test_without_labels(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    rows.loc[0, "label"] = ""
    root = make_folder(rows, card_dict)
    with pytest.raises(DatasetError, match="empty in 1 of 12"):
        load_dataset(root)
    assert "label" not in load_dataset(root, require_labels=False).cases()[3]


def test_multi_label(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    table = rows.drop(columns="label").assign(no_finding=0, finding=[0, 1] * 6)
    info = load_dataset(make_folder(table, card_dict | {"multi_label": True, "positive_class": None}))
    label = info.cases()[1]["label"]
    assert label.dtype == np.float32
    assert label.tolist() == [0.0, 1.0]


def test_segmentation(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    del card_dict["classes"], card_dict["positive_class"]
    card_dict |= {"task": "segmentation", "labels": {"kidney": 1, "tumour": 2}, "window": "abdomen"}
    table = rows.drop(columns="label").assign(mask=rows["image"])
    root = make_folder(table, card_dict)
    info = load_dataset(root)
    assert info.cases()[0]["label"] == str(root / "images/c00.png")
    assert info.labels == {"kidney": 1, "tumour": 2}
    assert info.classes == []
    assert info.window == "abdomen"
    assert "mask" in info.table


def test_fingerprint_follows_the_content(make_folder: Make, rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    first = load_dataset(make_folder(rows, card_dict, name="a"))
    same = load_dataset(make_folder(rows, card_dict, name="b"))
    rows.loc[0, "Age"] = "60"
    other = load_dataset(make_folder(rows, card_dict, name="c"))
    assert first.fingerprint == same.fingerprint != other.fingerprint
