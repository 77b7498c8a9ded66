"""What prompts say about single slices, for segmenters of images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairmedfm_monai.catalog.prompt_kinds import parse_kind
from fairmedfm_monai.inferers.crops import MaskCrop
from fairmedfm_monai.transforms.prompts import BOX_LOWER, BOX_UPPER, OBJECT, Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlicePrompt:
    """What one prompt says about one slice.

    Attributes:
        channel: of the output.
        coords: (N, 2), x = index along the first, y = along the second of the two axes within the slice.
        point_labels: (N,), 1, 0, or 2 and 3 for the corners of a box, which come last (SAM's order).
        source: number of the prompt among all; what has one number is one object.
        bounds: first and last slice of a prompt whose box or mask covers several slices and so tells where the object
            ends; None where it tells nothing about other slices.
        text: words that name the object.
        mask: a mask prompt that is not empty on this slice.
        target: reference of the object, for correction clicks.
        rounds: number of correction clicks.
    """

    channel: int
    coords: np.ndarray
    point_labels: np.ndarray
    source: int = 0
    bounds: tuple[int, int] | None = None
    text: str | None = None
    mask: MaskCrop | None = None
    target: MaskCrop | None = None
    rounds: int = 0

    @property
    def has_box(self) -> bool:
        """Whether a box is part of the prompt."""
        return bool((self.point_labels == BOX_UPPER).any())

    @property
    def make_up(self) -> tuple[bool, bool, bool, int]:
        """Prompts of one make-up can be decoded in one call: SAM pads points only where there is no box."""
        return not self.has_box, self.mask is not None, self.text is not None, self.rounds


def split_by_slice(
    prompts: Sequence[Prompt], *, channels: Mapping[tuple[str, str], int], shape: Sequence[int], axis: int
) -> dict[int, list[SlicePrompt]]:
    """Tell for each slice which prompts it has.

    A point belongs to the slice that holds it, a box to all slices from its lower to its upper corner, a mask to those
    where it is not empty, a text to all. A slice on which a prompt has nothing but background points gets nothing from
    it: there is no object to segment. What lies outside the image (after a crop) is left out with a warning; a box is
    cut to the image, and one without size is one pixel. Prompts made for another axis are passed over.

    Args:
        prompts: in voxel-centre indices of an array of `shape`.
        channels: (kind, label) -> channel of the output.
        shape: (H, W, D) of a volume, or (H, W) of an image, which counts as slice 0.
        axis: 0, 1 or 2, that numbers the slices of a volume.

    Raises:
        ValueError: a mask in another grid than the image, or a kind with correction clicks without reference.
    """
    slices: dict[int, list[SlicePrompt]] = {}
    along = axis if len(shape) == 3 else 2
    chosen = [
        (n, prompt) for n, prompt in enumerate(prompts) if len(shape) == 2 or prompt.get("axis", axis) % 3 == axis
    ]
    if prompts and not chosen:
        made_for = sorted({prompt.get("axis", axis) for prompt in prompts})
        logger.warning("no prompt for slices along axis %d: all were made for axis %s", axis, made_for)
    for source, prompt in chosen:
        found = list(_slices_of(prompt, channels[prompt["kind"], prompt["label"]], source, shape=shape, axis=along))
        if not found:
            logger.warning("prompt of %s for %s has nothing inside the image", prompt["kind"], prompt["label"])
        for index, part in found:
            if part.mask is not None or part.text is not None or (part.point_labels >= OBJECT).any():
                slices.setdefault(index, []).append(part)
    return slices


def _slices_of(
    prompt: Prompt, channel: int, source: int, *, shape: Sequence[int], axis: int
) -> Iterator[tuple[int, SlicePrompt]]:
    """Index of the slice and what `prompt` says about it."""
    name = f"prompt of {prompt['kind']} for {prompt['label']}"
    given = {"mask": prompt.get("mask"), "target": prompt.get("target")}
    crops = {key: MaskCrop.of(rle, shape=shape, name=f"{key} of the {name}") for key, rle in given.items() if rle}
    rounds = parse_kind(prompt["kind"]).clicks
    if rounds and "target" not in crops:
        msg = f"the {name} has no `target` to draw correction clicks from; let SimulatePromptsd write the prompts"
        raise ValueError(msg)
    volume = np.array([*shape, 1][:3])
    parts = dict(_points_of(prompt, volume, axis))
    covered = crops["mask"].slices(axis) if "mask" in crops else []
    everywhere = range(volume[axis]) if prompt.get("text") else ()
    lengthy = sorted({index for index, (_, labels) in parts.items() if (labels >= BOX_LOWER).any()} | set(covered))
    for index in sorted({*parts, *covered, *everywhere}):
        coords, labels = parts.get(index, (np.zeros((0, 2)), np.zeros(0, dtype=int)))
        yield (
            index,
            SlicePrompt(
                channel,
                coords,
                labels,
                source=source,
                bounds=(lengthy[0], lengthy[-1]) if len(lengthy) > 1 else None,
                text=prompt.get("text") or None,
                mask=crops.get("mask") if index in covered else None,
                target=crops.get("target"),
                rounds=rounds,
            ),
        )


def _points_of(prompt: Prompt, shape: np.ndarray, axis: int) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """Slice index, in-plane coordinates (N, 2) and labels (N,) of a prompt in a volume of `shape` (3,)."""
    point_labels = np.asarray(prompt["point_labels"], dtype=int)
    coords = np.zeros((len(point_labels), 3))
    for point, given in zip(coords, prompt["coords"], strict=True):
        point[: len(given)] = given
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


def pad_prompts(rows: Sequence[Sequence[SlicePrompt]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Coordinates (B, P, N, 2) and labels (B, P, N) of the prompts of B slices, filled up with label -1; N >= 1."""
    most_prompts = max(map(len, rows))
    most_points = max(1, *(len(prompt.point_labels) for row in rows for prompt in row))
    coords = np.zeros((len(rows), most_prompts, most_points, 2), dtype=np.float32)
    labels = np.full(coords.shape[:-1], -1, dtype=np.int64)
    for b, row in enumerate(rows):
        for p, prompt in enumerate(row):
            coords[b, p, : len(prompt.coords)] = prompt.coords
            labels[b, p, : len(prompt.point_labels)] = prompt.point_labels
    return torch.from_numpy(coords).to(device), torch.from_numpy(labels).to(device)


def pad_masks(
    rows: Sequence[Sequence[SlicePrompt]], indices: Sequence[int], axis: int, *, key: str, device: torch.device | str
) -> Tensor:
    """Masks (B, P, rows, columns) of bool of the prompts of B slices, filled up with empty ones.

    Args:
        rows: the prompts of each slice; at least one of them has the mask.
        indices: (B,) numbers of the slices.
        axis: that numbers the slices.
        key: "mask" or "target".
        device: of the result.
    """
    crops = [[getattr(prompt, key) for prompt in row] for row in rows]
    shape = next(crop.shape for row in crops for crop in row if crop is not None)
    first, second = (other for other in range(3) if other != axis)
    masks = np.zeros((len(rows), max(map(len, rows)), shape[second], shape[first]), dtype=bool)
    for b, row in enumerate(crops):
        for p, crop in enumerate(row):
            if crop is not None:
                masks[b, p] = crop.picture(axis, indices[b])
    return torch.from_numpy(masks).to(device)


def check_accepted(prompts: Sequence[Prompt], accepts: frozenset[str], *, network: str) -> None:
    """Refuse prompts that a network cannot take.

    Args:
        prompts: of any kinds.
        accepts: of "point", "box", "mask", "text".
        network: its name, for the message.

    Raises:
        ValueError: a point, box, mask or text for a network that takes none.
    """
    for prompt in prompts:
        labels = prompt["point_labels"]
        parts = {
            "point": any(label <= OBJECT for label in labels) or parse_kind(prompt["kind"]).clicks > 0,
            "box": any(label >= BOX_LOWER for label in labels),
            "mask": bool(prompt.get("mask")),
            "text": bool(prompt.get("text")),
        }
        for part, given in parts.items():
            if given and part not in accepts:
                msg = (
                    f"{network} takes {', '.join(sorted(accepts))}, but the prompt of {prompt['kind']} for "
                    f"{prompt['label']!r} has a {part}; choose other kinds of prompts or another model"
                )
                raise ValueError(msg)
