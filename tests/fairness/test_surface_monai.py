"""Surface metrics against MONAI's own (float32, so to 1e-6 relative)."""

from __future__ import annotations

import numpy as np
import pytest

from fairmedfm_monai.fairness import segmentation_record

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("shape", "spacing"), [((40, 36), (0.7, 1.4)), ((18, 22, 16), (0.8, 0.8, 2.5))], ids=["2d", "3d"]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_matches_monai(shape, spacing, seed):
    from monai import metrics as monai

    rng = np.random.default_rng(seed)
    grid = np.indices(shape).astype(float)
    masks = []
    for shift in (0.0, 2.0):
        centre, radius = np.array(shape) / 2 + shift, rng.uniform(3, 6, len(shape))
        masks.append(sum(((grid[i] - centre[i]) / radius[i]) ** 2 for i in range(len(shape))) <= 1)
    ours = segmentation_record(masks[0], masks[1], spacing, tolerance=1.5)
    prediction, reference = (torch.as_tensor(mask)[None, None].float() for mask in masks)
    both = {"include_background": True, "spacing": list(spacing)}
    expected = {
        "dice": monai.compute_dice(prediction, reference, include_background=True),
        "iou": monai.compute_iou(prediction, reference, include_background=True),
        "hd95": monai.compute_hausdorff_distance(prediction, reference, percentile=95, **both),
        "hd": monai.compute_hausdorff_distance(prediction, reference, **both),
        "nsd": monai.compute_surface_dice(prediction, reference, class_thresholds=[1.5], **both),
        "assd": monai.compute_average_surface_distance(prediction, reference, symmetric=True, **both),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value.item(), rel=1e-6, abs=1e-6), name
