"""The one currency of prompts and its geometry; every writer, the mapper and the inferer share this module.

A prompt is a dict ``{kind, label, coords, point_labels}`` and stands for ONE object:

* ``kind``: how it came about, one of `SIMULATED_KINDS` or `USER`;
* ``label``: name of the label that it asks for;
* ``coords``: points in voxel-centre indices (i, j) or (i, j, k) of the array that MONAI loads from the image *file*.
For a
  picture (PNG, JPEG) i is the column and j the row, because MONAI's PIL reader puts columns first;
* ``point_labels``: one per point: 1 object, 0 background, 2 and 3 the lower and upper corner of a box, both inclusive.

A prompt holds any number of points and at most one box. Several objects of a label are several prompts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

SIMULATED_KINDS = ("box", "center", "point", "points")
USER = "user"
PROMPTS_KEY = "prompts"
OBJECT, BACKGROUND, BOX_LOWER, BOX_UPPER = 1, 0, 2, 3
_POINT_LABELS = {OBJECT, BACKGROUND, BOX_LOWER, BOX_UPPER}


class Prompt(TypedDict):
    """One prompt, see the module's text."""

    kind: str
    label: str
    coords: list[list[float]]
    point_labels: list[int]


def label_values(labels: Mapping[str, int] | Sequence[str]) -> dict[str, int]:
    """Label names with their mask values: a mapping as it is, names alone are numbered 1, 2, ... in their order.

    Raises:
        ValueError: no label, a value below 1 (0 is the background) or one that is used twice.
    """
    if isinstance(labels, str):
        msg = f"labels must be a list of names or a mapping name -> mask value, got {labels!r}; write [{labels!r}]"
        raise ValueError(msg)
    values = dict(labels) if isinstance(labels, Mapping) else {name: number for number, name in enumerate(labels, 1)}
    if not values or min(values.values()) < 1 or len(set(values.values())) < len(values):
        msg = f"labels must hold at least one name with distinct mask values from 1 upwards, got {values}"
        raise ValueError(msg)
    return values


def check_prompt(prompt: Prompt, *, where: str, labels: Sequence[str] | None, shape: Sequence[int]) -> None:
    """Refuse a prompt that an inferer could not use.

    Args:
        prompt: coordinates in voxel-centre indices of an array of `shape`.
        where: how a message names its origin, e.g. "prompts.json, entry 3".
        labels: the names that are known; None = any.
        shape: spatial shape of the image, (H, W) or (H, W, D) in array order.

    Raises:
        ValueError: unknown label, wrong number of coordinates, unknown or unpaired point labels, a point outside the
            image or a box that does not touch it.
    """
    coords, point_labels = np.asarray(prompt["coords"], dtype=float), prompt["point_labels"]
    if labels is not None and prompt["label"] not in labels:
        msg = f"{where}: label {prompt['label']!r} is unknown, expected one of {', '.join(labels)}"
        raise ValueError(msg)
    if coords.shape != (len(point_labels), len(shape)) or not len(point_labels) or not np.isfinite(coords).all():
        msg = (
            f"{where}: expected {len(point_labels) or 'at least 1'} finite points of {len(shape)} coordinates each "
            f"(the image has shape {tuple(shape)}), got {prompt['coords']}"
        )
        raise ValueError(msg)
    corners = sorted(value for value in point_labels if value in (BOX_LOWER, BOX_UPPER))
    if not set(point_labels) <= _POINT_LABELS or corners not in ([], [BOX_LOWER, BOX_UPPER]):
        msg = (
            f"{where}: point_labels must be 1 (object), 0 (background) or a pair 2, 3 (box corners), got {point_labels}"
        )
        raise ValueError(msg)
    _check_inside(coords, np.asarray(point_labels), where=where, shape=np.asarray(shape))


def _check_inside(coords: np.ndarray, point_labels: np.ndarray, *, where: str, shape: np.ndarray) -> None:
    size = tuple(shape.tolist())
    points = coords[point_labels <= OBJECT]
    outside = ((points < -0.5) | (points > shape - 0.5)).any(axis=1)
    if outside.any():
        msg = (
            f"{where}: point {points[outside][0].round(2).tolist()} (voxel indices) lies outside the image of shape "
            f"{size}; give voxel indices of the image file, or RAS millimetres with space 'world'"
        )
        raise ValueError(msg)
    box = coords[point_labels >= BOX_LOWER]
    if len(box) and ((box.max(axis=0) < -0.5) | (box.min(axis=0) > shape - 0.5)).any():
        msg = f"{where}: box {box.round(2).tolist()} (voxel indices) lies outside the image of shape {size}"
        raise ValueError(msg)


