"""Files in which users write prompts, JSON or CSV, and how their entries are read."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairmedfm_monai.transforms.prompts import BACKGROUND, BOX_LOWER, BOX_UPPER, OBJECT, USER, Prompt

SPACES = ("voxel", "world")
_FIELDS = ("case_id", "image", "label", "kind", "space", "box", "points", "coords", "point_labels")
_CSV_COLUMNS = ("case_id", "label", "type", "x", "y")
_CSV_POINTS = {"point": OBJECT, "positive": OBJECT, "negative": BACKGROUND, "background": BACKGROUND}


@dataclass(frozen=True)
class FilePrompt:
    """One entry of a prompt file.

    Attributes:
        case: case id or name of the image file that it belongs to.
        space: of the coordinates: "voxel" (indices of the image file) or "world" (RAS millimetres).
        where: file and entry, for messages.
        prompt: the prompt; its coordinates are still in `space`.
    """

    case: str
    space: str
    where: str
    prompt: Prompt

    def is_for(self, *, case_id: str, file_name: str) -> bool:
        """Whether the entry names this case, by its id, its file name, or its file name without endings."""
        return self.case in {case_id, file_name, file_name.split(".", maxsplit=1)[0]} - {""}


def read_prompt_file(path: str | Path, labels: Sequence[str] | None = None) -> list[FilePrompt]:
    """Read a prompt file.

    JSON: a list of entries, or ``{"space": ..., "label": ..., "prompts": [entries]}`` with defaults for all entries.
    An entry is one object: ``case_id`` (or ``image``, the file name), ``label`` (may be left out when there is only
    one), ``space`` ("voxel", the default, or "world"), and ``points`` with ``point_labels`` (1 object, 0 background;
    default 1) and/or ``box`` (two corners, both inclusive). ``coords`` with ``point_labels`` 0..3 is the raw form.

    CSV: columns ``case_id, label, type, x, y[, z, x2, y2, z2, space, object]``, one row per point (``type`` positive
        or negative) or box (``type`` box, second corner in x2, y2, z2). The points of a case and label are one
        object, each box is its own; rows with an equal entry in ``object`` are put together instead.

    Args:
        path: ends in .json or .csv.
        labels: known label names; None = any.

    Raises:
        FileNotFoundError: no such file.
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
    return [_file_prompt(entry, where, labels) for where, entry in entries]


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
        # Boxes without a name are objects of their own, so the place in the file stands for the name.
        name = row.get("object") or (where if row["type"] == "box" else "")
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

    if row["type"] == "box":
        if "box" in entry:
            msg = f"{where}: a second box for the same object; give each box its own value in column 'object'"
            raise ValueError(msg)
        entry["box"] = [corner(""), corner("2")]
    elif row["type"] in _CSV_POINTS:
        entry.setdefault("points", []).append(corner(""))
        entry.setdefault("point_labels", []).append(_CSV_POINTS[row["type"]])
    else:
        msg = f"{where}: type must be positive, negative or box, got {row['type']!r}"
        raise ValueError(msg)


def _file_prompt(entry: Mapping[str, Any], where: str, labels: Sequence[str] | None) -> FilePrompt:
    unknown = [name for name in entry if name not in _FIELDS]
    if unknown:
        msg = f"{where}: unknown field {', '.join(map(repr, unknown))}, expected some of {', '.join(_FIELDS)}"
        raise ValueError(msg)
    case = entry.get("case_id", entry.get("image"))
    if not isinstance(case, (str, int)) or not str(case):
        msg = f"{where}: 'case_id' (or 'image', the name of the image file) must be text, got {case!r}"
        raise ValueError(msg)
    label = entry.get("label", labels[0] if labels and len(labels) == 1 else None)
    if not isinstance(label, str) or (labels is not None and label not in labels):
        msg = f"{where}: 'label' must be {'one of ' + ', '.join(labels) if labels else 'text'}, got {label!r}"
        raise ValueError(msg)
    space = entry.get("space", "voxel")
    if space not in SPACES:
        msg = (
            f"{where}: 'space' must be 'voxel' (indices of the image file) or 'world' (RAS millimetres), got {space!r}"
        )
        raise ValueError(msg)
    coords, point_labels = _coordinates(entry, where)
    prompt = Prompt(kind=entry.get("kind", USER), label=label, coords=coords, point_labels=point_labels)
    return FilePrompt(case=str(case), space=space, where=where, prompt=prompt)


def _coordinates(entry: Mapping[str, Any], where: str) -> tuple[list[list[float]], list[int]]:
    if ("coords" in entry) == ("box" in entry or "points" in entry):
        msg = f"{where}: expected 'points' and/or 'box', or else 'coords' with 'point_labels', got {sorted(entry)}"
        raise ValueError(msg)
    points = _points(entry.get("coords", entry.get("points", [])), where)
    point_labels = entry.get("point_labels", [OBJECT] * len(points) if "coords" not in entry else None)
    allowed = {OBJECT, BACKGROUND} if "coords" not in entry else {OBJECT, BACKGROUND, BOX_LOWER, BOX_UPPER}
    if not isinstance(point_labels, list) or len(point_labels) != len(points) or not allowed.issuperset(point_labels):
        msg = (
            f"{where}: 'point_labels' must hold one of {sorted(allowed)} for each of {len(points)} points, "
            f"got {point_labels!r}"
        )
        raise ValueError(msg)
    if "box" not in entry:
        return points, point_labels
    box = _points(entry["box"], where)
    if len(box) != 2:
        msg = f"{where}: 'box' must be two corners such as [[10, 12, 3], [40, 50, 9]], got {entry['box']!r}"
        raise ValueError(msg)
    corners = [[min(ends) for ends in zip(*box, strict=True)], [max(ends) for ends in zip(*box, strict=True)]]
    return points + corners, [*point_labels, BOX_LOWER, BOX_UPPER]


def _points(value: Any, where: str) -> list[list[float]]:
    valid = isinstance(value, list) and all(isinstance(point, list) and len(point) in (2, 3) for point in value)
    numbers = valid and all(isinstance(x, (int, float)) and not isinstance(x, bool) for point in value for x in point)
    if not numbers or len({len(point) for point in value}) > 1:
        msg = f"{where}: expected a list of points with 2 or 3 numbers each, such as [[30, 10, 5]], got {value!r}"
        raise ValueError(msg)
    return [[float(x) for x in point] for point in value]
