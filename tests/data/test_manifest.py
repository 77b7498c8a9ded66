from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.data.card import Card
from fairmedfm_monai.data.manifest import check_manifest, classify_value, group_of, read_manifest, write_manifest, years
from fairmedfm_monai.data.problems import DatasetError


@pytest.fixture
def card(card_dict: dict[str, Any]) -> Card:
    return Card.from_dict(card_dict)


def messages(table: pd.DataFrame, card: Card, **options: bool) -> dict[str, str]:
    return {problem.kind: problem.message for problem in check_manifest(table, card, **options)}


@pytest.mark.parametrize(
    ("raw", "group", "how"),
    [
        ("59", "lt60", "mapped"),
        ("59.99", "lt60", "mapped"),
        ("60", "ge60", "mapped"),
        (60.0, "ge60", "mapped"),
        ("061Y", "ge60", "mapped"),
        ("100Y", "ge60", "mapped"),
        ("719M", "lt60", "mapped"),
        ("720M", "ge60", "mapped"),
        ("010D", "lt60", "mapped"),
        ("0", "lt60", "mapped"),
        ("200", "unknown", "impossible"),
        ("-1", "unknown", "impossible"),
        ("inf", "unknown", "impossible"),
        ("", "unknown", "missing"),
        ("nan", "unknown", "missing"),
        (None, "unknown", "missing"),
        (float("nan"), "unknown", "missing"),
        ("adult", "unknown", "unmapped"),
        ("61Y", "unknown", "unmapped"),
    ],
)
def test_ages(card: Card, raw: object, group: str, how: str) -> None:
    assert classify_value(card.attributes["age"], raw) == (group, how)
    assert group_of(card.attributes["age"], raw) == group


@pytest.mark.parametrize(
    ("raw", "group"),
    [
        ("F", "female"),
        (" Female ", "female"),
        ("f", "unknown"),
        ("male", "male"),
        (1.0, "male"),
        (1, "male"),
        ("Unknown", "unknown"),
        ("X", "unknown"),
    ],
)
def test_values_are_mapped_exactly(card: Card, raw: object, group: str) -> None:
    assert group_of(card.attributes["sex"], raw) == group


def test_a_group_may_be_called_like_an_empty_cell(card_dict: dict[str, Any]) -> None:
    card_dict["attributes"]["sex"]["groups"] = {"namibia": ["NA"]}
    assert group_of(Card.from_dict(card_dict).attributes["sex"], "NA") == "namibia"


def test_dicom_age_units() -> None:
    assert years("052W") == pytest.approx(1, abs=0.01)
    assert years("018M") == 1.5
    assert years("x") is None


def test_good_table_has_no_problem(rows: pd.DataFrame, card: Card) -> None:
    assert check_manifest(rows, card) == []


def test_formats_give_equal_tables(rows: pd.DataFrame, tmp_path: Path) -> None:
    rows["Age"] = [59.0, 59.0, 60.0, np.nan] * 3
    write_manifest(rows, tmp_path / "a.csv")
    write_manifest(rows, tmp_path / "b.parquet")
    csv, parquet = read_manifest(tmp_path / "a.csv"), read_manifest(tmp_path / "b.parquet")
    assert csv["Age"].iloc[3] == parquet["Age"].iloc[3] == ""
    assert parquet["Age"].iloc[0] == "59"
    pd.testing.assert_frame_equal(csv.drop(columns="Age"), parquet.drop(columns="Age"))


def test_ids_stay_text(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("﻿case_id,patient_id\n001,NA\n", encoding="utf-8")
    assert read_manifest(tmp_path / "m.csv").to_dict("records") == [{"case_id": "001", "patient_id": "NA"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.csv", b""),
        ("manifest.csv", b"a\xff"),
        ("manifest.csv", b"case_id;image\n1;a\n"),
        ("manifest.parquet", b"PAR1"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"the manifest cannot be read: {name}: "):
        read_manifest(tmp_path)


def test_two_manifests_are_refused(rows: pd.DataFrame, tmp_path: Path) -> None:
    write_manifest(rows, tmp_path)
    write_manifest(rows, tmp_path / "manifest.parquet")
    with pytest.raises(DatasetError, match="both manifest"):
        read_manifest(tmp_path)


def test_every_problem_is_told(rows: pd.DataFrame, card: Card) -> None:
    rows.loc[0, "case_id"] = "c01"
    rows.loc[2, "split"] = "test"
    rows.loc[3, "split"] = "holdout"
    rows.loc[4, "label"] = "cancer"
    rows.loc[5, "label"] = ""
    rows.loc[6, "patient_id"] = ""
    rows.loc[7, "Sex"] = "X"
    rows.loc[8, "Sex"] = "X"
    rows.loc[7, "Age"] = "999"
    rows["hospital"] = "a"
    found = messages(rows, card)
    assert found["duplicate_case"] == "1 case ids stand in more than one row: c01"
    assert found["patient_in_splits"] == "1 patients are in more than one split: p1"
    assert "'holdout' (1)" in found["split"]
    assert "'cancer' (1)" in found["label"]
    assert "no group to 'X' (2) of column 'Sex'" in found["unmapped"]
    assert "'999' (1)" in found["impossible"]
    assert "hospital" in found["unknown_column"]
    assert "empty in 1 of 12 rows" in found["empty_cell"]
    levels = {problem.kind: problem.level for problem in check_manifest(rows, card)}
    assert levels["unmapped"] == levels["impossible"] == levels["unknown_column"] == "warning"


def test_preparers_stop_on_unmapped_values(rows: pd.DataFrame, card: Card) -> None:
    rows.loc[7, "Sex"] = "X"
    assert {problem.level for problem in check_manifest(rows, card, strict=True)} == {"error"}


def test_missing_columns_get_a_hint(rows: pd.DataFrame, card: Card) -> None:
    found = [
        problem.message for problem in check_manifest(rows.rename(columns={"label": "labels", "Sex": "sex"}), card)
    ]
    assert "the manifest lacks the column 'label'; did you mean 'labels'?" in found
    assert any("attribute 'sex': the manifest lacks its column 'Sex'" in message for message in found)


def test_labels_may_be_left_out_for_inference(rows: pd.DataFrame, card: Card) -> None:
    assert messages(rows.drop(columns="label"), card, require_labels=False) == {}


def test_multi_label_columns(rows: pd.DataFrame, card_dict: dict[str, Any]) -> None:
    card = Card.from_dict(card_dict | {"multi_label": True, "positive_class": None})
    table = rows.drop(columns="label").assign(no_finding="0", finding=["1"] * 11 + ["2"])
    assert messages(table, card) == {"label": "column 'finding' must hold 0 or 1, but got '2' (1)"}


def test_empty_table(rows: pd.DataFrame, card: Card) -> None:
    assert "empty" in messages(rows.iloc[:0], card)
