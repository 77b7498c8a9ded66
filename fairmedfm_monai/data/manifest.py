"""The manifest: one row per image or volume, as text, checked against the dataset card."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fairmedfm_monai.data.card import UNKNOWN, Attribute, Card, raw_text
from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.data.csv_files import read_text_table
from fairmedfm_monai.data.problems import DatasetError, Problem, examples

MANIFEST_FILES = ("manifest.csv", "manifest.parquet")
SPLITS = ("train", "val", "test")
REQUIRED = ("case_id", "patient_id", "image")
# What pandas and spreadsheets write for an empty cell; a card may still give one of them to a group.
EMPTY_CELLS = frozenset({"", "nan", "NaN", "NA", "N/A", "<NA>", "null", "NULL", "None"})
_DICOM_AGE = re.compile(r"(\d{3})([DWMY])")
_DAYS = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}  # units per year


def find_manifest(root: Path) -> Path:
    """The manifest file of a folder.

    Raises:
        DatasetError: there is none, or one in both formats.
    """
    found = [root / name for name in MANIFEST_FILES if (root / name).is_file()]
    if len(found) == 1:
        return found[0]
    message = "both manifest.csv and manifest.parquet are there; delete the one that is out of date"
    if not found:
        message = "there is neither manifest.csv nor manifest.parquet"
    raise DatasetError(root, [Problem("manifest", message)])


def read_manifest(path: str | Path) -> pd.DataFrame:
    """Read a manifest (file, or the folder that holds it); every cell becomes stripped text, empty where missing.

    Raises:
        DatasetError: no manifest, or a file that cannot be parsed.
    """
    file = find_manifest(Path(path)) if Path(path).is_dir() else Path(path)
    try:
        if file.suffix != ".parquet":
            return read_text_table(file, (*REQUIRED, "split", "label", "mask"))
        table = pd.read_parquet(file)
    except Exception as error:  # pyarrow raises many kinds; all mean that the file is no table
        message = f"the manifest cannot be read: {file.name}: {error}"
        raise DatasetError(file, [Problem("manifest_unreadable", message)]) from error
    texts = {str(name).strip(): table[name].astype(object).map(raw_text).astype(object) for name in table.columns}
    return pd.DataFrame(texts, index=pd.RangeIndex(len(table)))


def write_manifest(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a manifest (into a folder as ``manifest.csv``, or to the file named) in one step, and return the file."""
    file = Path(path) / "manifest.csv" if Path(path).is_dir() else Path(path)
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    if file.suffix == ".parquet":
        table.to_parquet(scratch, index=False)
    else:
        table.to_csv(scratch, index=False, lineterminator="\n")
    os.replace(scratch, file)
    return file


def years(raw: str) -> float | None:
    """Age in years of ``"63"``, ``"63.5"`` or a DICOM age such as ``"063Y"`` or ``"018M"``; None when it is neither."""
    match = _DICOM_AGE.fullmatch(raw)
    if match:
        return int(match[1]) / _DAYS[match[2]]
    try:
        return float(raw)
    except ValueError:
        return None


def classify_value(attribute: Attribute, raw: object) -> tuple[str, str]:
    """Group of a raw value and how it was found.

    Returns:
        The group slug or ``"unknown"``, and one of ``mapped``, ``missing``, ``unmapped``, ``impossible`` (a number
        outside all bins). Bins are ``[low, high)``: with edges 0, 60, 200 an age of 60 is in the second group.
    """
    text = raw_text(raw)
    if text in attribute.mapping:
        return attribute.mapping[text], "mapped"
    if text in attribute.missing or text in EMPTY_CELLS:
        return UNKNOWN, "missing"
    if not attribute.bins:
        return UNKNOWN, "unmapped"
    number = years(text)
    if number is None:
        return UNKNOWN, "unmapped"
    for group, low, high in zip(attribute.groups, attribute.bins, attribute.bins[1:], strict=False):
        if low <= number < high:
            return group, "mapped"
    return UNKNOWN, "impossible"


def group_of(attribute: Attribute, raw: object) -> str:
    """Group slug of a raw value, ``"unknown"`` where it has none. See `classify_value`."""
    return classify_value(attribute, raw)[0]


def group_column(attribute: Attribute, table: pd.DataFrame) -> pd.Series:
    """Group slug of each row, from the attribute's column (all ``"unknown"`` where the manifest lacks it)."""
    if attribute.column not in table:
        return pd.Series(UNKNOWN, index=table.index, dtype=object)
    column = table[attribute.column]
    groups: Mapping[object, str] = {raw: group_of(attribute, raw) for raw in column.unique()}
    return column.map(groups).astype(object)


def label_columns(card: Card) -> list[str]:
    """Columns of the manifest that hold the truth: ``mask``, ``label``, or one column per class."""
    if card.task == "segmentation":
        return ["mask"]
    return list(card.classes) if card.multi_label else ["label"]


def label_codes(card: Card) -> dict[str, int]:
    """Text of a label cell -> class index; class names come before indices."""
    if card.multi_label:
        return {"0": 0, "1": 1}
    names = list(card.classes)
    return {str(index): index for index in range(len(names))} | {name: index for index, name in enumerate(names)}


