"""Segmenters of volumes that know the answer if, and only if, the prompt is where it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter, VolumeSpec

# Objects are this bright in a volume of zeros.
BRIGHT = 100.0


class Oracle(VolumeSegmenter):
    """Low-resolution masks are as big as the window; logits are +-5.

    Answers: "connected": everything brighter than half that hangs together with an object point, with a box, or with
    the positive logits of a mask prompt; a text gives all that is bright. "box": the inside of the box. "mask": the
    mask prompt itself. "ball": all voxels at most `radius` mm from an object point.
    """

    def __init__(self, answer: str, *, accepts: Sequence[str] = ("point",), radius: float = 0.0, **spec: Any) -> None:
        super().__init__(volume_spec=VolumeSpec(**spec))
        self.answer, self.radius, self.accepts = answer, radius, frozenset(accepts)  # type: ignore[misc]
        self.embedded: list[Tensor] = []
        self.decoded: list[dict[str, Any]] = []

    def embed(self, image: Tensor) -> ImageEmbedding:
        window = self.volume_spec.window
        assert image.shape == (1, 1, *window)
        assert image.dtype == torch.float32
        self.embedded.append(image)
        return ImageEmbedding(image[:, 0], window, window)

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        self.decoded.append({"coords": coords, "labels": labels, "masks": masks, "texts": texts})
        found = [
            self.find(
                embedding.features[0].numpy(),
                coords[0, row],
                labels[0, row],
                None if masks is None else masks[0, row].numpy() > 0,
                "" if texts is None else texts[row],
            )
            for row in range(labels.shape[1])
        ]
        logits = torch.from_numpy(np.stack(found)).float()[None] * 10 - 5
        return logits, torch.ones(labels.shape)[..., 0]

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        return low_res

    def mask_input(self, masks: Tensor, embedding: ImageEmbedding) -> Tensor:
        return masks.float() * 20 - 10

    def find(self, image: np.ndarray, coords: Tensor, labels: Tensor, mask: np.ndarray | None, text: str) -> np.ndarray:
        points, box = coords[labels == 1].numpy(), coords[labels >= 2].numpy()
        grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
        inside = np.zeros(image.shape, dtype=bool)
        if len(box):
            inside = ((grid >= box[0] - 0.5) & (grid <= box[1] + 0.5)).all(axis=-1)
        if self.answer == "box":
            return inside
        if self.answer == "mask":
            assert mask is not None
            return mask
        if self.answer == "ball":
            spacing = self.volume_spec.spacing or 1.0
            distances = [np.linalg.norm((grid - point) * spacing, axis=-1) for point in points]
            return np.min(distances, axis=0) <= self.radius
        if text and not len(box) and not len(points):
            return image > BRIGHT / 2
        regions, _ = ndimage.label(image > BRIGHT / 2)
        hit = regions[inside] if mask is None else np.concatenate([regions[inside], regions[mask]])
        at = tuple(np.floor(points + 0.5).astype(int).T)
        return np.isin(regions, np.setdiff1d(np.concatenate([hit, regions[at]]), [0]))


def dice(first: Any, second: Any) -> float:
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def ellipsoid(shape: Sequence[int], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Voxels (bool) of an ellipsoid; centre and radii in voxels."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return (((grid - np.array(centre)) / np.array(radii)) ** 2).sum(axis=-1) <= 1


def prompt(label: str, *, points: Any = (), signs: Any = None, box: Any = (), **more: Any) -> dict[str, Any]:
    """A prompt in the array of the volume."""
    signs = [1] * len(points) if signs is None else list(signs)
    coords = [*map(list, points), *map(list, box)]
    kind = more.pop("kind", "user")
    return {"kind": kind, "label": label, "coords": coords, "point_labels": signs + [2, 3][: len(box)], **more}
