"""Rows of a table for DICOM images: found by an identifier of the header, or by a file name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.own.columns import Columns
from fairmedfm_monai.data.own.dicom_files import SUFFIXES, DicomCase
from fairmedfm_monai.data.own.table import read_columns, split_names
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors

KEYS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "AccessionNumber", "file")


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Cases that have a row.

    Attributes:
        table: the cases with the columns of their row.
        unused: columns of the table that are not taken over.
        notes: cases without row, and rows without case.
    """

    table: pd.DataFrame
    unused: tuple[str, ...]
    notes: tuple[str, ...]


def join_rows(cases: Sequence[DicomCase], found: pd.DataFrame, file: Path, columns: Columns, *, key: str) -> Joined:
    """Find the row of each case.

    Args:
        cases: the images.
        found: what is known of them, in their order.
        file: the table.
        columns: its columns.
        key: one of `KEYS`.

    Raises:
        DatasetError: no table, columns that it lacks, keys that stand twice, no case with a row, unclear splits.
    """
    column = columns.contract.get("key", key)
    raw = read_columns(file, replace(columns, contract={**columns.contract, "key": column}))
    rows = _by_key(raw[column], file)
    values = _file_names(cases) if key == "file" else [[case.first.ids[key]] for case in cases]
    matches = [next((rows[name] for name in names if name in rows), None) for names in values]
    keep = [index for index, match in enumerate(matches) if match is not None]
    if not keep:
        shown = examples(list(rows)[:3])
        message = f"no image has a row: column {column!r} holds {shown} and more; is it {key} (`--key`)?"
        raise DatasetError(file, [Problem("key", message)])
    chosen = raw.iloc[[match for match in matches if match is not None]].reset_index(drop=True)
    stated = {name: chosen[column] for name, column in columns.contract.items() if name in ("patient_id", "mask")}
    table = found.iloc[keep].reset_index(drop=True).assign(**stated, **columns.taken_from(chosen))
    if "split" in columns.contract:
        problems: list[Problem] = []
        table["split"] = split_names(chosen[columns.contract["split"]], problems)
        raise_errors(file, problems)
    unused = tuple(name for name in columns.unused(raw) if name != column)
    return Joined(table=table, unused=unused, notes=tuple(_notes(matches, len(rows))))


def _notes(matches: Sequence[int | None], rows: int) -> list[str]:
    found = [match for match in matches if match is not None]
    without, lonely = len(matches) - len(found), rows - len(set(found))
    notes = [f"{without:,} of {len(matches):,} images left out: no row in the table"] if without else []
    return notes + ([f"{lonely:,} of {rows:,} rows of the table have no image"] if lonely else [])


def _by_key(column: pd.Series, file: Path) -> dict[str, int]:
    twice = column[column.duplicated() & (column != "")].unique()
    if len(twice):
        message = f"{len(twice)} keys of column {column.name!r} stand in more than one row: {examples(twice)}"
        raise DatasetError(file, [Problem("duplicate_key", message)])
    return {str(value): index for index, value in enumerate(column) if value}


def _file_names(cases: Sequence[DicomCase]) -> list[list[str]]:
    """Per case, what a row may call its files or its folder: paths, and names that no other path ends in."""
    paths = [
        [*([case.first.folder] if len(case.files) > 1 else []), *(file.path for file in case.files)] for case in cases
    ]
    often = Counter(path.rpartition("/")[2] for several in paths for path in several)
    found = []
    for several in paths:
        names = [*several, *(name for name in (path.rpartition("/")[2] for path in several) if often[name] == 1)]
        found.append([text for name in names for text in (name, _stem(name)) if text])
    return found


def _stem(name: str) -> str:
    return next((name[: -len(end)] for end in SUFFIXES if name.lower().endswith(end)), "")
