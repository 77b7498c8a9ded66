"""Prompts drawn from a reference mask, for evaluation."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from scipy import ndimage

from fairmedfm_monai.transforms.prompts import (
    BOX_LOWER,
    BOX_UPPER,
    OBJECT,
    SIMULATED_KINDS,
    Prompt,
    add_prompts,
    as_image,
    case_name,
    file_affine,
    label_values,
)

logger = logging.getLogger(__name__)


def box_prompt(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tight box (2, 2) of a mask (H, W): the first and the last index of the object along each axis, both inclusive."""
    indices = np.argwhere(plane)
    return np.stack([indices.min(axis=0), indices.max(axis=0)])


def center_prompt(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixel (1, 2) of a mask (H, W) that is deepest inside, also when the object is concave or in several parts.

    It is the maximum of the Euclidean distance transform in pixels, with everything outside the picture as background.
    Of several maxima it is the one nearest to the centre of gravity, and of those the first in index order.
    """
    depth = ndimage.distance_transform_edt(np.pad(plane, 1))[1:-1, 1:-1]
    deepest = np.argwhere(depth == depth.max())
    from_centre = ((deepest - np.argwhere(plane).mean(axis=0)) ** 2).sum(axis=1)
    return deepest[[np.argmin(from_centre.round(6))]]


def point_prompt(plane: np.ndarray, rng: np.random.Generator, count: int = 1) -> np.ndarray:
    """`count` distinct object pixels (N, 2) of a mask (H, W), all equally likely; fewer if the object is smaller."""
    indices = np.argwhere(plane)
    return indices[rng.choice(len(indices), size=min(count, len(indices)), replace=False)]


def points_prompt(plane: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Five distinct object pixels (5, 2) of a mask (H, W), fewer if the object is smaller."""
    return point_prompt(plane, rng, count=5)


_SIMULATORS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "box": box_prompt,
    "center": center_prompt,
    "point": point_prompt,
    "points": points_prompt,
}


class SimulatePromptsd(MapTransform):
    """Draw prompts from the reference mask and put them under ``prompts``.

    Runs right after loading, before any spatial transform: coordinates are voxel-centre indices of the image file. An
    image (1, H, W) gets one prompt per label and kind; a volume (1, H, W, D) one per slice along `axis`, for models
    that see slices. A label that is absent gets none, which is logged. Every draw depends on nothing but the case id,
    `seed`, the label, the kind and the index of the slice.

    Args:
        keys: key of the mask, integers in one channel, in the grid of its image.
        labels: label name -> value in the mask.
        kinds: of `SIMULATED_KINDS`: ``box`` (tight, inclusive corners), ``center`` (deepest pixel), ``point`` (one
            random
            object pixel), ``points`` (five distinct ones).
        axis: the axis that numbers the slices; the one that the inferer is given.
        seed: of the random draws.
        axcodes: the orientation that a later ``Orientationd`` turns the image to, e.g. "LPS"; `axis` then counts in
            that
            orientation, so that slices are cut the way the model will see them. None: `axis` counts in the file.
        image_key: key of the image, whose grid the mask must share.
        allow_missing_keys: do nothing for a case without mask.

    Raises:
        ValueError: unknown kind, mask with several channels or in another grid than its image.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        labels: Mapping[str, int] | Sequence[str],
        kinds: Sequence[str] = SIMULATED_KINDS,
        axis: int = -1,
        seed: int = 0,
        axcodes: str | None = None,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        unknown = [kind for kind in kinds if kind not in SIMULATED_KINDS]
        if isinstance(kinds, str) or unknown or not kinds:
            msg = f"kinds must be a list of {', '.join(SIMULATED_KINDS)}, got {kinds!r}"
            raise ValueError(msg)
        self.labels, self.kinds = label_values(labels), tuple(kinds)
        self.axis, self.seed, self.axcodes, self.image_key = axis, seed, axcodes, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``prompts`` to a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            mask = as_image(result, key)
            image = as_image(result, self.image_key) if self.image_key in result else mask
            case = case_name(result, image)
            _check_grid(mask, image, case)
            add_prompts(result, list(self._simulate(mask, case)))
        return result

    def _simulate(self, mask: MetaTensor, case: str) -> Iterator[Prompt]:
        array = np.rint(np.asarray(mask[0])).astype(np.int32)
        regions = ndimage.find_objects(array, max_label=max(self.labels.values()))
        absent = [name for name, value in self.labels.items() if regions[value - 1] is None]
        if absent:
            level = logging.WARNING if len(absent) == len(self.labels) else logging.INFO
            logger.log(level, "%s: no prompt for %s: not in the mask", case, ", ".join(absent))
        axis = 2 if array.ndim == 2 else _file_axis(file_affine(mask), self.axis, self.axcodes)
        for name, value in self.labels.items():
            region = regions[value - 1]
            if region is None:
                continue
            # A picture is treated as a volume of one slice whose third index is dropped again.
            crop = (array[region] == value).reshape(*(s.stop - s.start for s in region), *[1] * (3 - array.ndim))
            origin = np.array([*(s.start for s in region), *[0] * (3 - array.ndim)])
            for index, kind, coords in self._slices(crop, origin, axis, case=case, label=name):
                points = np.insert(coords, axis, index, axis=1)[:, : array.ndim].tolist()
                point_labels = [BOX_LOWER, BOX_UPPER] if kind == "box" else [OBJECT] * len(points)
                yield Prompt(kind=kind, label=name, coords=points, point_labels=point_labels)

    def _slices(
        self, crop: np.ndarray, origin: np.ndarray, axis: int, *, case: str, label: str
    ) -> Iterator[tuple[int, str, np.ndarray]]:
        """Index of the slice, kind and in-plane coordinates (N, 2) for every slice of `crop` that holds the object."""
        in_plane = np.delete(origin, axis)
        for offset, plane in enumerate(np.moveaxis(crop, axis, 0)):
            if not plane.any():
                continue
            index = int(origin[axis]) + offset
            for kind in self.kinds:
                rng = _generator(case, self.seed, label, kind, index)
                yield index, kind, _SIMULATORS[kind](plane, rng) + in_plane


def _generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on `parts` only, on every machine."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def _file_axis(affine: np.ndarray, axis: int, axcodes: str | None) -> int:
    """The axis of the file that becomes `axis` when the volume is turned to `axcodes`."""
    if axcodes is None:
        return range(3)[axis]
    world_axis = nib.orientations.axcodes2ornt(axcodes)[axis, 0]
    return int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == world_axis)[0])


def _check_grid(mask: MetaTensor, image: MetaTensor, case: str) -> None:
    if mask.shape[0] != 1:
        msg = f"{case}: the mask must have one channel of integers, got shape {tuple(mask.shape)}"
        raise ValueError(msg)
    same_shape = mask.shape[1:] == image.shape[1:]
    if not same_shape or not np.allclose(file_affine(mask), file_affine(image), rtol=0, atol=1e-2):
        msg = (
            f"{case}: mask and image must share one grid; mask {tuple(mask.shape[1:])} with affine "
            f"{file_affine(mask).round(3).tolist()}, image {tuple(image.shape[1:])} with affine "
            f"{file_affine(image).round(3).tolist()}; resample the mask to its image first"
        )
        raise ValueError(msg)
