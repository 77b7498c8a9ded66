"""Resizing as published models did it: 8-bit images, PIL's filters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray
from PIL import Image

MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,  # area averaging
}
PADS = ("centre", "end")
_SUPPORT = 2  # of the widest filter, in pixels of the larger grid
_MOST_PIXELS = 2**24  # of a resized picture: 334 times as long as wide at 224 pixels


class PILResized(MapTransform):
    """Resize and crop images with PIL, to the pixels of torchvision's ``Resize`` and ``CenterCrop`` on a PIL image.

    Weights were trained on images that PIL resized in 8 bit, with an antialiased filter of its own; other resizers
    differ by a few grey levels, which moves published numbers. Volumes (C, H, W, D) are resized slice by slice.

    Args:
        keys: images (C, H, W[, D]) in [0, 1], C = 1 or 3; rounded to 8 bit.
        size: edge in pixels.
        mode: ``shortest``: the short side becomes `size`, the long one keeps the aspect (rounded down, as torchvision
            does); ``longest``: the long side becomes `size`; ``squash``: both.
        interpolation: ``bilinear``, ``bicubic`` or ``box`` (area averaging).
        crop: edge of the square cut from the middle afterwards; what is smaller is padded with 0. None = no cut.
        pad: where padding goes: ``centre``: to all sides alike, ``end``: right and below.

    Raises:
        ValueError: an unknown mode or interpolation, a size below 1, or an image that has neither 1 nor 3 channels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        size: int,
        mode: str = "shortest",
        interpolation: str = "bicubic",
        crop: int | None = None,
        pad: str = "centre",
    ) -> None:
        super().__init__(keys)
        if mode not in MODES or interpolation not in INTERPOLATIONS or pad not in PADS or size < 1:
            msg = (
                f"`size` must be at least 1, `mode` one of {', '.join(MODES)}, `interpolation` one of "
                f"{', '.join(INTERPOLATIONS)} and `pad` one of {', '.join(PADS)}, but got {size}, {mode!r}, "
                f"{interpolation!r} and {pad!r}"
            )
            raise ValueError(msg)
        self.size, self.mode, self.filter, self.crop = int(size), mode, INTERPOLATIONS[interpolation], crop
        self.pad = pad

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize the images of every key in a copy of `data`."""
        result = dict(data)
        for key in self.key_iterator(result):
            image = torch.as_tensor(result[key])
            resized = self._resize(image)
            result[key] = MetaTensor(resized).copy_meta_from(image) if isinstance(image, MetaTensor) else resized
        return result

    def _resize(self, image: torch.Tensor) -> torch.Tensor:
        if image.ndim not in (3, 4) or image.shape[0] not in (1, 3):
            msg = f"images must be (1 or 3, H, W[, D]) to be resized by PIL, but one has shape {tuple(image.shape)}"
            raise ValueError(msg)
        values = np.asarray(image.as_subclass(torch.Tensor).detach().cpu(), dtype=np.float32)
        array = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        if array.ndim == 3:
            return torch.from_numpy(self._picture(array))
        slices = [self._picture(array[..., index]) for index in range(array.shape[-1])]
        return torch.from_numpy(np.stack(slices, axis=-1))

    def _picture(self, array: NDArray[np.uint8]) -> NDArray[np.float32]:
        """One picture (C, H, W) of 8 bit, resized, in [0, 1]."""
        picture = Image.fromarray(array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))
        resized: NDArray[np.float32] = np.asarray(self._fitted(picture), dtype=np.float32) / np.float32(255)
        channels = resized[None] if resized.ndim == 2 else resized.transpose(2, 0, 1)
        if self.crop is not None:
            channels = _centre(channels, self.crop, at_end=self.pad == "end")
        return np.ascontiguousarray(channels, dtype=np.float32)

    def _fitted(self, picture: Image.Image) -> Image.Image:
        """Resized; of a picture so elongated that it would become a huge one, only the part that the crop keeps.

        1 x 20,000 pixels would become a thousand million. The part is that of the whole, within a grey level: PIL takes
        the borders of a box with 24 bits.
        """
        edges = list(self._target(*picture.size))
        if self.crop is None or max(edges) <= self.crop or edges[0] * edges[1] <= _MOST_PIXELS:
            return picture.resize((edges[0], edges[1]), self.filter)
        part, box = [0, 0, *picture.size], [0.0, 0.0, *map(float, picture.size)]
        axis = int(edges[1] > edges[0])
        step = picture.size[axis] / edges[axis]
        first, last = (step * (round((edges[axis] - self.crop) / 2) + edge) for edge in (0, self.crop))
        # What the filter sees and no more: the closer the box is to 0, the finer are its borders.
        part[axis] = max(int(first - _SUPPORT * max(step, 1)), 0)
        part[axis + 2] = min(int(last + _SUPPORT * max(step, 1)) + 1, picture.size[axis])
        box[axis], box[axis + 2], edges[axis] = first - part[axis], last - part[axis], self.crop
        cut = picture.crop((part[0], part[1], part[2], part[3]))
        return cut.resize((edges[0], edges[1]), self.filter, box=(box[0], box[1], box[2], box[3]))

    def _target(self, width: int, height: int) -> tuple[int, int]:
        if self.mode == "squash":
            return self.size, self.size
        edge = min(width, height) if self.mode == "shortest" else max(width, height)
        # The edge itself becomes exact; the other is truncated, never below one pixel.
        return max(int(self.size * width / edge), 1), max(int(self.size * height / edge), 1)


def _centre(image: NDArray[np.float32], edge: int, *, at_end: bool) -> NDArray[np.float32]:
    """The middle (C, edge, edge) of (C, H, W), padded with 0 where it is smaller; halves round as in torchvision."""
    missing = [max(edge - size, 0) for size in image.shape[1:]]
    image = np.pad(image, ((0, 0), *((0, gap) if at_end else (gap // 2, gap - gap // 2) for gap in missing)))
    top, left = (round((size - edge) / 2) for size in image.shape[1:])
    return image[:, top : top + edge, left : left + edge]
