"""Metadata tables of every encoding, separator and kind."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data import DatasetError
from fairmedfm_monai.data.prepare.tables import merge_unique, read_table

TEXT = "id,Sexo,nota\n1,F,niño\n2,M,\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(tmp_path: Path, encoding: str, separator: str) -> None:
    (tmp_path / "t.csv").write_bytes(TEXT.replace(",", separator).encode(encoding))
    table = read_table(tmp_path / "t.csv", ["id", "Sexo", "nota"])
    assert table.to_dict("list") == {"id": ["1", "2"], "Sexo": ["F", "M"], "nota": ["niño", ""]}


def test_commas_inside_cells_do_not_decide_the_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;place, date, time, zone\n1;a, b, c, d\n")
    assert read_table(tmp_path / "t.csv", ["id"])["id"].tolist() == ["1"]


def test_gzip_and_excel_equal_csv(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    pd.DataFrame({" id": [1, 2], "Sexo": ["F", "M"], "nota": ["niño", None]}).to_excel(tmp_path / "t.xlsx", index=False)
    expected = read_table(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv.gz"), expected)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.xlsx"), expected)


def test_trailing_commas_and_empty_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,sex,\n1,F,\n,,\n2,M,\n")
    table = read_table(tmp_path / "t.csv", ["id", "sex"])
    assert table["id"].tolist() == ["1", "2"]


def test_either_name_of_a_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,Patient Sex\n1,F\n")
    assert "Patient Gender" in read_table(tmp_path / "t.csv", ["Patient Gender|Patient Sex"])


def test_missing_columns_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,Patient Sexx\n1,F\n")
    with pytest.raises(DatasetError, match=r"(?s)'Patient Sex'; did you mean 'Patient Sexx'.*'age'"):
        read_table(tmp_path / "t.csv", ["id", "Patient Sex", "age"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.xlsx", b"PK\x03\x04 cut off"), ("t.csv.gz", gzip.compress(TEXT.encode())[:20]), ("t.csv", b"")],
    ids=["excel", "gzip", "empty"],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=name):
        read_table(tmp_path / name, ["id"])


def test_merge_refuses_ambiguous_partners() -> None:
    left = pd.DataFrame({"id": ["1", "2", "2"]})
    right = pd.DataFrame({"id": ["1", "2"], "sex": ["F", "M"]})
    assert merge_unique(left, right, on="id", where="x")["sex"].tolist() == ["F", "M", "M"]
    with pytest.raises(DatasetError, match=r"id must be unique, but stands twice: 1"):
        merge_unique(left, pd.concat([right, right.head(1)]), on="id", where="x")
