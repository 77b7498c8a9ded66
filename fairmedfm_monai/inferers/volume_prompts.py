"""What the prompts of a volume ask of a segmenter of volumes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fairmedfm_monai.catalog.prompt_kinds import parse_kind
from fairmedfm_monai.inferers.crops import MaskCrop
from fairmedfm_monai.inferers.slice_prompts import check_accepted
from fairmedfm_monai.transforms.prompt_masks import Rle
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT, Prompt, map_prompt

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.volume import VolumeSegmenter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VolumePrompt:
    """One prompt, checked against the volume and the network.

    Attributes:
        name: for messages, e.g. "prompt of point for liver".
        channel: of the output.
        coords: (N, 3) voxel-centre indices of the volume; points first, the two corners of a box last.
        labels: (N,), 1, 0, or 2 and 3 for the corners.
        text: a word, or None.
        mask: a mask prompt, or None.
        target: the reference mask that correction clicks aim at, or None.
        rounds: number of correction clicks; 0 without a target.
    """

    name: str
    channel: int
    coords: np.ndarray
    labels: np.ndarray
    text: str | None = None
    mask: MaskCrop | None = None
    target: MaskCrop | None = None
    rounds: int = 0

    @property
    def has_box(self) -> bool:
        """Whether a box is part of the prompt."""
        return bool((self.labels >= BOX_LOWER).any())

    @property
    def tells_extent(self) -> bool:
        """Whether the prompt says how far its object reaches."""
        return self.has_box or self.mask is not None

    def mapped(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates (N, 3) in another grid, `matrix` (4, 4) being the way there."""
        if not len(self.labels):
            return self.coords
        prompt = Prompt(kind="", label="", coords=self.coords.tolist(), point_labels=self.labels.tolist())
        return np.array(map_prompt(prompt, matrix)["coords"])

    def within(self, box: Sequence[slice]) -> VolumePrompt | None:
        """The part of the prompt in a box of the volume, in indices of the box; None if nothing asks for an object."""
        lower, shape = np.array([part.start for part in box]), [part.stop - part.start for part in box]
        coords, labels = _cut(self.coords - lower, self.labels, np.array(shape))
        mask, target = (_cut_mask(crop, lower, shape) for crop in (self.mask, self.target))
        if not ((labels >= OBJECT).any() or mask or self.text):
            return None
        rounds = self.rounds if target else 0
        return replace(self, coords=coords, labels=labels, mask=mask, target=target, rounds=rounds)


def read_prompts(
    prompts: Sequence[Prompt],
    network: VolumeSegmenter,
    *,
    channels: Mapping[tuple[str, str], int],
    shape: Sequence[int],
) -> list[VolumePrompt]:
    """Check prompts; what lies outside the volume is left out with a warning, a box is cut to the volume.

    Args:
        prompts: in voxel-centre indices of the volume.
        network: says which prompts it takes.
        channels: (kind, label) -> channel of the output.
        shape: (3,) of the volume.

    Raises:
        ValueError: a box, mask or text for a network that takes none, or a mask on another grid than the volume's.
    """
    check_accepted(prompts, network.accepts, network=type(network).__name__)
    found = []
    for prompt in prompts:
        mask, target = (_crop(prompt, runs, shape) for runs in (prompt.get("mask"), prompt.get("target")))
        coords = np.asarray(prompt["coords"], dtype=float).reshape(-1, 3)
        coords, labels = _cut(coords, np.asarray(prompt["point_labels"], dtype=int), np.array(shape))
        text = prompt.get("text") or None
        name = f"prompt of {prompt['kind']} for {prompt['label']}"
        if not ((labels >= OBJECT).any() or mask or text):
            logger.warning("%s has nothing inside the image", name)
            continue
        if len(labels) < len(prompt["point_labels"]):
            logger.warning("%s: what lies outside the image is left out", name)
        rounds = parse_kind(prompt["kind"]).clicks if target else 0
        channel = channels[prompt["kind"], prompt["label"]]
        found.append(VolumePrompt(name, channel, coords, labels, text=text, mask=mask, target=target, rounds=rounds))
    return found


def _crop(prompt: Prompt, runs: Rle | None, shape: Sequence[int]) -> MaskCrop | None:
    """A mask of a prompt; None without one or where it is empty."""
    if runs is None:
        return None
    crop = MaskCrop.of(runs, shape=shape, name=f"mask of the {prompt['kind']} prompt for {prompt['label']}")
    return crop if crop.block.size else None


def _cut(coords: np.ndarray, labels: np.ndarray, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 3) and labels (N,) of what touches a volume of `shape`, a box last and cut to it."""
    is_point = (labels <= OBJECT) & ((coords >= -0.5) & (coords <= shape - 0.5)).all(axis=1)
    corners = [index for corner in (BOX_LOWER, BOX_UPPER) for index in np.flatnonzero(labels == corner)]
    box = coords[corners]
    if len(box) and ((box[1] < -0.5) | (box[0] > shape - 0.5)).any():
        corners, box = [], box[:0]
    coords = np.concatenate([coords[is_point], np.clip(box, 0, shape - 1)])
    return coords, np.concatenate([labels[is_point], labels[corners]])


def _cut_mask(crop: MaskCrop | None, lower: np.ndarray, shape: Sequence[int]) -> MaskCrop | None:
    """The part of a mask in a box of the volume, None if there is none."""
    if crop is None:
        return None
    start = np.array(crop.start) - lower
    spans = zip(start, crop.block.shape, shape, strict=True)
    block = crop.block[tuple(slice(max(-low, 0), max(min(size, full - low), 0)) for low, size, full in spans)]
    return MaskCrop(tuple(shape), tuple(np.maximum(start, 0).tolist()), block) if block.any() else None


def pad_prompts(rows: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates (1, P, N, 3) and labels (1, P, N) of P rows, filled up with label -1 in front.

    At least one place per row: a row of nothing but a text or a mask is one of padding.
    """
    most = max(1, *(len(labels) for _, labels in rows))
    coords = np.zeros((1, len(rows), most, 3), dtype=np.float32)
    padded = np.full(coords.shape[:-1], -1, dtype=np.int64)
    for row, (points, labels) in enumerate(rows):
        coords[0, row, : len(points)] = points
        padded[0, row, : len(labels)] = labels
    return torch.from_numpy(coords).to(device), torch.from_numpy(padded).to(device)


def check_finite(volume: Tensor) -> None:
    """ValueError where a volume holds NaN or infinite voxels."""
    if volume.is_floating_point() and not torch.stack(torch.aminmax(volume)).isfinite().all():
        msg = (
            "the volume holds NaN or infinite voxels; put FiniteValuesd into the preprocessing, which replaces them "
            "and says how many there were"
        )
        raise ValueError(msg)
