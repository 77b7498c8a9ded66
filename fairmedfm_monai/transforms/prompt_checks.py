"""What a prompt must fulfil before an inferer sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.data import MetaTensor

from fairmedfm_monai.transforms.prompts import BACKGROUND, BOX_LOWER, BOX_UPPER, OBJECT, Prompt, file_affine

_POINT_LABELS = {OBJECT, BACKGROUND, BOX_LOWER, BOX_UPPER}


def check_prompt(prompt: Prompt, *, where: str, labels: Sequence[str] | None, shape: Sequence[int]) -> None:
    """Refuse a prompt that an inferer could not use.

    Args:
        prompt: coordinates in voxel-centre indices of an array of `shape`.
        where: how a message names its origin, e.g. "prompts.json, entry 3".
        labels: the names that are known; None = any.
        shape: spatial shape of the image, (H, W) or (H, W, D) in array order.

    Raises:
        ValueError: unknown label, wrong number of coordinates, unknown or unpaired point labels, a point outside the
            image, a box that does not touch it, or a mask of another shape than the image.
    """
    if labels is not None and prompt["label"] not in labels:
        msg = f"{where}: label {prompt['label']!r} is unknown, expected one of {', '.join(labels)}"
        raise ValueError(msg)
    for mask in (prompt.get("mask"), prompt.get("target")):
        if mask is not None and mask["shape"] != list(shape):
            msg = f"{where}: mask {tuple(mask['shape'])} and image {tuple(shape)} must share one grid"
            raise ValueError(msg)
    if prompt["coords"] or prompt["point_labels"] or not ("text" in prompt or "mask" in prompt):
        _check_points(prompt, where=where, shape=np.asarray(shape))


def _check_points(prompt: Prompt, *, where: str, shape: np.ndarray) -> None:
    coords, point_labels = np.asarray(prompt["coords"], dtype=float), prompt["point_labels"]
    if coords.shape != (len(point_labels), len(shape)) or not len(point_labels) or not np.isfinite(coords).all():
        msg = (
            f"{where}: expected {len(point_labels) or 'at least 1'} finite points of {len(shape)} coordinates each "
            f"(the image has shape {tuple(shape.tolist())}), got {prompt['coords']}"
        )
        raise ValueError(msg)
    corners = sorted(value for value in point_labels if value in (BOX_LOWER, BOX_UPPER))
    if not set(point_labels) <= _POINT_LABELS or corners not in ([], [BOX_LOWER, BOX_UPPER]):
        msg = (
            f"{where}: point_labels must be 1 (object), 0 (background) or a pair 2, 3 (box corners), got {point_labels}"
        )
        raise ValueError(msg)
    _check_inside(coords, np.asarray(point_labels), where=where, shape=shape)


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


def check_box(box: np.ndarray, *, where: str) -> None:
    """Refuse a box that a hand drew by accident: a dot or a line. In a volume it may be one slice thick.

    Args:
        box: (2, D), its lower and its upper corner.
        where: how a message names its origin.

    Raises:
        ValueError: the corners agree along so many axes that fewer than two are left.
    """
    if (box[0] != box[1]).sum() < 2:
        msg = (
            f"{where}: the box {box.tolist()} has no size; give two opposite corners (in a volume it may be one slice)"
        )
        raise ValueError(msg)


def check_grid(mask: MetaTensor, image: MetaTensor, *, where: str, affines: bool = True) -> None:
    """Refuse a mask (C, spatial) in another grid than its image.

    Args:
        mask: loaded, before any spatial transform.
        image: likewise.
        where: how a message names the two.
        affines: whether these are compared, to 0.01 mm; otherwise shapes alone.

    Raises:
        ValueError: another shape or affine.
    """
    same = mask.shape[1:] == image.shape[1:]
    if same and affines:
        same = np.allclose(file_affine(mask), file_affine(image), rtol=0, atol=1e-2)
    if not same:
        msg = (
            f"{where}: mask and image must share one grid; mask {tuple(mask.shape[1:])} with affine "
            f"{file_affine(mask).round(3).tolist()}, image {tuple(image.shape[1:])} with affine "
            f"{file_affine(image).round(3).tolist()}; resample the mask to its image first"
        )
        raise ValueError(msg)
