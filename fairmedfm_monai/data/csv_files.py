"""Read a comma-separated UTF-8 table as text, and say in words what a file is that is not one."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SAVE = "in a spreadsheet choose the format 'CSV UTF-8' with commas"
_MAGIC = {
    b"PK\x03\x04": f"an Excel workbook or another ZIP archive; {_SAVE}",
    b"\xd0\xcf\x11\xe0": f"an old Excel workbook; {_SAVE}",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"PAR1": "a Parquet file; name it manifest.parquet",
}
_SNIPPET = 12  # characters shown on each side of one that cannot be decoded


def read_text_table(file: Path, known: Collection[str]) -> pd.DataFrame:
    """Read a CSV file; every cell becomes stripped text, and cells that a short row leaves out are empty.

    Args:
        file: UTF-8, with or without its mark, separated by commas, one header line.
        known: column names of which some are expected; they tell which separator a file really has.

    Raises:
        ValueError: another encoding or separator, a column twice, a row with too many cells, a file that is cut off.
    """
    text = _decode(file)
    _check_separator(file, text, known)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next((row for row in reader if row), [])]
        _check_header(header)
        rows = [row for row in _rows(reader, len(header)) if row]
    except csv.Error as error:
        msg = f"line {reader.line_num}: {error}; is a double quote missing, or the file cut off?"
        raise ValueError(msg) from error
    if rows and len(rows[-1]) < len(header) and not text.endswith(("\n", "\r")):
        msg = f"the last line has {len(rows[-1])} of {len(header)} cells and no end: the file is cut off; copy it again"
        raise ValueError(msg)
    columns = {name: _stripped(rows, index) for index, name in enumerate(header) if name}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)), dtype=object)


def _rows(reader: Any, width: int) -> Iterator[list[str]]:
    for row in reader:
        if len(row) > width and any(cell.strip() for cell in row[width:]):
            msg = f"line {reader.line_num} has {len(row)} cells and the header {width}"
            msg += "; put texts that hold a comma in double quotes"
            raise ValueError(msg)
        yield row


def _stripped(rows: Sequence[Sequence[str]], index: int) -> list[str]:
    """One column without outer blanks; equal cells share memory, as most columns hold a few values many times."""
    seen: dict[str, str] = {}
    cells = (row[index].strip() if index < len(row) else "" for row in rows)
    return [seen.setdefault(cell, cell) for cell in cells]


def _decode(file: Path) -> str:
    content = file.read_bytes()
    for magic, what in _MAGIC.items():
        if content.startswith(magic):
            msg = f"it is {what}"
            raise ValueError(msg)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:1000]:
        msg = f"its encoding is UTF-16, expected UTF-8; {_SAVE}, or run `{_iconv(file, 'UTF-16')}`"
        raise ValueError(msg)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(_not_utf8(file, content, error)) from error


def _not_utf8(file: Path, content: bytes, error: UnicodeDecodeError) -> str:
    start = error.start
    if error.reason == "unexpected end of data":
        return "it ends in the middle of a character: the file is cut off; copy it again"
    line = content.count(b"\n", 0, start) + 1
    around = content[max(start - _SNIPPET, content.rfind(b"\n", 0, start) + 1) : start + _SNIPPET]
    shown = around.decode("cp1252", errors="replace").splitlines()[0].strip()
    return (
        f"its encoding is not UTF-8 (byte 0x{content[start]:02x} in line {line}); read as Latin-1 (Windows-1252) there "
        f"stands {shown!r}. If that is right, run `{_iconv(file, 'WINDOWS-1252')}`; or {_SAVE}"
    )


def _iconv(file: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 {file.name} > utf8.csv && mv utf8.csv {file.name}"


def _check_header(header: list[str]) -> None:
    if not header:
        msg = "it is empty; expected a header line with the column names"
        raise ValueError(msg)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        msg = f"the header holds {', '.join(map(repr, twice))} more than once; rename or delete the others"
        raise ValueError(msg)


def _check_separator(file: Path, text: str, known: Collection[str]) -> None:
    """Raise when another separator than the comma gives more of the expected names."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def rating(mark: str) -> tuple[int, int]:
        names = {cell.strip().strip('"') for cell in first.split(mark)}
        return len(names & set(known)), len(names)

    mark = max(_OTHER_SEPARATORS, key=rating)
    hits, cells = rating(mark)
    if hits <= rating(",")[0] and not (cells > 1 and "," not in first):
        return
    msg = (
        f"its cells are separated by {_OTHER_SEPARATORS[mark]}, expected commas (and decimal points in numbers); "
        f"{_SAVE}, or in Python: pandas.read_csv({file.name!r}, sep={mark!r}, dtype=str, keep_default_na=False)"
        f".to_csv({file.name!r}, index=False)"
    )
    raise ValueError(msg)
