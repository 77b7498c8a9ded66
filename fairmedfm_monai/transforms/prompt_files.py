"""Files in which users write prompts, JSON or CSV, and how their entries are read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairmedfm_monai.transforms.prompt_entries import FilePrompt, file_prompt
from fairmedfm_monai.transforms.prompts import BACKGROUND, OBJECT

_CSV_COLUMNS = ("case_id", "label", "type", "x", "y")
_CSV_POINTS = {"point": OBJECT, "positive": OBJECT, "negative": BACKGROUND, "background": BACKGROUND}


def read_prompt_file(path: str | Path, labels: Sequence[str] | None = None) -> list[FilePrompt]:
    """Read a prompt file.

    JSON: a list of entries, or ``{"space": ..., "label": ..., "prompts": [entries]}`` with defaults for all entries.
    An entry is one object: ``case_id`` (or ``image``, the file name), ``label`` (may be left out when there is only
    one), ``space`` ("voxel", the default, or "world"), and ``points`` with ``point_labels`` (1 object, 0 background;
    default 1), ``box`` (two corners, both inclusive), ``text`` (words, for models that read them) and/or ``mask``: the
    path of a mask in the grid of its image, relative to the prompts file, every value but 0 being the object, or the
    value ``mask_value``. ``coords`` with ``point_labels`` 0..3, ``mask`` and ``target`` as run lengths, ``kind`` and
    ``axis`` are the raw form that runs write.

    CSV: columns ``case_id, label, type, x, y[, z, x2, y2, z2, space, object, text, mask, mask_value]``, one row per
    point (``type`` positive or negative), box (``type`` box, second corner in x2, y2, z2), text (``type`` text) or mask
    (``type`` mask). The points of a case and label are one object, each box, text and mask is its own; rows with an
    equal entry in ``object`` are put together instead.

    Args:
        path: ends in .json or .csv.
        labels: known label names; None = any.

    Raises:
        FileNotFoundError: no such file, or a mask that it names is missing.
        ValueError: names the file, the entry, what was expected and what came.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"prompts file {path} does not exist; give a .json or .csv file, or null for none"
        raise FileNotFoundError(msg)
    if path.suffix.lower() not in {".json", ".csv"}:
        msg = f"prompts file {path}: expected a .json or .csv file"
        raise ValueError(msg)
    entries = _json_entries(path) if path.suffix.lower() == ".json" else _csv_entries(path)
    return [file_prompt(entry, where=where, labels=labels, folder=path.parent) for where, entry in entries]


def _json_entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"prompts file {path}: not valid JSON: {error}"
        raise ValueError(msg) from error
    defaults: dict[str, Any] = {}
    if isinstance(content, dict):
        defaults = {name: value for name, value in content.items() if name != "prompts"}
        content = content.get("prompts")
    if not isinstance(content, list):
        msg = (
            f"prompts file {path}: expected a list of entries or {{'prompts': [entries]}}, got {type(content).__name__}"
        )
        raise ValueError(msg)
    entries = []
    for number, entry in enumerate(content, 1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            msg = f"{where}: expected an object with case_id, label and points or box, got {entry!r}"
            raise ValueError(msg)
        entries.append((where, {**defaults, **entry}))
    return entries


def _csv_entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _CSV_COLUMNS if column not in (reader.fieldnames or [])]
        if missing:
            found = ", ".join(reader.fieldnames or [])
            msg = f"prompts file {path}: columns {', '.join(missing)} are missing, got {found}"
            raise ValueError(msg)
        rows = [(f"{path}, line {reader.line_num}", row) for row in reader]
    entries: dict[tuple[str | None, ...], tuple[str, dict[str, Any]]] = {}
    for where, row in rows:
        # Without a name all but points are objects of their own, so the place in the file stands for the name.
        name = row.get("object") or ("" if row["type"] in _CSV_POINTS else where)
        key = (row["case_id"], row["label"], row.get("space"), name)
        fields = {"case_id": row["case_id"], "label": row["label"], "space": row.get("space")}
        _, entry = entries.setdefault(key, (where, {name: value for name, value in fields.items() if value}))
        _add_csv_row(entry, row, where)
    return list(entries.values())


def _add_csv_row(entry: dict[str, Any], row: Mapping[str, str], where: str) -> None:
    def corner(suffix: str) -> list[float]:
        try:
            return [float(row[axis + suffix]) for axis in "xyz" if row.get(axis + suffix) not in (None, "")]
        except ValueError as error:
            msg = f"{where}: coordinates must be numbers: {error}"
            raise ValueError(msg) from error

    def add(name: str, value: Any) -> None:
        if value in (None, ""):
            msg = f"{where}: a row of type {name} needs a value in column {name!r}"
            raise ValueError(msg)
        if name in entry:
            msg = f"{where}: a second {name} for the same object; give each {name} its own value in column 'object'"
            raise ValueError(msg)
        entry[name] = value

    if row["type"] == "box":
        add("box", [corner(""), corner("2")])
    elif row["type"] in ("text", "mask"):
        add(row["type"], row.get(row["type"]))
        if row["type"] == "mask" and row.get("mask_value"):
            entry["mask_value"] = row["mask_value"]
    elif row["type"] in _CSV_POINTS:
        entry.setdefault("points", []).append(corner(""))
        entry.setdefault("point_labels", []).append(_CSV_POINTS[row["type"]])
    else:
        msg = f"{where}: type must be positive, negative, box, text or mask, got {row['type']!r}"
        raise ValueError(msg)
