"""Any table with one row per picture or volume: CSV, TSV, Excel, Parquet."""

from __future__ import annotations

import posixpath
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.headers import kind_of, read_header
from fairmedfm_monai.data.own.columns import Columns
from fairmedfm_monai.data.own.rows import OwnRows
from fairmedfm_monai.data.own.spellings import SPLITS
from fairmedfm_monai.data.prepare.tables import read_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples, raise_errors

CONTRACT = ("image", "patient_id", "case_id", "mask", "split")
NO_PATIENTS = (
    "warning: no patient_id column: each image counts as a patient of its own. Where a patient has several, name the "
    "column, or the same patient may be in train and test"
)


def find_table(root: Path, name: str) -> Path:
    """A table in the source folder, or else where the path itself points to.

    Raises:
        DatasetError: there is none.
    """
    for file in (root / name, Path(name).expanduser().absolute()):
        if file.is_file():
            return file
    there = examples(sorted(entry.name for entry in root.iterdir() if entry.is_file())) or "no file"
    message = f"`--table` must be a file in this folder (or a path), but there is no {name!r}; the folder holds {there}"
    raise DatasetError(root, [Problem("missing_file", message)])


def read_columns(file: Path, columns: Columns) -> pd.DataFrame:
    """The table as text, once all named columns are in it.

    Raises:
        DatasetError: no table, or columns that it lacks.
    """
    table = read_table(file, separator_hints=columns.used())
    raise_errors(file, columns.missing_in(table, where="the table"))
    if table.empty:
        raise DatasetError(file, [Problem("empty", "the table has no row")])
    return table


def read_own_table(
    root: Path, table: str, columns: Columns, *, images: str = "", masks: str | None = None, extension: str = ""
) -> OwnRows:
    """Rows of a table.

    Args:
        root: absolute folder with the images.
        table: file name in it, or a path.
        columns: which column is what; ``image`` must be among them. Without ``patient_id`` each image is its own
            patient; without ``case_id`` ids are made from the image's path.
        images: subfolder that the image paths are relative to.
        masks: likewise of the mask paths; by default that of the images.
        extension: what the cells of the image column lack, e.g. ``.png``.

    Raises:
        DatasetError: no table, columns that it lacks, unclear splits, or two rows of one image without ids.
    """
    file = find_table(root, table)
    if "image" not in columns.contract:
        message = '`--columns` must say which column names the images, e.g. "image=filename,label=..."'
        raise DatasetError(file, [Problem("missing_column", message)])
    raw = read_columns(file, columns)
    problems: list[Problem] = []
    found = _contract_columns(raw, columns, root, images, images if masks is None else masks, extension, problems)
    raise_errors(file, problems)
    known = "patient_id" in columns.contract
    origins = columns.contract_origins()
    if "case_id" not in columns.contract:
        origins["case_id"] = "made from the path of the image"
    return OwnRows(
        kind="table",
        table=pd.DataFrame({**found, **columns.taken_from(raw)}),
        labels=columns.label_keys(),
        attributes=columns.attribute_origins(),
        origins=origins,
        unused=tuple(columns.unused(raw)),
        patient_is="patient" if known else "image",
        notes=() if known else (NO_PATIENTS,),
    )


def _contract_columns(
    raw: pd.DataFrame,
    columns: Columns,
    root: Path,
    images: str,
    masks: str,
    extension: str,
    problems: list[Problem],
) -> dict[str, pd.Series]:
    """The columns of the manifest that are no label and no attribute."""
    stated = {name: raw[column] for name, column in columns.contract.items()}
    found = {"image": _paths(stated["image"], root, images, extension)}
    if "mask" in stated:
        found["mask"] = _paths(stated["mask"], root, masks, "")
    found["case_id"] = stated["case_id"] if "case_id" in stated else _case_ids(found["image"], images, problems)
    found["patient_id"] = stated.get("patient_id", found["case_id"])
    if "split" in stated:
        found["split"] = split_names(stated["split"], problems)
    return found


def dims_of(root: Path, images: pd.Series) -> int:
    """2 or 3, from the header of the first image that can be read; 2 where none can."""
    for image in images:
        path = root / image
        if not image or not path.exists():
            continue
        if kind_of(path) == "picture":
            return 2
        try:
            return 3 if len(read_header(path).shape) > 2 else 2
        except Exception:  # noqa: S112 (libraries raise anything on a damaged file; `validate --deep` tells which)
            continue
    return 2


def split_names(column: pd.Series, problems: list[Problem]) -> pd.Series:
    """``train``, ``val`` and ``test`` of their known spellings."""
    found = column.map(lambda value: SPLITS.get(value.casefold(), ""))
    wrong = column[found == ""].value_counts()
    if len(wrong):
        listed = examples(f"{value!r} ({count})" for value, count in wrong.items())
        problems.append(Problem("split", f"the split column must hold train, val or test, but got {listed}"))
    return found


def _paths(column: pd.Series, root: Path, below: str, extension: str) -> pd.Series:
    end = extension if not extension or extension.startswith(".") else f".{extension}"

    def inside(cell: str) -> str:
        if not cell:
            return ""
        path = cell.replace("\\", "/") + end
        if path.startswith("/"):
            return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path
        return posixpath.normpath(posixpath.join(below.replace("\\", "/"), path))

    return column.map(inside)


def _case_ids(images: pd.Series, below: str, problems: list[Problem]) -> pd.Series:
    """Ids from paths: without the common folder, and without the ending where that leaves them different."""
    twice = images[images.duplicated() & (images != "")].unique()
    if len(twice):
        message = (
            f"{len(twice)} images stand in more than one row: {examples(twice)}. Keep one row per image, or name a "
            "column of ids (`case_id=...`)"
        )
        problems.append(Problem("duplicate_case", message))
    start = posixpath.normpath(below.replace("\\", "/")) + "/" if below else ""
    paths = images.map(lambda path: path.removeprefix(start).replace("/", "_"))
    stems = paths.map(lambda path: posixpath.splitext(path.removesuffix(".gz"))[0])
    return paths if stems.duplicated().any() else stems
