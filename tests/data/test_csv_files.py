from __future__ import annotations

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.csv_files import read_text_table

KNOWN = ("case_id", "patient_id", "image")


def read(tmp_path: Path, content: bytes) -> pd.DataFrame:
    file = tmp_path / "manifest.csv"
    file.write_bytes(content)
    return read_text_table(file, KNOWN)


@pytest.mark.parametrize(
    "content",
    [
        b"case_id,Age\n001,63\n002,\n",
        b"\xef\xbb\xbfcase_id,Age\r\n001,63\r\n002,\r\n",
        b'"case_id", Age \n"001","63"\n\n002',
        b"case_id,Age\n 001 ,63,\n002,,,\n",
        b",case_id,Age\n0,001,63\n1,002,\n",
    ],
    ids=["plain", "mark and CRLF", "quotes and a short row", "commas at the end", "index without a name"],
)
def test_equal_tables(tmp_path: Path, content: bytes) -> None:
    if content.endswith(b"002"):
        content += b"\n"
    table = read(tmp_path, content)
    assert table.to_dict("records") == [{"case_id": "001", "Age": "63"}, {"case_id": "002", "Age": ""}]
    assert {str(kind) for kind in table.dtypes} == {"object"}


def test_as_pandas_reads_it(tmp_path: Path) -> None:
    text = 'case_id,Ort,note\n1,Zürich,"a ""b"", c"\n2,,"two\nlines"\nNA,nan,null\n'
    table = read(tmp_path, text.encode())
    expected = pd.read_csv(tmp_path / "manifest.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(table, expected.astype(object), check_column_type=False)


def test_a_header_alone(tmp_path: Path) -> None:
    assert list(read(tmp_path, b"case_id,Age\n")) == ["case_id", "Age"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n\n", "it is empty"),
        (b"case_id;patient_id;image\n1;2;a\n", "separated by semicolons, expected commas"),
        (b'"case_id";"image";"Age, years"\n1;2;63,5\n', "separated by semicolons"),
        (b"case_id\tpatient_id\n1\t2\n", r"separated by tabs.*sep='\\t'"),
        (b"fall;bild\n1;2\n", "separated by semicolons"),
        ("case_id,image\n1,a\n".encode("utf-16"), "its encoding is UTF-16"),
        ("case_id,image\n1,a\n".encode("utf-16-le"), "its encoding is UTF-16"),
        (b"case_id,label,label\n1,0,1\n", "the header holds 'label' more than once"),
        (b"case_id,image\n1,a.png\n2,b.png,x\n", "line 3 has 3 cells and the header 2"),
        (b"case_id,image\n1,a.png\n2", "the file is cut off"),
        ("case_id,image\n1,é".encode()[:-1], "in the middle of a character"),
        (b'case_id,image\n1,"a.png\n2,b.png\n', "a double quote"),
        (b"PK\x03\x04....", "an Excel workbook"),
        (b"\x1f\x8b....", "a gzip archive"),
        (b"PAR1....", "name it manifest.parquet"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(tmp_path, content)


def test_latin_1_is_named_and_the_command_mends_it(tmp_path: Path) -> None:
    text = "case_id,Ort\n1,Bern\n2,Zürich\n"
    with pytest.raises(ValueError, match=r"not UTF-8 \(byte 0xfc in line 3\).*Latin-1.*'2,Zürich'") as caught:
        read(tmp_path, text.encode("latin-1"))
    command = str(caught.value).split("`")[1]
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)  # noqa: S602
    assert read_text_table(tmp_path / "manifest.csv", KNOWN)["Ort"].tolist() == ["Bern", "Zürich"]


def test_the_python_line_mends_semicolons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="semicolons") as caught:
        read(tmp_path, b"case_id;note\n001;a, b\nNA;\n")
    line = "pandas.read_csv" + str(caught.value).split("pandas.read_csv")[1]
    eval(line, {"pandas": pd})  # noqa: S307
    assert read_text_table(tmp_path / "manifest.csv", KNOWN).to_dict("records") == [
        {"case_id": "001", "note": "a, b"},
        {"case_id": "NA", "note": ""},
    ]