def map_prompt(prompt: Prompt, matrix: np.ndarray, *, half_voxel: float = 0.5) -> Prompt:
    """Move a prompt to another grid.

    A point moves with its voxel's centre. A box moves with the faces of its corner voxels and becomes the smallest box
    of the new grid around them, again with inclusive voxel-centre corners: a flip cannot swap its corners, an oblique
    map cannot cut it, and a tight box stays tight under resampling. Coordinates are rounded to 1e-4 voxels, which
    undoes the rounding errors of inverted affines: whole indices stay whole under flips and permutations.

    Args:
        prompt: in the old grid.
        matrix: (4, 4), old homogeneous coordinates -> new ones; 2D coordinates get a third coordinate 0.
        half_voxel: distance from a corner voxel's centre to its face, in old coordinates; 0 where these are no voxels
            but millimetres, whose corners are taken as voxel centres.
    """
    coords, point_labels = np.asarray(prompt["coords"], dtype=float), np.asarray(prompt["point_labels"])
    mapped = _apply(coords, matrix)
    is_box = point_labels >= BOX_LOWER
    if is_box.any():
        ends = np.sort(coords[is_box], axis=0) + np.array([[-half_voxel], [half_voxel]])  # (2, D)
        faces = _apply(np.array(list(itertools.product(*ends.T))), matrix)
        corners = np.stack([faces.min(axis=0) + half_voxel, faces.max(axis=0) - half_voxel])
        # A box thinner than a new voxel is put on its middle.
        corners = np.where(corners[0] > corners[1], corners.mean(axis=0), corners)
        mapped[point_labels == BOX_LOWER], mapped[point_labels == BOX_UPPER] = corners
    # Adding 0.0 turns -0.0 into 0.0.
    return Prompt(
        kind=prompt["kind"],
        label=prompt["label"],
        coords=(mapped.round(4) + 0.0).tolist(),
        point_labels=point_labels.tolist(),
    )


def _apply(coords: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    padded = np.pad(coords, ((0, 0), (0, 3 - coords.shape[1])))
    return (padded @ matrix[:3, :3].T + matrix[:3, 3])[:, : coords.shape[1]]


def file_affine(image: MetaTensor) -> np.ndarray:
    """Affine (4, 4) of the image file, voxel indices -> RAS mm.

    MONAI keeps it in ``meta["original_affine"]`` for volumes, but not for pictures: those get it here, so that
    writers of prompts, which run before any spatial transform, leave the mapper what it needs.
    """
    if "original_affine" not in image.meta:
        if any("orig_size" in operation for operation in image.applied_operations):
            msg = (
                f"{case_name({}, image)}: the image has no meta['original_affine'] and spatial transforms ran already "
                f"({', '.join(str(o.get('class')) for o in image.applied_operations)}); put the transform that writes "
                "prompts right after loading"
            )
            raise ValueError(msg)
        image.meta["original_affine"] = torch.as_tensor(image.affine).clone()
    return to_affine_nd(3, np.asarray(image.meta["original_affine"], dtype=float))


def invert_affine(affine: np.ndarray, *, where: str) -> np.ndarray:
    """Inverse of an affine (4, 4), with a message that names the image when there is none."""
    try:
        return np.linalg.inv(affine)
    except np.linalg.LinAlgError as error:
        msg = f"{where}: its affine cannot be inverted (a voxel spacing of zero?): {affine.tolist()}"
        raise ValueError(msg) from error


def file_name(image: MetaTensor) -> str:
    """Name of the image file without folders, "" when the image came from memory."""
    return os.path.basename(str(image.meta.get("filename_or_obj", "")))


def case_name(data: Mapping[Any, Any], image: MetaTensor) -> str:
    """Case id of a data dict; the file name where there is none (MONAI Label passes only the image)."""
    return str(data.get("case_id") or file_name(image) or "image")


def as_image(data: Mapping[Any, Any], key: Any) -> MetaTensor:
    """The loaded image (C, spatial) under `key`; TypeError when it is not loaded yet."""
    image = data[key]
    if not isinstance(image, MetaTensor):
        msg = f"data[{key!r}] must be a loaded image (MetaTensor), got {type(image).__name__}; put LoadImaged first"
        raise TypeError(msg)
    return image


def add_prompts(data: dict[Any, Any], prompts: Sequence[Prompt]) -> None:
    """Append to the data dict's prompts without touching the list of whoever wrote there before."""
    data[PROMPTS_KEY] = [*data.get(PROMPTS_KEY, []), *prompts]
