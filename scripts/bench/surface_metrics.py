"""Dice, IoU, HD95, NSD and ASSD of one volume: one shared pass against MONAI's five calls.

    python scripts/bench/surface_metrics.py [--quick]

Prints CPU milliseconds (one thread), the ratio, and the largest difference of the values.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import segmentation_record

BoolArray = NDArray[np.bool_]
SPACING = (0.8, 0.8, 2.5)
TOLERANCE = 2.0
NAMES = ("dice", "iou", "hd95", "nsd", "assd")


def ellipsoid(shape: tuple[int, ...], radius: tuple[float, ...], offset: float) -> BoolArray:
    """Bumpy ellipsoid in the middle of a volume, moved by ``offset`` voxels along the first axis."""
    grid = np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    centre = [size / 2 for size in shape]
    centre[0] += offset
    bump = 1 + 0.05 * np.sin(grid[0] / 5 + offset) * np.cos(grid[1] / 7)
    return np.asarray(sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) <= bump)


def best(function: Callable[[], dict[str, float]], repeats: int) -> tuple[float, dict[str, float]]:
    """Least CPU time in ms of some runs, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return 1000 * min(times), result


def monai_values(prediction: BoolArray, reference: BoolArray) -> Callable[[], dict[str, float]]:
    """MONAI's calls on its own (1, 1, H, W, D) tensors, made beforehand."""
    import torch
    from monai import metrics

    torch.set_num_threads(1)
    p, r = (torch.as_tensor(mask)[None, None].float() for mask in (prediction, reference))
    both = {"include_background": True, "spacing": list(SPACING)}

    def run() -> dict[str, float]:
        values = {
            "dice": metrics.compute_dice(p, r, include_background=True),
            "iou": metrics.compute_iou(p, r, include_background=True),
            "hd95": metrics.compute_hausdorff_distance(p, r, percentile=95, **both),
            "nsd": metrics.compute_surface_dice(p, r, class_thresholds=[TOLERANCE], **both),
            "assd": metrics.compute_average_surface_distance(p, r, symmetric=True, **both),
        }
        return {name: value.item() for name, value in values.items()}

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller volume, one repeat")
    arguments = parser.parse_args()
    shape = (160, 160, 40) if arguments.quick else (512, 512, 100)
    scale = 0.35 if arguments.quick else 1.0
    repeats = 1 if arguments.quick else 3
    objects = {"organ": (80 * scale, 90 * scale, 31 * scale), "lesion": (8.0, 9.0, 3.5)}
    import monai

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, 1 thread; Python "
        f"{platform.python_version()}, numpy {np.__version__}, MONAI {monai.__version__}; CPU ms, best of {repeats}"
    )
    print(f"volume {shape}, spacing {SPACING} mm")
    print(f"{'object':<8} {'voxels':>9} {'MONAI':>9} {'ours':>8} {'ratio':>7}  largest difference")
    for name, radius in objects.items():
        prediction, reference = ellipsoid(shape, radius, 2.0), ellipsoid(shape, radius, 0.0)

        def ours(a: BoolArray = prediction, b: BoolArray = reference) -> dict[str, float]:
            record = segmentation_record(a, b, SPACING, tolerance=TOLERANCE)
            return {key: float(record[key]) for key in NAMES}

        theirs, expected = best(monai_values(prediction, reference), repeats)
        mine, found = best(ours, repeats)
        difference = max(abs(found[key] - expected[key]) / max(1.0, abs(expected[key])) for key in NAMES)
        voxels = int(reference.sum())
        print(f"{name:<8} {voxels:>9} {theirs:>9.0f} {mine:>8.1f} {theirs / mine:>6.1f}x  {difference:.1e}")


if __name__ == "__main__":
    main()
