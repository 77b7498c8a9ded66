"""The one currency of prompts and its geometry; every writer, the mapper and the inferer share this module.

A prompt is a dict ``{kind, label, coords, point_labels}`` and stands for ONE object:

* ``kind``: how it came about, a name as `fairmedfm_monai.catalog.prompt_kinds.parse_kind` reads it, or `USER`;
* ``label``: name of the label that it asks for;
* ``coords``: points in voxel-centre indices (i, j) or (i, j, k) of the array that MONAI loads from the image *file*.
  For a picture (PNG, JPEG) i is the column and j the row, because MONAI's PIL reader puts columns first;
* ``point_labels``: one per point: 1 object, 0 background, 2 and 3 the lower and upper corner of a box, both inclusive.

and, where they are needed,

* ``text``: words that name the object;
* ``mask``: a mask prompt, run lengths of `fairmedfm_monai.transforms.prompt_masks` in the same array;
* ``target``: the reference mask of this very object, likewise, from which correction clicks are drawn;
* ``axis``: the prompt was made for slices along this axis of the *preprocessed* image; without it for any.

A prompt holds any number of points and at most one box; ``coords`` and ``point_labels`` may be empty where there is a
text or a mask. Several objects of a label are several prompts.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

from fairmedfm_monai.catalog import prompt_kinds
from fairmedfm_monai.transforms.prompt_masks import Rle, map_mask

logger = logging.getLogger(__name__)

# Spacings below this (mm) are zero written by a broken exporter, not microscopy.
_LEAST_SPACING = 1e-6
# Names of volumes that came without an affine: the first one is told, the log is not filled with the rest.
_WITHOUT_AFFINE: set[str] = set()
USER = prompt_kinds.USER
SIMULATED_KINDS = ("box", "center", "point", "points")
PROMPTS_KEY = "prompts"
SOURCE_PROMPTS_KEY = "source_prompts"
OBJECT, BACKGROUND, BOX_LOWER, BOX_UPPER = 1, 0, 2, 3


class _Points(TypedDict):
    kind: str
    label: str
    coords: list[list[float]]
    point_labels: list[int]


class Prompt(_Points, total=False):
    """One prompt, see the module's text."""

    text: str
    mask: Rle
    target: Rle
    axis: int


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


def map_prompt(
    prompt: Prompt, matrix: np.ndarray, *, half_voxel: float = 0.5, shape: Sequence[int] | None = None
) -> Prompt:
    """Move a prompt to another grid.

    A point moves with its voxel's centre. A box moves with the faces of its corner voxels and becomes the smallest box
    of the new grid around them, again with inclusive voxel-centre corners: a flip cannot swap its corners, an oblique
    map cannot cut it, and a tight box stays tight under resampling. Coordinates are rounded to 1e-4 voxels, which
    undoes the rounding errors of inverted affines: whole indices stay whole under flips and permutations. Masks are
    resampled, nearest voxel (`fairmedfm_monai.transforms.prompt_masks.map_mask`). Text and axis stay as they are.

    Args:
        prompt: in the old grid.
        matrix: (4, 4), old homogeneous coordinates -> new ones; 2D coordinates get a third coordinate 0.
        half_voxel: distance from a corner voxel's centre to its face, in old coordinates; 0 where these are no voxels
            but millimetres, whose corners are taken as voxel centres.
        shape: spatial shape of the new grid; needed for prompts with a mask.

    Raises:
        ValueError: a mask, but no `shape`.
    """
    result = prompt.copy()
    if prompt["point_labels"]:
        result["coords"] = _map_points(prompt, matrix, half_voxel)
    if "mask" not in prompt and "target" not in prompt:
        return result
    if shape is None:
        msg = f"a {prompt['kind']} prompt with a mask needs the shape of the new grid: give map_prompt(..., shape=...)"
        raise ValueError(msg)
    if "mask" in prompt:
        result["mask"] = map_mask(prompt["mask"], matrix, shape)
    if "target" in prompt:
        result["target"] = map_mask(prompt["target"], matrix, shape)
    return result


def _map_points(prompt: Prompt, matrix: np.ndarray, half_voxel: float) -> list[list[float]]:
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
    return (mapped.round(4) + 0.0).tolist()  # adding 0.0 turns -0.0 into 0.0


def _apply(coords: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    padded = np.pad(coords, ((0, 0), (0, 3 - coords.shape[1])))
    return (padded @ matrix[:3, :3].T + matrix[:3, 3])[:, : coords.shape[1]]


def file_affine(image: MetaTensor) -> np.ndarray:
    """Affine (4, 4) of the image file, voxel indices -> RAS mm.

    MONAI keeps it in ``meta["original_affine"]`` for volumes, but not for pictures: those get it here, so that
    writers of prompts, which run before any spatial transform, leave the mapper what it needs. A volume from a format
    without affine (NumPy) gets the identity that MONAI gives it, which is said once in the log.
    """
    if "original_affine" not in image.meta:
        if any("orig_size" in operation for operation in image.applied_operations):
            msg = (
                f"{case_name({}, image)}: the image has no meta['original_affine'] and spatial transforms ran already "
                f"({', '.join(str(o.get('class')) for o in image.applied_operations)}); put the transform that writes "
                "prompts right after loading"
            )
            raise ValueError(msg)
        if image.ndim == 4:
            _say_without_affine(file_name(image) or "a volume from memory")
        image.meta["original_affine"] = torch.as_tensor(image.affine).clone()
    return to_affine_nd(3, np.asarray(image.meta["original_affine"], dtype=float))


def _say_without_affine(name: str) -> None:
    if not _WITHOUT_AFFINE:
        logger.warning(
            "%s brings no affine, so the identity is assumed: voxels of 1 mm, axes to the right, the front and the "
            "top. Said once; there may be more such volumes",
            name,
        )
    _WITHOUT_AFFINE.add(name)


def voxel_spacing(affine: np.ndarray, *, where: str) -> np.ndarray:
    """Voxel spacing (3,) in mm of an affine (4, 4).

    Raises:
        ValueError: a spacing of zero, axes that lie in one plane, or numbers that are not finite; names the image.
    """
    linear = affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    # The volume of a voxel with edges of length 1 along the axes of the image: 1 where these are orthogonal.
    if not np.isfinite(affine).all() or (spacing < _LEAST_SPACING).any() or abs(np.linalg.det(linear / spacing)) < 1e-6:
        msg = (
            f"{where}: its affine cannot be used (a voxel spacing of zero, parallel axes or a number that is not "
            f"finite); correct the header of the image: {affine.tolist()}"
        )
        raise ValueError(msg)
    return spacing


def invert_affine(affine: np.ndarray, *, where: str) -> np.ndarray:
    """Inverse of an affine (4, 4); ValueError as in `voxel_spacing`."""
    voxel_spacing(affine, where=where)
    return np.linalg.inv(affine)


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
