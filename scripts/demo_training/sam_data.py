"""Slices, augmentation and prompts for the training of ``demo_sam``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from fairmedfm_monai.data.demo.ct2d import HELD_OUT, is_training_slice
from fairmedfm_monai.networks.segmenters.demo_sam import MEAN

IMAGE_SIZE = 256
MASK_SIZE = 64
MIN_PIXELS = 60  # objects smaller than this at 256 px are not prompted
PADDED_SHARE = 0.35  # part of the training slices that are not square
FOCUS_WEIGHT = 4.0  # the eight organs of the test are drawn this many times as often as another structure


@dataclass(frozen=True)
class Slices:
    """Upright axial slices of the scan.

    Attributes:
        hu: (N, 256, 256) float32 Hounsfield units, rows from the front to the back of the patient.
        labels: (N, 256, 256) uint8 structure ids, both lungs merged from their lobes.
        aux: (256,) int64 lookup from structure id to the class of the auxiliary loss.
        focus: ids of the organs that are drawn more often.
        heights: (N,) slice index of each slice in the scan, counted from the feet.
    """

    hu: torch.Tensor
    labels: torch.Tensor
    aux: torch.Tensor
    focus: frozenset[int]
    heights: np.ndarray


@dataclass(frozen=True)
class Prompts:
    """Prompts of one batch, in pixel-centre coordinates of the 256 px image.

    Attributes:
        image: (P,) index of the slice in the batch.
        coords: (P, 2, 2) xy; a box holds its two corners, a point its place and a padding point.
        labels: (P, 2) 2, 3 for the corners; 1, -1 for a point and its padding.
        boxes: (P, 4) tight box x0, y0, x1, y1 of the object (inclusive pixel indices).
        masks: (P, 64, 64) float32 part of each mask cell that the object covers.
    """

    image: torch.Tensor
    coords: torch.Tensor
    labels: torch.Tensor
    boxes: torch.Tensor
    masks: torch.Tensor


def training_heights(n_slices: int) -> np.ndarray:
    """Slice heights for training: everything but the held-out blocks and three slices (7.5 mm) on either side."""
    return np.array([height for height in range(n_slices) if is_training_slice(height, n_slices)])


def held_out_heights() -> np.ndarray:
    """Slice heights of the held-out blocks (40 slices)."""
    return np.concatenate([np.arange(low, high + 1) for low, high in HELD_OUT])


def augment(slices: Slices, rows: np.ndarray, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Deform, window and disturb slices.

    Args:
        slices: all slices.
        rows: (B,) which of them.
        generator: source of every random number.

    Returns:
        Images (B, 1, 256, 256) in 0..255 and structure ids (B, 256, 256) uint8.
    """
    n = len(rows)
    grid = _random_grid(n, generator)
    picked = torch.as_tensor(rows)
    hu = F.grid_sample(slices.hu[picked, None] + 1000.0, grid, align_corners=False) - 1000.0
    labels = F.grid_sample(slices.labels[picked, None].float(), grid, mode="nearest", align_corners=False)
    draw = torch.rand((n, 4), generator=generator)
    lung = draw[:, 0] < 0.2
    centre = torch.where(lung, torch.tensor(-600.0), 30.0 + 40.0 * draw[:, 1])
    width = torch.where(lung, torch.tensor(1500.0), 320.0 + 160.0 * draw[:, 2])
    image = ((hu - (centre - width / 2)[:, None, None, None]) / width[:, None, None, None]).clamp(0, 1)
    noise = torch.randn(image.shape, generator=generator) * (0.03 * draw[:, 3])[:, None, None, None]
    image = (image + noise).clamp(0, 1) * 255.0
    _pad(image, labels, generator)
    return image, labels[:, 0].to(torch.uint8)


