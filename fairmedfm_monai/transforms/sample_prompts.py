"""Prompts for training: one object and one prompt per sample, drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch.nn import functional as F

from fairmedfm_monai.catalog.prompt_kinds import GRAMMAR, PromptKind, parse_kind
from fairmedfm_monai.data.samples import stable_generator
from fairmedfm_monai.transforms.prompt_objects import ObjectMask
from fairmedfm_monai.transforms.prompt_simulators import draw_prompt
from fairmedfm_monai.transforms.prompts import BACKGROUND, BOX_LOWER, BOX_UPPER, OBJECT

TRAINING_BASES = ("box", "center", "point", "points")
PADDING = -1
# MedSAM moves each side of the box outwards by up to 20 px of a 1,024 px image.
BOX_SHIFT = 20 / 1024


def training_kinds(kinds: Sequence[str]) -> list[PromptKind]:
    """The kinds that a training can draw, parsed.

    Raises:
        ValueError: for no kind, another base than `TRAINING_BASES`, or correction clicks and components.
    """
    parsed = [] if isinstance(kinds, str) else [parse_kind(kind) for kind in kinds]
    wrong = [kind.name for kind in parsed if kind.base not in TRAINING_BASES or kind.components or kind.clicks]
    if not parsed or wrong:
        msg = (
            f"`kinds` must be a list of {', '.join(TRAINING_BASES)} without `cc` and `kN` for training, "
            f"but got {kinds!r}; {GRAMMAR}"
        )
        raise ValueError(msg)
    return parsed


def kind_labels(kinds: Sequence[str]) -> NDArray[np.int64]:
    """Point labels (K, N) that prompts of these kinds have at most, padded with -1 to one length."""
    rows = [
        [OBJECT] * kind.count + [BACKGROUND] * kind.negatives + [BOX_LOWER, BOX_UPPER] * (kind.base == "box")
        for kind in training_kinds(kinds)
    ]
    labels = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int64)
    for row, values in zip(labels, rows, strict=True):
        row[: len(values)] = values
    return labels


class SamplePromptsd(MapTransform):
    """Draw one object of a sample and a prompt for it.

    The label map (1, *size) becomes the target: the object's mask (1, *grid), by the part of each cell that it covers.
    Added are ``coords`` (1, N, D), ``point_labels`` (1, N) (1 object, 0 background, 2 and 3 box corners, -1 padding)
    and ``size`` (D,), the sample's size: coordinates are pixel centres of that size, x and y for images, in the order
    of the axes for volumes. All samples have the same N, so that they can be stacked.

    What is drawn depends on `seed` and the item's ``epoch``, ``case_id`` and ``sample`` alone, so it is the same with
    any number of workers or processes and after a resumed training.

    Args:
        keys: key of the label map, 0 = background.
        kinds: equally likely; drawn as in evaluation (`SimulatePromptsd`), except that the sides of a ``box`` without
            jitter of its own are moved outwards.
        grid: size of the target: one number for all axes, or one per axis.
        box_shift: a side of such a box moves outwards by up to this part of the sample's longest side (Ma et al.,
            "Segment anything in medical images", 2024: 20 of 1,024 px).
        min_voxels: objects smaller than this are drawn only where there is no other.
        seed: of the draws.

    Raises:
        ValueError: for a kind that cannot be drawn here, or a sample without any object.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        kinds: Sequence[str],
        grid: int | Sequence[int],
        box_shift: float = BOX_SHIFT,
        min_voxels: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(keys)
        self.kinds, self.length = training_kinds(kinds), kind_labels(kinds).shape[1]
        self.grid, self.box_shift, self.min_voxels, self.seed = grid, box_shift, min_voxels, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add a prompt to a copy of `data` and replace the label map by the object's mask."""
        result = dict(data)
        draw = (self.seed, data["epoch"], data["case_id"], data["sample"])
        rng = stable_generator(*draw)
        for key in self.key_iterator(result):
            label = np.asarray(result[key])[0]
            mask = label == self._object(label, rng, name=f"{data['case_id']}, sample {data['sample']}")
            kind = self.kinds[int(rng.integers(len(self.kinds)))]
            coords, point_labels = self._prompt(mask, kind, draw)
            result["coords"] = torch.from_numpy(coords)[None]
            result["point_labels"] = torch.from_numpy(point_labels)[None]
            result["size"] = torch.tensor(mask.shape)
            result[key] = self._target(mask)
        return result

    def _object(self, label: NDArray[Any], rng: np.random.Generator, *, name: str) -> int:
        counts = np.bincount(label.ravel().astype(np.int64), minlength=2)[1:]
        found = np.flatnonzero(counts >= self.min_voxels)
        found = found if found.size else np.flatnonzero(counts)
        if not found.size:
            msg = f"{name}: there is no object to prompt for; cut samples where there is one (min_pixels, min_voxels)"
            raise ValueError(msg)
        return int(rng.choice(found)) + 1

    def _prompt(
        self, mask: NDArray[np.bool_], kind: PromptKind, draw: tuple[Any, ...]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Coordinates (N, D) and labels (N,)."""
        whole = ObjectMask(mask, np.zeros(mask.ndim, dtype=np.int64), mask.shape, np.ones(mask.ndim))
        found = whole.part(mask, whole.start)
        drawn = draw_prompt(found, kind, lambda key: stable_generator(*draw, key), label=found)
        points, labels = drawn.coords, np.asarray(drawn.point_labels, dtype=np.int64)
        if kind.base == "box" and not kind.jitter:
            reach = round(self.box_shift * max(mask.shape))
            outwards = stable_generator(*draw, "shift").integers(0, reach + 1, size=found.box.shape) * [[-1], [1]]
            points[labels >= BOX_LOWER] = np.clip(found.box + outwards, 0, np.array(mask.shape) - 1)
        coords = np.zeros((self.length, mask.ndim), dtype=np.float32)
        point_labels = np.full(self.length, PADDING, dtype=np.int64)
        coords[: len(points)] = points[:, ::-1] if mask.ndim == 2 else points  # row, column -> x, y
        point_labels[: len(points)] = labels
        return coords, point_labels

    def _target(self, mask: NDArray[np.bool_]) -> torch.Tensor:
        grid = [self.grid] * mask.ndim if isinstance(self.grid, int) else list(self.grid)
        return F.interpolate(torch.from_numpy(mask).float()[None, None], grid, mode="area")[0]
