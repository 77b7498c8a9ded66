"""Rows of the predictions table for predicted masks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness.label_mean import DERIVED
from fairmedfm_monai.fairness.surface import TOLERANCE_MM, filled_box_dice, segmentation_record

from .click_values import CLICK_COLUMNS, click_values
from .records import Row, to_numpy

MASK_COLUMNS = (
    *("tp", "fp", "fn", "n_ref_voxels", "n_pred_voxels", "empty_reference", "empty_prediction"),
    *("dice", "iou", "hd95", "hd95_pooled", "hd", "nsd", "assd", "filled_box_dice", "spacing", "nsd_tolerance"),
    *CLICK_COLUMNS,
)
"""Columns of a scored mask; a failed case has none of them, and only correction clicks fill the last ones."""


def segmentation_values(
    output: Mapping[str, Any],
    labels: Mapping[str, int],
    prompts: Sequence[str],
    *,
    axis: int | None,
    case_id: str,
    derived: Mapping[str, Sequence[str]] | None = None,
    tolerance: float = TOLERANCE_MM,
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
        derived: name -> labels whose union is scored too, in reference and prediction.
        tolerance: of the surface Dice in mm (in pixels where the image has no spacing).

    Returns:
        K * L rows with ``label``, ``prompt`` and ``MASK_COLUMNS``, then K rows per union, marked in ``DERIVED``.

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
    spacing, place = _spacing(output, reference.ndim), {name: number for number, name in enumerate(labels)}
    rows = []
    for name, members in {**{name: [name] for name in labels}, **(derived or {})}.items():
        truth = union(reference == labels[member] for member in members)
        box = {"filled_box_dice": boxes_dice(truth, axis), **({DERIVED: name not in labels} if derived else {})}
        for kind, prompt in enumerate(prompts):
            channels = [kind * len(labels) + place[member] for member in members]
            found = union(predicted[channel] > 0.5 for channel in channels)
            record = segmentation_record(found, truth, spacing, tolerance=tolerance)
            if name in labels:
                record |= click_values(output["pred"], channels[0])
            rows.append({"label": name, "prompt": prompt, **record, **box, "spacing": _text(spacing)})
    return rows


def union(masks: Iterable[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """What is in any of some masks of one shape."""
    return functools.reduce(np.logical_or, masks)


def check_derived(derived: Mapping[str, Sequence[str]], labels: Mapping[str, int]) -> None:
    """Refuse unions of labels that there are not, or under the name of a label.

    Raises:
        ValueError: names the union.
    """
    for name, members in derived.items():
        if name in labels or not members or not set(members) <= set(labels):
            msg = (
                f"`derived_labels`: {name!r} = {list(members)} must be a new name for labels of the dataset, "
                f"which are {', '.join(labels)}"
            )
            raise ValueError(msg)


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