def _pad(image: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> None:
    """Make a part of the images narrow or low, in place: SAM fills the rest, right or below, with its mean grey."""
    draw = torch.rand((len(image), 3), generator=generator)
    for index in torch.nonzero(draw[:, 0] < PADDED_SHARE).flatten().tolist():
        edge = int(IMAGE_SIZE * (0.6 + 0.4 * draw[index, 1]))
        rest = (index, 0, slice(edge, None)) if draw[index, 2] < 0.5 else (index, 0, slice(None), slice(edge, None))
        image[rest] = MEAN
        labels[rest] = 0


def _random_grid(n: int, generator: torch.Generator) -> torch.Tensor:
    """Sampling grids (n, 256, 256, 2): rotation, scale, shift, mirror images and a smooth warp."""

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    angle = normal(n) * np.deg2rad(10.0)
    scale = 0.74 + 0.54 * uniform(n)
    linear = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).reshape(n, 2, 2)
    # Volumes reach the model in whatever axis order their file has, so any mirror image or transposition may come;
    # upright slices are the commonest input and get the largest share.
    turn = uniform(n, 4)
    free = turn[:, 0] < 0.6
    flips = torch.where(free[:, None] & (turn[:, 1:3] < 0.5), -1.0, 1.0)
    linear = linear * flips[:, :, None]
    swap = free & (turn[:, 3] < 0.5)
    linear[swap] = linear[swap].flip(1)
    theta = torch.cat([linear / scale[:, None, None], normal(n, 2, 1) * 0.06], dim=2)
    grid = F.affine_grid(theta, [n, 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    warp = F.interpolate(normal(n, 2, 6, 6), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=True)
    return grid + warp.permute(0, 2, 3, 1) * (4.0 * 2 / IMAGE_SIZE)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The largest 4-connected component of a 2D bool mask."""
    parts, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a 2D bool mask, inclusive pixel indices."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])


def deepest_point(mask: np.ndarray) -> tuple[int, int]:
    """x, y of the pixel farthest from the mask's border (the `center` prompt)."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return int(x), int(y)


def draw_prompts(labels: np.ndarray, focus: frozenset[int], *, rng: np.random.Generator) -> list[Prompts]:
    """Draw eight objects per label slice and one prompt for each: four boxes, three points, one group of points.

    Args:
        labels: (B, 256, 256) uint8 structure ids; slices without any object give no prompt.
        focus: ids that are drawn ``FOCUS_WEIGHT`` times as often.
        rng: source of every random number.

    Returns:
        Boxes and single points; groups of two to five points (one size per call, as the decoder cannot mask tokens).
    """
    size = int(rng.integers(2, 6))
    pairs: list[_Drawn] = []
    groups: list[_Drawn] = []
    for index, picture in enumerate(labels):
        counts = np.bincount(picture.ravel(), minlength=256)
        ids = [i for i in range(1, 256) if counts[i] >= MIN_PIXELS]
        if not ids:
            continue
        weights = np.array([FOCUS_WEIGHT if i in focus else 1.0 for i in ids])
        cache: dict[int, np.ndarray] = {}
        for number, chosen in enumerate(rng.choice(ids, size=8, p=weights / weights.sum())):
            mask = cache.setdefault(int(chosen), largest_component(picture == chosen))
            box = tight_box(mask)
            if number < 4:
                pairs.append((index, *_box_prompt(box, rng), box, mask))
            elif number < 7:
                pairs.append((index, *_point_prompt(mask, box, rng), box, mask))
            else:
                groups.append((index, *_group_prompt(mask, box, size, rng), box, mask))
    return [_stack(found) for found in (pairs, groups) if found]


_Box = tuple[int, int, int, int]
_Drawn = tuple[int, np.ndarray, np.ndarray, _Box, np.ndarray]


def _stack(found: list[_Drawn]) -> Prompts:
    coarse = np.stack([f[4] for f in found]).reshape(len(found), MASK_SIZE, 4, MASK_SIZE, 4).mean((2, 4))
    return Prompts(
        image=torch.tensor([f[0] for f in found]),
        coords=torch.from_numpy(np.stack([f[1] for f in found]).astype(np.float32)),
        labels=torch.from_numpy(np.stack([f[2] for f in found])),
        boxes=torch.tensor([f[3] for f in found], dtype=torch.float32),
        masks=torch.from_numpy(coarse.astype(np.float32)),
    )


def _box_prompt(box: _Box, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    corners = np.array(box, float).reshape(2, 2)
    if rng.random() < 0.5:
        corners = corners + rng.uniform(-0.06, 0.06, (2, 2)) * (corners[1] - corners[0] + 1)
    return corners, np.array([2, 3])


def _point_prompt(mask: np.ndarray, box: _Box, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    x0, y0, x1, y1 = box
    crop = mask[y0 : y1 + 1, x0 : x1 + 1]
    if rng.random() < 0.6:
        x, y = deepest_point(crop)
    else:
        ys, xs = np.nonzero(crop)
        pick = int(rng.integers(len(ys)))
        x, y = int(xs[pick]), int(ys[pick])
    return np.array([[x0 + x, y0 + y], [0, 0]], float), np.array([1, -1])


def _group_prompt(mask: np.ndarray, box: _Box, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`size` points, most of them inside; each but the first lies outside, near the object, with probability .25."""
    x0, y0, x1, y1 = box
    reach_x, reach_y = (x1 - x0) // 4 + 2, (y1 - y0) // 4 + 2
    top, left = max(0, y0 - reach_y), max(0, x0 - reach_x)
    crop = mask[top : y1 + reach_y + 1, left : x1 + reach_x + 1]
    inside, outside = np.argwhere(crop), np.argwhere(~crop)
    kinds = np.ones(size, int)
    kinds[1:] = rng.random(size - 1) >= 0.25
    if not len(outside):
        kinds[:] = 1
    places = [(inside if kind else outside)[int(rng.integers(len(inside if kind else outside)))] for kind in kinds]
    coords = np.array([[left + x, top + y] for y, x in places] + [[0, 0]], float)
    return coords, np.append(kinds, -1)
