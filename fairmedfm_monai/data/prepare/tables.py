"""Metadata tables as their owners ship them: CSV of any encoding and separator, gzip, Excel, Parquet."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.card import raw_text
from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors

_SEPARATORS = (",", ";", "\t", "|")
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


def read_table(
    path: Path,
    columns: Sequence[str] = (),
    *,
    sheet: str | int = 0,
    header: int = 0,
    separator_hints: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a table; every cell becomes stripped text, empty where missing.

    The encoding is UTF-8, UTF-16 with a mark, or else Windows-1252; the separator is the one whose header line holds
    most of ``columns``. Header cells are stripped; rows that are entirely empty are dropped.

    Args:
        path: ``.csv``, ``.tsv``, ``.txt``, the same with ``.gz``, ``.xlsx``, ``.parquet``, or a CSV without ending.
        columns: columns that must be there; ``"a|b"`` means that either may be, and the result has it under ``a``.
        sheet: of an Excel file, name or position.
        header: number of the header line.
        separator_hints: further column names that tell the separator; they need not be there.

    Raises:
        DatasetError: no such file, no table, or columns missing.
    """
    if not path.is_file():
        raise DatasetError(path, [Problem("missing_file", "there is no such file")])
    wanted = [*(name for entry in columns for name in entry.split("|")), *separator_hints]
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = _read_excel(path, sheet, header) if path.suffix == ".xlsx" else _read_text(path, wanted, header)
    except DatasetError:
        raise
    except Exception as error:  # pandas, zipfile and openpyxl raise many kinds; all mean that it is no table
        message = f"the table cannot be read, it may be damaged or partly downloaded: {error}"
        raise DatasetError(path, [Problem("table_unreadable", message)]) from error
    table.columns = [str(name).strip() for name in table.columns]
    table = _renamed(path, table, columns)
    table = table.apply(_texts)
    return table[(table != "").any(axis=1)].reset_index(drop=True)


def merge_unique(table: pd.DataFrame, other: pd.DataFrame, *, on: str | list[str], where: object) -> pd.DataFrame:
    """Left join of ``other``, which must hold each key once; cells of rows without a partner are empty.

    Raises:
        DatasetError: keys that stand twice in ``other``.
    """
    twice = other[other.duplicated(on, keep=False)]
    if len(twice):
        keys = twice[on].drop_duplicates().astype(str)
        listed = examples(keys if isinstance(on, str) else keys.agg(" / ".join, axis=1))
        raise DatasetError(where, [Problem("duplicate_key", f"{on} must be unique, but stands twice: {listed}")])
    return table.merge(other, on=on, how="left", validate="many_to_one").fillna("")


def _read_text(path: Path, wanted: Sequence[str], header: int) -> pd.DataFrame:
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    text = _decode(content)
    lines = text.splitlines()
    if len(lines) <= header:
        raise DatasetError(path, [Problem("table_unreadable", f"the table has {len(lines)} lines and no header")])
    first = lines[header]
    separator = max(_SEPARATORS, key=lambda mark: (_hits(first, mark, wanted), first.count(mark)))
    return pd.read_csv(
        io.StringIO(text),
        sep=separator,
        header=header,
        dtype=str,
        keep_default_na=False,
        index_col=False,
        skip_blank_lines=False,
    )


def _decode(content: bytes) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _hits(line: str, separator: str, wanted: Sequence[str]) -> int:
    cells = {cell.strip().strip('"').strip() for cell in line.split(separator)}
    return len(cells & set(wanted))


def _read_excel(path: Path, sheet: str | int, header: int) -> pd.DataFrame:
    return pd.read_excel(path, sheet_name=sheet, header=header, dtype=object, keep_default_na=False)


def _texts(column: pd.Series) -> pd.Series:
    """Cells as stripped text; those of a CSV already are text, which saves a call for each of some millions."""
    return column.str.strip() if isinstance(column.dtype, pd.StringDtype) else column.astype(object).map(raw_text)


def _renamed(path: Path, table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with the first of their names for the columns that have several."""
    renamed: dict[str, str] = {}
    problems = []
    for entry in columns:
        first, *others = entry.split("|")
        if first in table.columns:
            continue
        found = next((name for name in others if name in table.columns), None)
        if found is not None:
            renamed[found] = first
            continue
        hint = did_you_mean(first, map(str, table.columns)) or f"; it has {examples(table.columns)}"
        names = " or ".join(map(repr, entry.split("|")))
        problems.append(Problem("missing_column", f"the table lacks the column {names}{hint}"))
    raise_errors(path, problems)
    return table.rename(columns=renamed)