def check_manifest(
    table: pd.DataFrame, card: Card | None, *, require_labels: bool = True, strict: bool = False
) -> list[Problem]:
    """Every problem of the table itself; files are looked at by `fairmedfm_monai.data.checks`.

    Args:
        table: as `read_manifest` gives it, one row per case.
        card: the dataset card; None checks only what needs none.
        require_labels: False where only predictions are wanted: missing labels or masks are then fine.
        strict: whether an attribute value that the card does not name is an error (preparers) or a warning (users).
    """
    problems = [] if len(table) else [Problem("empty", "the manifest has no row")]
    problems += _check_ids(table)
    problems += _check_splits(table)
    if card is None:
        return problems
    problems += _check_columns(table, card, require_labels=require_labels)
    for column in label_columns(card):
        if column in table:
            problems += _check_truth(table[column], card, require_labels=require_labels)
    for attribute in card.attributes.values():
        if attribute.column in table:
            problems += _check_attribute(attribute, table[attribute.column], strict=strict)
    return problems


def _check_columns(table: pd.DataFrame, card: Card, *, require_labels: bool) -> list[Problem]:
    columns = list(table.columns)
    truth = label_columns(card)
    problems = []
    for name in [*REQUIRED, *(truth if require_labels else [])]:
        if name not in columns:
            hint = did_you_mean(name, columns) or f"; it has {examples(columns)}"
            problems.append(Problem("missing_column", f"the manifest lacks the column {name!r}{hint}"))
    for attribute in card.attributes.values():
        if attribute.column not in columns:
            hint = did_you_mean(attribute.column, columns)
            message = f"attribute {attribute.name!r}: the manifest lacks its column {attribute.column!r}{hint}"
            problems.append(Problem("missing_column", message))
    used = (attribute.column for attribute in card.attributes.values())
    known = {*REQUIRED, *truth, "split", *used, *card.extra_columns}
    extra = [name for name in columns if name not in known]
    if extra:
        message = f"columns that the card does not use are left out: {examples(extra)}"
        problems.append(Problem("unknown_column", message, "warning"))
    return problems


def _check_ids(table: pd.DataFrame) -> list[Problem]:
    problems = []
    for name in [name for name in REQUIRED if name in table]:
        empty = int((table[name] == "").sum())
        if empty:
            problems.append(Problem("empty_cell", f"column {name!r} is empty in {empty} of {len(table)} rows"))
    if "case_id" in table:
        ids = table["case_id"]
        twice = ids[ids.duplicated() & (ids != "")].unique()
        if len(twice):
            message = f"{len(twice)} case ids stand in more than one row: {examples(twice)}"
            problems.append(Problem("duplicate_case", message))
    return problems


def _check_splits(table: pd.DataFrame) -> list[Problem]:
    if "split" not in table:
        return []
    problems = []
    counts = table["split"].value_counts()
    wrong = [f"{name!r} ({count})" for name, count in counts.items() if name not in SPLITS]
    if wrong:
        message = f"column 'split' must hold train, val or test, but got {examples(wrong)}"
        problems.append(Problem("split", message))
    if "patient_id" in table:
        rows = table[table["patient_id"] != ""]
        splits = rows.groupby("patient_id")["split"].nunique()
        several = list(splits.index[splits > 1])
        if several:
            message = f"{len(several)} patients are in more than one split: {examples(several)}"
            problems.append(Problem("patient_in_splits", message))
    return problems


def _check_truth(column: pd.Series, card: Card, *, require_labels: bool) -> list[Problem]:
    problems = []
    empty = int(column.isin(EMPTY_CELLS).sum())
    if empty and require_labels:
        message = f"column {column.name!r} is empty in {empty} of {len(column)} rows"
        problems.append(Problem("empty_cell", message))
    if card.task == "segmentation":
        return problems
    codes = label_codes(card)
    counts = column[~column.isin(EMPTY_CELLS)].value_counts()
    wrong = [f"{value!r} ({count})" for value, count in counts.items() if value not in codes]
    if wrong:
        allowed = "0 or 1" if card.multi_label else f"a class name or index of {examples(card.classes)}"
        problems.append(Problem("label", f"column {column.name!r} must hold {allowed}, but got {examples(wrong)}"))
    return problems


def _check_attribute(attribute: Attribute, column: pd.Series, *, strict: bool) -> list[Problem]:
    found: dict[str, list[str]] = {}
    for raw, count in column.value_counts().items():
        found.setdefault(classify_value(attribute, raw)[1], []).append(f"{raw!r} ({count})")
    problems = []
    if "unmapped" in found:
        message = (
            f"attribute {attribute.name!r}: the card maps no group to {examples(found['unmapped'])} of column "
            f"{attribute.column!r}; counted as unknown (add them to `groups` or `missing`)"
        )
        problems.append(Problem("unmapped", message, "error" if strict else "warning"))
    if "impossible" in found:
        edges = f"[{attribute.bins[0]:g}, {attribute.bins[-1]:g})"
        message = (
            f"attribute {attribute.name!r}: numbers outside {edges} count as unknown: {examples(found['impossible'])}"
        )
        problems.append(Problem("impossible", message, "warning"))
    return problems
