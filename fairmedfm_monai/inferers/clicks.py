"""Correction clicks: a simulated user looks at the mask and clicks into its largest error, again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fairmedfm_monai.transforms.prompts import BACKGROUND, OBJECT

if TYPE_CHECKING:
    from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter

_PADDING = -1


def refine(
    network: PromptableSegmenter,
    embedding: ImageEmbedding,
    coords: Tensor,
    labels: Tensor,
    targets: Tensor,
    rounds: int,
    masks: Tensor | None = None,
    *,
    texts: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """Segment P objects per image and correct each with up to `rounds` clicks.

    After each decoding, the errors of an object are split into connected regions (neighbours share a face), missing and
    superfluous ones apart. The largest region of all gets a click, see `deepest_point`: an object point where the mask
    misses something, a background point where it has too much; of equal ones the missing region, and of those the first
    in index order. The next decoding sees all prompts so far and, where the model takes mask prompts, the
    low-resolution logits of the last step (the protocol of interactive segmentation that SAM was trained with, Kirillov
    et al., 2023, appendix A). The image embedding is used as it is. An object without any error is left alone.

    Args:
        network: 2D or 3D.
        embedding: of B images (or windows of volumes).
        coords: (B, P, N, 2) x, y, or (B, P, N, 3) in the order of the array's axes, as for ``decode``.
        labels: (B, P, N), -1 for padding.
        targets: (B, P, H, W) or (B, P, *window) of bool: the reference of each object. A row of padding gets no click.
        rounds: clicks after the first prompt, 0 or more.
        masks: (B, P, h, w[, d]) low-resolution logits that belong to the first prompt.
        texts: P words, for models that accept them.

    Returns:
        logits (B, P, H, W[, D]) after the last click, and Dice (B, P, rounds + 1) on the CPU: index 0 after the first
        prompt, index k after k clicks; NaN where the target is empty.
    """
    words = {} if texts is None else {"texts": texts}
    low_res, _ = network.decode_low_res(embedding, coords, labels, masks, **words)
    logits = network.upscale(low_res, embedding)
    asked = (labels >= 0).any(-1)
    if masks is not None or texts is not None:
        asked = asked | targets.flatten(2).any(-1).to(asked.device)
    scores = [_dice(logits, targets)]
    for _ in range(rounds):
        points, signs = _corrections(logits, targets, asked)
        clicked = (signs >= 0).to(low_res.device)
        if bool(clicked.any()):
            coords = torch.cat([coords, points.to(coords)[:, :, None]], dim=2)
            labels = torch.cat([labels, signs.to(labels)[:, :, None]], dim=2)
            prior = low_res if "mask" in network.accepts else masks
            corrected, _ = network.decode_low_res(embedding, coords, labels, prior, **words)
            low_res = torch.where(clicked.reshape(*clicked.shape, *[1] * (low_res.ndim - 2)), corrected, low_res)
            logits = network.upscale(low_res, embedding)
        scores.append(_dice(logits, targets))
    return logits, torch.stack(scores, dim=-1)


def deepest_point(region: np.ndarray) -> tuple[int, ...]:
    """Index of the voxel of a region (H, W[, D]) of bool that is farthest from what is not the region.

    It is the maximum of the Euclidean distance transform in voxels, with everything outside the array as background; of
    several maxima the first in index order.
    """
    inside = (slice(1, -1),) * region.ndim
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[inside]
    return tuple(int(index) for index in np.unravel_index(int(depth.argmax()), region.shape))


def click_records(dice: Iterable[tuple[int, Sequence[float]]]) -> list[dict[str, Any]]:
    """What ``meta["click_dice"]`` holds: per channel one list of Dice per prompted object, in the order they come.

    Args:
        dice: (channel, Dice after the first prompt and after each click); objects without reference (NaN) are left out.
    """
    objects: dict[int, list[list[float]]] = {}
    for channel, values in dice:
        if np.isfinite(values).all():
            objects.setdefault(channel, []).append([round(float(value), 6) for value in values])
    return [{"channel": channel, "dice": objects[channel]} for channel in sorted(objects)]


def _corrections(logits: Tensor, targets: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """One click per object: coordinates (B, P, D) in the decoder's order and labels (B, P), -1 where none is needed."""
    predicted, wanted = (logits > 0).cpu().numpy(), targets.bool().cpu().numpy()
    points = np.zeros((*predicted.shape[:2], predicted.ndim - 2), dtype=np.float32)
    signs = np.full(predicted.shape[:2], _PADDING, dtype=np.int64)
    for b, p in asked.nonzero().tolist():
        click = _correction(predicted[b, p], wanted[b, p])
        if click is not None:
            index, signs[b, p] = click
            # Pictures are addressed by x, y; volumes by their axes as they are.
            points[b, p] = index[::-1] if len(index) == 2 else index
    return torch.from_numpy(points), torch.from_numpy(signs)


def _correction(predicted: np.ndarray, wanted: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    """Index and label of the click that corrects a mask (H, W[, D]); None where it is right."""
    best = None
    for wrong, sign in ((wanted & ~predicted, OBJECT), (predicted & ~wanted, BACKGROUND)):
        found = ndimage.find_objects(wrong.astype(np.uint8))
        if not found:
            continue
        box = found[0]
        regions, _ = ndimage.label(wrong[box])
        sizes = np.bincount(regions.ravel())[1:]
        if best is None or sizes.max() > best[0]:
            best = (sizes.max(), regions == sizes.argmax() + 1, box, sign)
    if best is None:
        return None
    _, region, box, sign = best
    return tuple(index + part.start for index, part in zip(deepest_point(region), box, strict=True)), sign


def _dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice (B, P) of logits and targets (B, P, ...), NaN where the target is empty."""
    predicted, wanted = (logits > 0).flatten(2), targets.bool().to(logits.device).flatten(2)
    both, size = (predicted & wanted).sum(-1), wanted.sum(-1)
    dice = 2 * both / (predicted.sum(-1) + size)
    return torch.where(size > 0, dice, torch.nan).double().cpu()
