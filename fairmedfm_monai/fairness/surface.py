"""Overlap and surface distances of one mask against its reference, all from one surface pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

TOLERANCE_MM = 2.0
"""Default tolerance of the normalised surface Dice in millimetres."""


def overlap_counts(prediction: BoolArray, reference: BoolArray) -> tuple[int, int, int]:
    """True positive, false positive and false negative voxels of two boolean masks of equal shape."""
    tp = int(np.count_nonzero(prediction & reference))
    return tp, int(np.count_nonzero(prediction)) - tp, int(np.count_nonzero(reference)) - tp


def bounding_box(mask: BoolArray) -> tuple[slice, ...] | None:
    """Smallest box that holds a mask, None when it is empty."""
    slices: list[slice] = []
    for axis in range(mask.ndim):
        # Each axis looks only into the box found so far: the first scan is the only one over the whole image.
        part = mask[tuple(slices)]
        used = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if used.size == 0:
            return None
        slices.append(slice(int(used[0]), int(used[-1]) + 1))
    return tuple(slices)


def surface_points(mask: BoolArray, spacing: Sequence[float]) -> FloatArray:
    """Centres (K, dims) in mm of the voxels of a mask that touch the outside by a face; beyond the image is outside."""
    inner = np.pad(mask, 1)
    core = inner.copy()
    for axis in range(mask.ndim):
        core &= np.roll(inner, 1, axis)
        core &= np.roll(inner, -1, axis)
    edge = (inner & ~core)[(slice(1, -1),) * mask.ndim]
    return np.argwhere(edge).astype(np.float64) * np.asarray(spacing, dtype=np.float64)


def surface_distances(
    prediction: BoolArray, reference: BoolArray, spacing: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Distances in mm from each surface voxel to the nearest one of the other mask.

    Args:
        prediction: boolean mask, non-empty.
        reference: boolean mask of the same shape, non-empty.
        spacing: voxel size in mm per axis.

    Returns:
        Distances from the prediction to the reference, and from the reference to the prediction.
    """
    box = bounding_box(prediction | reference)
    if box is None or not prediction.any() or not reference.any():
        msg = "surface_distances: both masks must be non-empty"
        raise ValueError(msg)
    ours, theirs = (surface_points(mask[box], spacing) for mask in (prediction, reference))
    return _nearest(ours, theirs), _nearest(theirs, ours)


def _nearest(points: FloatArray, targets: FloatArray) -> FloatArray:
    # An unbalanced tree is built faster and queried as fast on voxel grids.
    tree = cKDTree(targets, balanced_tree=False, compact_nodes=False)
    return np.asarray(tree.query(points)[0], dtype=np.float64)


def surface_metrics(forward: FloatArray, backward: FloatArray, *, tolerance: float = TOLERANCE_MM) -> dict[str, float]:
    """Surface metrics from the two arrays of distances in mm.

    ``hd95`` is the larger of the two directed 95th percentiles (MONAI), ``hd95_pooled`` the 95th percentile of both
    together (MedPy); ``nsd`` the share of surface voxels within ``tolerance`` (Nikolov et al. 2021, voxel count
    version); ``assd`` the mean of all distances; ``hd`` the largest.
    """
    pooled = np.concatenate([forward, backward])
    return {
        "hd95": float(max(np.quantile(forward, 0.95), np.quantile(backward, 0.95))),
        "hd95_pooled": float(np.quantile(pooled, 0.95)),
        "hd": float(pooled.max()),
        "nsd": float(np.count_nonzero(pooled <= tolerance) / pooled.size),
        "assd": float(pooled.mean()),
    }


def filled_box_dice(reference: BoolArray) -> float:
    """Dice of the reference's own filled bounding box: what a box prompt gives away without any model."""
    box = bounding_box(reference)
    if box is None:
        return float("nan")
    inside = reference[box]
    n = int(np.count_nonzero(inside))
    return 2 * n / (n + inside.size)


def segmentation_record(
    prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float], *, tolerance: float = TOLERANCE_MM
) -> dict[str, float | int | bool]:
    """Everything about one mask of one case that later analysis needs.

    Empty masks, as declared columns: with an empty reference every score is NaN (nothing can be found; a prediction
    there is counted by ``empty_reference`` and not ``empty_prediction``, a false alarm). With a reference and an empty
    prediction Dice, IoU and NSD are 0 and the distances NaN (they do not exist; the case counts as failed).

    Args:
        prediction: mask, 2-D or 3-D; non-zero is foreground.
        reference: mask of the same shape.
        spacing: voxel size in mm per axis.
        tolerance: tolerance of the surface Dice in mm.

    Returns:
        ``tp, fp, fn, n_ref_voxels, n_pred_voxels, empty_reference, empty_prediction, dice, iou, hd95, hd95_pooled, hd,
        nsd, assd, filled_box_dice, nsd_tolerance``.

    Raises:
        ValueError: when the shapes differ or spacing does not fit.
    """
    ours, theirs = _mask(prediction), _mask(reference)
    _check(ours, theirs, spacing)
    box = bounding_box(ours | theirs) or (slice(0, 0),) * ours.ndim
    ours, theirs = ours[box], theirs[box]
    tp, fp, fn = overlap_counts(ours, theirs)
    record: dict[str, float | int | bool] = {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "n_ref_voxels": tp + fn,
        "n_pred_voxels": tp + fp,
        "empty_reference": tp + fn == 0,
        "empty_prediction": tp + fp == 0,
        **dict.fromkeys(("dice", "iou", "hd95", "hd95_pooled", "hd", "nsd", "assd"), float("nan")),
    }
    if tp + fn:
        record |= {"dice": 2 * tp / (2 * tp + fp + fn), "iou": tp / (tp + fp + fn), "nsd": 0.0}
    if tp + fn and tp + fp:
        record |= surface_metrics(*surface_distances(ours, theirs, spacing), tolerance=tolerance)
    return record | {"filled_box_dice": filled_box_dice(theirs), "nsd_tolerance": float(tolerance)}


def _mask(values: ArrayLike) -> BoolArray:
    array = np.asarray(values)
    return array if array.dtype == bool else np.asarray(array != 0)


def _check(prediction: BoolArray, reference: BoolArray, spacing: Sequence[float]) -> None:
    if prediction.shape != reference.shape or prediction.ndim not in {2, 3}:
        msg = f"prediction: expected the reference's 2-D or 3-D shape {reference.shape}, got {prediction.shape}"
        raise ValueError(msg)
    size = np.asarray(spacing, dtype=np.float64)
    if size.shape != (prediction.ndim,) or not (size > 0).all():
        msg = f"spacing: expected {prediction.ndim} positive sizes in mm, got {list(spacing)}"
        raise ValueError(msg)
