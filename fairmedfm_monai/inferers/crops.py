"""Masks that travel with prompts, kept as the box around their object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairmedfm_monai.transforms.prompt_masks import Rle, decode_block, tight


@dataclass(frozen=True)
class MaskCrop:
    """A mask of a volume (X, Y, Z) of which only the box around the object is held.

    Attributes:
        shape: of the volume; an image (H, W) counts as (H, W, 1).
        start: index in the volume of the first voxel of `block`.
        block: of bool, the part of the mask that holds the object; without voxels where there is none.
    """

    shape: tuple[int, ...]
    start: tuple[int, ...]
    block: np.ndarray

    @classmethod
    def of(cls, rle: Rle, *, shape: Sequence[int], name: str) -> MaskCrop:
        """Decode run lengths.

        Args:
            rle: as `fairmedfm_monai.transforms.prompt_masks` writes them.
            shape: (H, W) or (H, W, D) that the mask must have, that of its image.
            name: what the message calls it.

        Raises:
            ValueError: the mask has another shape, or its runs do not fill it.
        """
        if list(rle["shape"]) != list(shape):
            msg = (
                f"the {name} has shape {tuple(rle['shape'])}, expected the image's shape {tuple(shape)}; let "
                "PromptsToMetad map it to the preprocessed image"
            )
            raise ValueError(msg)
        block, start = tight(*decode_block(rle))
        flat = [1] * (3 - len(shape))
        return cls((*shape, *flat), (*start.tolist(), *[0] * len(flat)), block.reshape(*block.shape, *flat).copy())

    def slices(self, axis: int) -> list[int]:
        """Indices along `axis` of the slices that hold a part of the object."""
        others = tuple(other for other in range(3) if other != axis)
        return [int(index) + self.start[axis] for index in np.flatnonzero(self.block.any(axis=others))]

    def picture(self, axis: int, index: int) -> np.ndarray:
        """The slice (rows, columns) of bool at `index`: rows are the second in-plane axis, columns the first."""
        first, second = (other for other in range(3) if other != axis)
        picture = np.zeros((self.shape[second], self.shape[first]), dtype=bool)
        offset = index - self.start[axis]
        if 0 <= offset < self.block.shape[axis]:
            plane = np.take(self.block, offset, axis=axis).T
            row, column = self.start[second], self.start[first]
            picture[row : row + plane.shape[0], column : column + plane.shape[1]] = plane
        return picture
