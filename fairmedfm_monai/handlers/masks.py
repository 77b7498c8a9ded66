"""Rows of the predictions table for predicted masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.surface import filled_box_dice, segmentation_record

from .click_values import CLICK_COLUMNS, click_values
from .records import Row, to_numpy

MASK_COLUMNS = (
    *("tp", "fp", "fn", "n_ref_voxels", "n_pred_voxels", "empty_reference", "empty_prediction"),
    *("dice", "iou", "hd95", "hd95_pooled", "hd", "nsd", "assd", "filled_box_dice", "spacing"),
    *CLICK_COLUMNS,
)
"""Columns of a scored mask; a failed case has none of them, and only correction clicks fill the last ones."""


def segmentation_values(
    output: Mapping[str, Any], labels: Mapping[str, int], prompts: Sequence[str], *, axis: int | None, case_id: str
) -> list[Row]:
    """Score all predicted masks of one case against its label map, in millimetres.

    Args:
        output: one decollated item of ``engine.state.output``: ``pred`` (K * L, *spatial) with values 0/1, channel
            = prompt kind * L + label; ``label`` (1, *spatial) with the values of ``labels``. The spacing is that of
            the affine of ``label`` (of ``pred`` when ``label`` is no MetaTensor; 1 when neither is).
        labels: name -> value in the label map, in channel order.
        prompts: K prompt kinds in channel order.
        axis: spatial axis of the slices that the filled boxes are drawn in; None = one box for the whole volume.
            Images are always one box.
        case_id: for error messages.

    Returns:
        K * L rows with ``label``, ``prompt`` and ``MASK_COLUMNS``.

    Raises:
        ValueError: when channels or grid do not fit.
    """
    predicted, reference = to_numpy(output["pred"]), to_numpy(output["label"])
    reference = reference.reshape(reference.shape[-(predicted.ndim - 1) :])
    expected = (len(prompts) * len(labels), *reference.shape)
    if predicted.shape != expected:
        msg = (
            f"case {case_id}: `pred` must have the shape {expected} ({len(prompts)} prompt(s) x {len(labels)} label(s) "
            f"on the grid of the label), but it is {predicted.shape}; keep both on one grid in the postprocessing"
        )
        raise ValueError(msg)
    spacing = _spacing(output, reference.ndim)
    rows = []
    for position, (name, value) in enumerate(labels.items()):
        truth = reference == value
        box = {"filled_box_dice": boxes_dice(truth, axis)}
        for kind, prompt in enumerate(prompts):
            channel = kind * len(labels) + position
            record = segmentation_record(predicted[channel] > 0.5, truth, spacing) | click_values(
                output["pred"], channel
            )
            rows.append({"label": name, "prompt": prompt, **record, **box, "spacing": _text(spacing)})
    return rows


def boxes_dice(reference: NDArray[np.bool_], axis: int | None) -> float:
    """Dice of the reference's tight boxes, filled, against the reference itself; NaN when it is empty.

    Args:
        reference: (H, W) or (H, W, D).
        axis: draw one box in each slice along this axis, as a 2D model gets them; None (or an image) = one box.
    """
    if axis is None or reference.ndim == 2:
        return filled_box_dice(reference)
    inside = int(np.count_nonzero(reference))
    filled = 0
    for section in np.moveaxis(reference, axis, 0):
        rows, columns = np.flatnonzero(section.any(axis=1)), np.flatnonzero(section.any(axis=0))
        if rows.size:
            filled += int(rows[-1] - rows[0] + 1) * int(columns[-1] - columns[0] + 1)
    return 2 * inside / (inside + filled) if inside else float("nan")


def _spacing(output: Mapping[str, Any], dims: int) -> tuple[float, ...]:
    for key in ("label", "pred"):
        affine = getattr(output[key], "affine", None)
        if affine is not None:
            matrix = to_numpy(affine).astype(np.float64)
            # Voxel size = length of each column of the affine's linear part.
            return tuple(float(size) for size in np.sqrt((matrix[:-1, :dims] ** 2).sum(axis=0)))
    return (1.0,) * dims


def _text(spacing: Sequence[float]) -> str:
    return " x ".join(f"{size:.4g}" for size in spacing)
