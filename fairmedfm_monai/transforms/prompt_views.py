"""What a prompt is about: a label or its components, in a picture, in slices of a volume or in the volume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from fairmedfm_monai.transforms.prompt_masks import Rle, encode_block
from fairmedfm_monai.transforms.prompt_objects import ObjectMask

logger = logging.getLogger(__name__)

PER = ("slice", "volume", "key_slice")


@dataclass(frozen=True)
class View:
    """An object as a prompt sees it: in a picture, in a slice of a volume, or in a volume.

    Attributes:
        found: the object.
        label: everything of its label in the same view.
        shape: of the file's array.
        index: of the slice; 0 in a picture, "volume" in a volume. Random draws depend on it.
        axis: along which slices are cut, as the model sees them; None in pictures and volumes.
        file_axis: the same axis of the file.
        component: number of the component by size; None where the object is the whole label.
    """

    found: ObjectMask
    label: ObjectMask
    shape: tuple[int, ...]
    index: int | str
    axis: int | None = None
    file_axis: int | None = None
    component: int | None = None

    def coords(self, points: np.ndarray) -> list[list[float]]:
        """Points (N, D) in indices of the file."""
        return (points if self.file_axis is None else np.insert(points, self.file_axis, self.index, axis=1)).tolist()

    def mask(self, block: np.ndarray, start: np.ndarray) -> Rle:
        """Run lengths, in the grid of the file, of a block at index `start` of the view."""
        if self.file_axis is None:
            return encode_block(block, start, self.shape)
        place = np.insert(start, self.file_axis, self.index)
        return encode_block(np.expand_dims(block, self.file_axis), place, self.shape)

    def draw_parts(self) -> list[str]:
        """What random draws depend on beside case, seed, label and kind."""
        parts = [str(self.index)]
        # The last axis adds nothing, nor does the whole label: these draws are those of earlier versions.
        parts += [] if self.axis in (None, 2) else [f"axis {self.axis}"]
        return parts if self.component is None else [*parts, f"component {self.component}"]


def views(label: ObjectMask, *, per: str, axes: Mapping[int, int], least: int | None, where: str) -> Iterator[View]:
    """Every object of a label that gets a prompt.

    Components are those of what the model sees: of the slice (`per` "slice"), or of the volume, each with a key slice
    of its own (`per` "key_slice"). Distances count in pixels within a picture or slice, in millimetres in a volume.

    Args:
        label: all voxels of the label, 2 or 3 axes, in a tight block.
        per: one of `PER`; a picture is one view in any case.
        axes: along which a volume is cut: number in the preprocessed image -> number in the file.
        least: components with fewer voxels are skipped; None = the label as a whole.
        where: case and label, for the log.
    """
    split, shape = _Splitter(least), label.shape
    if len(shape) == 2:
        label = replace(label, spacing=np.ones(2))
        for number, found in split(label):
            yield View(found, label, shape, index=0, component=number)
    elif per == "volume":
        for number, found in split(label):
            yield View(found, label, shape, index="volume", component=number)
    else:
        for index, axis, number, found, whole in _planes(label, per, axes, split):
            yield View(found, whole, shape, index=index, axis=axis, file_axis=axes[axis], component=number)
    if split.skipped:
        logger.info("%s: %d components of fewer than %d voxels got no prompt", where, split.skipped, least)


def _planes(
    label: ObjectMask, per: str, axes: Mapping[int, int], split: _Splitter
) -> Iterator[tuple[int, int, int | None, ObjectMask, ObjectMask]]:
    """Index of the slice, axis, number of the component, the object and its whole label in that slice."""
    if per == "key_slice":
        parts = split(label)
        for axis, file_axis in axes.items():
            for number, part in parts:
                index = part.key_slice(file_axis)
                yield index, axis, number, part.plane(file_axis, index), label.plane(file_axis, index)
        return
    for axis, file_axis in axes.items():
        for index in label.slices(file_axis):
            plane = label.plane(file_axis, index)
            for number, found in split(plane):
                yield index, axis, number, found, plane


class _Splitter:
    """Cuts a label into the objects that are prompted and counts what it leaves out."""

    def __init__(self, least: int | None) -> None:
        self.least, self.skipped = least, 0

    def __call__(self, whole: ObjectMask) -> list[tuple[int | None, ObjectMask]]:
        if self.least is None:
            return [(None, whole)]
        parts, left_out = whole.components(self.least)
        self.skipped += left_out
        return list(enumerate(parts))
