"""One entry of a prompt file: what it may hold and how it is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairmedfm_monai.catalog.prompt_kinds import parse_kind
from fairmedfm_monai.transforms.prompt_checks import check_box
from fairmedfm_monai.transforms.prompt_masks import Rle, decode_block
from fairmedfm_monai.transforms.prompts import BACKGROUND, BOX_LOWER, BOX_UPPER, OBJECT, USER, Prompt

SPACES = ("voxel", "world")
_PLACES = ("box", "points", "coords", "text", "mask")
_FIELDS = ("case_id", "image", "label", "kind", "space", *_PLACES, "point_labels", "mask_value", "target", "axis")


@dataclass(frozen=True)
class FilePrompt:
    """One entry of a prompt file.

    Attributes:
        case: case id or name of the image file that it belongs to.
        space: of the coordinates: "voxel" (indices of the image file) or "world" (RAS millimetres).
        where: file and entry, for messages.
        prompt: the prompt; its coordinates are still in `space`.
        mask_file: mask in the grid of the image that belongs to the prompt; None = none.
        mask_value: the value of the object in that mask; None = everything but 0.
    """

    case: str
    space: str
    where: str
    prompt: Prompt
    mask_file: Path | None = None
    mask_value: int | None = None

    def is_for(self, *, case_id: str, file_name: str) -> bool:
        """Whether the entry names this case, by its id, its file name, or its file name without endings."""
        return self.case in {case_id, file_name, file_name.split(".", maxsplit=1)[0]} - {""}


def file_prompt(entry: Mapping[str, Any], *, where: str, labels: Sequence[str] | None, folder: Path) -> FilePrompt:
    """Check an entry, a dict of the fields that `read_prompt_file` describes, and turn it into a prompt.

    Args:
        entry: as it stands in the file.
        where: file and entry, for messages.
        labels: known label names; None = any.
        folder: that paths of masks are relative to.

    Raises:
        FileNotFoundError: the mask does not exist.
        ValueError: names the entry, what was expected and what came.
    """
    unknown = [name for name in entry if name not in _FIELDS]
    if unknown:
        msg = f"{where}: unknown field {', '.join(map(repr, unknown))}, expected some of {', '.join(_FIELDS)}"
        raise ValueError(msg)
    case = entry.get("case_id", entry.get("image"))
    if not isinstance(case, (str, int)) or not str(case):
        msg = f"{where}: 'case_id' (or 'image', the name of the image file) must be text, got {case!r}"
        raise ValueError(msg)
    space = entry.get("space", "voxel")
    if space not in SPACES:
        msg = (
            f"{where}: 'space' must be 'voxel' (indices of the image file) or 'world' (RAS millimetres), got {space!r}"
        )
        raise ValueError(msg)
    label, kind = _label(entry, where, labels), _kind(entry, where)
    coords, point_labels = _coordinates(entry, where)
    prompt = Prompt(kind=kind, label=label, coords=coords, point_labels=point_labels)
    _add_extras(prompt, entry, where)
    path, value = _mask_file(entry, where, folder)
    return FilePrompt(case=str(case), space=space, where=where, prompt=prompt, mask_file=path, mask_value=value)


def _label(entry: Mapping[str, Any], where: str, labels: Sequence[str] | None) -> str:
    label = entry.get("label", labels[0] if labels and len(labels) == 1 else None)
    if not isinstance(label, str) or (labels is not None and label not in labels):
        msg = f"{where}: 'label' must be {'one of ' + ', '.join(labels) if labels else 'text'}, got {label!r}"
        raise ValueError(msg)
    return label


def _kind(entry: Mapping[str, Any], where: str) -> str:
    try:
        return parse_kind(entry.get("kind", USER)).name
    except ValueError as error:
        msg = f"{where}: {error}"
        raise ValueError(msg) from error


def _add_extras(prompt: Prompt, entry: Mapping[str, Any], where: str) -> None:
    """Text, run lengths and axis, where the entry has them."""
    if "text" in entry:
        if not isinstance(entry["text"], str) or not entry["text"].strip():
            msg = f"{where}: 'text' must be words such as 'left kidney', got {entry['text']!r}"
            raise ValueError(msg)
        prompt["text"] = entry["text"]
    if isinstance(entry.get("mask"), dict):
        prompt["mask"] = _runs(entry["mask"], where, "mask")
    if "target" in entry:
        prompt["target"] = _runs(entry["target"], where, "target")
    if "axis" in entry:
        if entry["axis"] not in (0, 1, 2):
            msg = f"{where}: 'axis' must be 0, 1 or 2, got {entry['axis']!r}"
            raise ValueError(msg)
        prompt["axis"] = entry["axis"]


def _runs(value: Any, where: str, name: str) -> Rle:
    try:
        decode_block(value)
    except (TypeError, KeyError, ValueError) as error:
        msg = f"{where}: {name!r} must be run lengths {{'shape': [...], 'counts': [...]}}: {error}"
        raise ValueError(msg) from error
    return value


def _mask_file(entry: Mapping[str, Any], where: str, folder: Path) -> tuple[Path | None, int | None]:
    """Path of the mask that the entry names and the value of the object in it."""
    name, value = entry.get("mask"), entry.get("mask_value")
    if name is None or isinstance(name, dict):
        return None, None
    if not isinstance(name, str) or not name:
        msg = f"{where}: 'mask' must be the path of a mask, or run lengths, got {name!r}"
        raise ValueError(msg)
    path = folder / name
    if not path.exists():
        msg = f"{where}: mask {path} does not exist; its path is relative to the folder of the prompts file"
        raise FileNotFoundError(msg)
    if value is not None and not str(value).isdecimal():
        msg = f"{where}: 'mask_value' must be a whole number from 0 upwards, got {value!r}"
        raise ValueError(msg)
    return path, None if value is None else int(value)


def _coordinates(entry: Mapping[str, Any], where: str) -> tuple[list[list[float]], list[int]]:
    if not any(name in entry for name in _PLACES) or ("coords" in entry and ("box" in entry or "points" in entry)):
        msg = (
            f"{where}: expected 'points' and/or 'box', 'text', 'mask', or else 'coords' with 'point_labels', got "
            f"{sorted(entry)}"
        )
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
    corners = np.sort(box, axis=0)
    check_box(corners, where=where)
    return points + corners.tolist(), [*point_labels, BOX_LOWER, BOX_UPPER]


def _points(value: Any, where: str) -> list[list[float]]:
    valid = isinstance(value, list) and all(isinstance(point, list) and len(point) in (2, 3) for point in value)
    numbers = valid and all(isinstance(x, (int, float)) and not isinstance(x, bool) for point in value for x in point)
    if not numbers or len({len(point) for point in value}) > 1:
        msg = f"{where}: expected a list of points with 2 or 3 numbers each, such as [[30, 10, 5]], got {value!r}"
        raise ValueError(msg)
    return [[float(x) for x in point] for point in value]
