"""Picture sheet: demo_sam on the demo's CT, slice by slice, propagated from one slice, and with clicks.

    python scripts/volume_sheet.py --output docs/images/volume_prompting.png

Each row is an organ (machine-made reference, white), each column a way to prompt (orange), on the middle slice of
the organ. The Dice is that of the whole volume; beside it stands the filled box: the Dice of the reference's own tight
boxes, one on each slice, which is what a box prompt gives away.
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from fairmedfm_monai.data.demo.scan import Scan, load_scan
from fairmedfm_monai.fairness.surface import segmentation_record
from fairmedfm_monai.handlers.masks import boxes_dice
from fairmedfm_monai.inferers import PromptedInferer
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM
from fairmedfm_monai.transforms import CTWindowd, PromptsToMetad, SimulatePromptsd

ORGANS = ("liver", "spleen", "kidney_left", "lung_upper_lobe_right", "heart", "aorta")
# Title, kinds of prompts, where they are drawn, propagation.
WAYS = (
    ("box on each slice", "box", "slice", None),
    ("box on one slice, propagated", "box", "key_slice", "box"),
    ("one click on each slice", "center", "slice", None),
    ("click and 5 corrections on each slice", "center-k5", "slice", None),
)
REFERENCE, PREDICTION = "#ffffff", "#ff8c1a"


def case_of(scan: Scan, labels: dict[str, int], kind: str, per: str) -> dict[Hashable, Any]:
    """The preprocessed scan with simulated prompts."""
    case: dict[Hashable, Any] = {
        "image": MetaTensor(torch.from_numpy(scan.hu.astype(np.float32))[None], affine=scan.affine),
        "label": MetaTensor(torch.from_numpy(scan.organs)[None], affine=scan.affine),
        "case_id": scan.name,
    }
    keys = ["image", "label"]
    steps = [
        SimulatePromptsd(labels=labels, kinds=[kind], per=per, axcodes="LPS"),
        Orientationd(keys, axcodes="LPS", labels=None),
        CTWindowd("image", window="soft_tissue", output_range=(0, 255)),
        PromptsToMetad(),
    ]
    return Compose(steps)(case)


def segment(network: DemoSAM, case: dict[Hashable, Any], labels: dict[str, int], kind: str, way: str | None) -> Any:
    """Masks (labels, X, Y, Z) of one way to prompt."""
    inferer = PromptedInferer(labels, [kind], propagation=way, output="masks", progress=True)
    with torch.inference_mode():
        return inferer(case["image"][None], network)[0].numpy()


def draw(axes: Any, case: dict[Hashable, Any], truth: np.ndarray, mask: np.ndarray, index: int, text: str) -> None:
    """One picture: slice, reference, prediction."""
    spots = np.argwhere(truth.any(axis=2))
    low, high = np.maximum(spots.min(axis=0) - 40, 0), spots.max(axis=0) + 40
    window = (slice(low[0], high[0]), slice(low[1], high[1]), index)
    axes.imshow(case["image"][0].numpy()[window].T, cmap="gray", vmin=0, vmax=255)
    for shape, colour, width in ((truth, REFERENCE, 1.0), (mask, PREDICTION, 1.6)):
        if shape[window].any():
            axes.contour(shape[window].T, levels=[0.5], colors=colour, linewidths=width)
    axes.set_title(text, fontsize=9)
    axes.set_axis_off()


def main() -> None:
    """Segment, draw, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("volume_prompting.png"))
    output = parser.parse_args().output
    scan = load_scan()
    labels = {name: scan.organ_names[name] for name in ORGANS if name in scan.organ_names}
    network = DemoSAM()
    figure, grid = plt.subplots(len(labels), len(WAYS), figsize=(3.1 * len(WAYS), 3.4 * len(labels)), squeeze=False)
    for column, (title, kind, per, propagation) in enumerate(WAYS):
        case = case_of(scan, labels, kind, per)
        masks = segment(network, case, labels, kind, propagation)
        organs = case["label"][0].numpy()
        for row, (name, value) in enumerate(labels.items()):
            truth = organs == value
            dice = segmentation_record(masks[row] > 0, truth, scan.spacing)["dice"]
            box = boxes_dice(truth, -1)
            index = int(np.median(np.flatnonzero(truth.any(axis=(0, 1)))))
            text = f"{title}\n{name.replace('_', ' ')}\nDice {dice:.2f}, filled box {box:.2f}"
            draw(grid[row, column], case, truth, masks[row], index, text)
            print(f"{title:40} {name:24} Dice {dice:.3f}  filled box {box:.3f}")
    figure.suptitle(
        f"demo_sam (a demo, not a medical model) on {scan.name}; its training slices are from this scan", y=1.0
    )
    figure.tight_layout()
    figure.savefig(output, dpi=72)
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
