"""How a 2D segmenter goes through a volume: slice by slice, every slice embedded once for all of its prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import NO_PROMPT
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT, Prompt

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlicePrompt:
    """What one prompt says about one slice.

    Attributes:
        channel: of the output.
        coords: (N, 2), x = index along the first, y = along the second of the two axes within the slice.
        point_labels: (N,), 1, 0, or 2 and 3 for the corners of a box, which come last (SAM's order).
    """

    channel: int
    coords: np.ndarray
    point_labels: np.ndarray

    @property
    def has_box(self) -> bool:
        """Whether a box is part of the prompt."""
        return bool((self.point_labels == BOX_UPPER).any())


def split_by_slice(
    prompts: Sequence[Prompt], *, channels: Mapping[tuple[str, str], int], shape: Sequence[int], axis: int
) -> dict[int, list[SlicePrompt]]:
    """Tell for each slice which prompts it has.

    A point belongs to the slice that holds it, a box to all slices from its lower to its upper corner. A slice on
    which a prompt has nothing but background points gets nothing from it: there is no object to segment. What lies
    outside the image (after a crop) is left out with a warning; a box is cut to the image.

    Args:
        prompts: in voxel-centre indices of an array of `shape`.
        channels: (kind, label) -> channel of the output.
        shape: (H, W, D) of a volume, or (H, W) of an image, which counts as slice 0.
        axis: that numbers the slices of a volume.
    """
    slices: dict[int, list[SlicePrompt]] = {}
    for prompt in prompts:
        channel = channels[prompt["kind"], prompt["label"]]
        coords = np.asarray(prompt["coords"], dtype=float)
        if len(shape) == 2:
            coords = np.pad(coords, ((0, 0), (0, 1)))
        volume_shape = np.array([*shape, 1][:3])
        parts = dict(_parts(coords, np.asarray(prompt["point_labels"]), volume_shape, axis if len(shape) == 3 else 2))
        if not parts:
            logger.warning("prompt of %s for %s has nothing inside the image", prompt["kind"], prompt["label"])
        for index, (in_plane, point_labels) in parts.items():
            if (point_labels >= OBJECT).any():
                slices.setdefault(index, []).append(SlicePrompt(channel, in_plane, point_labels))
    return slices


def _parts(
    coords: np.ndarray, point_labels: np.ndarray, shape: np.ndarray, axis: int
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Slice index, in-plane coordinates (N, 2) and labels (N,) of one prompt, coords (N, 3), in a volume of `shape`."""
    voxels = np.floor(coords + 0.5).astype(int)
    is_point = (point_labels <= OBJECT) & ((voxels >= 0) & (voxels < shape)).all(axis=1)
    lower, upper = voxels[point_labels == BOX_LOWER], voxels[point_labels == BOX_UPPER]
    has_box = len(lower) == 1 and bool(((upper[0] >= 0) & (lower[0] < shape)).all())
    indices = set(voxels[is_point, axis].tolist())
    if has_box:
        indices |= set(range(max(lower[0, axis], 0), min(upper[0, axis], shape[axis] - 1) + 1))
    in_plane = np.delete(coords, axis, axis=1)
    size = np.delete(shape, axis)
    for index in sorted(indices):
        here = is_point & (voxels[:, axis] == index)
        points, labels = in_plane[here], point_labels[here]
        if has_box:
            corners = [in_plane[point_labels == corner][0] for corner in (BOX_LOWER, BOX_UPPER)]
            points = np.concatenate([points, np.clip(corners, 0, size - 1)])
            labels = np.concatenate([labels, [BOX_LOWER, BOX_UPPER]])
        yield index, (points, labels)


def segment_slices(
    image: Tensor,
    network: PromptableSegmenter,
    slices: Mapping[int, Sequence[SlicePrompt]],
    masks: Tensor,
    *,
    axis: int,
    slice_batch: int,
    prompt_batch: int,
) -> None:
    """Write the logits of all prompts into `masks`; slices without a prompt are not even embedded.

    The picture that the network sees has the second in-plane axis as rows and the first as columns, because MONAI's
    arrays index (column, row): a PNG then stands upright, and so does an axial slice of a volume in LPS. Masks are
    turned back. Several prompts of a channel on a slice are united by the larger logit. Logits are clipped to +-1e4
    so that they fit half precision.

    Args:
        image: (C, H, W) or (C, H, W, D) with C = 1 or 3, in the range that the network expects (0..255).
        network: a 2D segmenter.
        slices: from `split_by_slice`.
        masks: (slices, channels, rows, columns) from `background`; changed in place.
        axis: that numbers the slices of a volume.
        slice_batch: slices per call of the image encoder.
        prompt_batch: prompts per call of the decoder, at least one per slice.
    """
    pictures = _pictures(image, axis)
    order = sorted(slices)
    for start in range(0, len(order), slice_batch):
        batch = order[start : start + slice_batch]
        embedding = network.embed(pictures[batch].expand(-1, 3, -1, -1).float().contiguous())
        for rows in _decoder_calls([slices[index] for index in batch], prompt_batch):
            coords, labels = _pad(rows, image.device)
            logits = network.decode(embedding, coords, labels)[0].clamp(NO_PROMPT, -NO_PROMPT)
            for index, row, found in zip(batch, rows, logits, strict=True):
                for prompt, mask in zip(row, found, strict=False):  # what is left over is padding
                    target = masks[index, prompt.channel]
                    target.copy_(torch.maximum(target, mask.to(target)))


def background(channels: int, image: Tensor, *, axis: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Masks (slices, channels, rows, columns) of an `image` (C, H, W[, D]) on which nothing is prompted.

    In this order of memory every mask is written in one piece.
    """
    slices, _, *size = _pictures(image, axis).shape
    return torch.full((slices, channels, *size), NO_PROMPT, dtype=dtype, device=device)


def to_grid(masks: Tensor, *, axis: int, spatial_dims: int) -> Tensor:
    """Masks (slices, channels, rows, columns) as a view (channels, H, W[, D]) on the grid of the image."""
    upright = masks.transpose(-1, -2)
    return upright[0] if spatial_dims == 2 else upright.movedim(0, 1 + axis)


def _pictures(image: Tensor, axis: int) -> Tensor:
    """View of (C, H, W[, D]) as (slices, C, rows, columns): rows are the second in-plane axis, columns the first."""
    planes = image[None] if image.ndim == 3 else image.movedim(1 + axis, 0)
    return planes.transpose(-1, -2)


def _decoder_calls(rows: Sequence[Sequence[SlicePrompt]], prompt_batch: int) -> Iterator[list[Sequence[SlicePrompt]]]:
    """Prompts per slice and decoder call.

    Prompts with and without a box are kept apart, because SAM pads points only where there is no box.
    """
    step = max(1, prompt_batch // len(rows))
    for has_box in (True, False):
        chosen = [[prompt for prompt in row if prompt.has_box == has_box] for row in rows]
        for start in range(0, max(map(len, chosen)), step):
            yield [row[start : start + step] for row in chosen]


def _pad(rows: Sequence[Sequence[SlicePrompt]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates (B, P, N, 2) and labels (B, P, N), filled up with label -1."""
    most_prompts = max(map(len, rows))
    most_points = max(len(prompt.point_labels) for row in rows for prompt in row)
    coords = np.zeros((len(rows), most_prompts, most_points, 2), dtype=np.float32)
    labels = np.full(coords.shape[:-1], -1, dtype=np.int64)
    for b, row in enumerate(rows):
        for p, prompt in enumerate(row):
            coords[b, p, : len(prompt.coords)] = prompt.coords
            labels[b, p, : len(prompt.point_labels)] = prompt.point_labels
    return torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device)
