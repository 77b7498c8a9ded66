"""Test of ``demo_sam`` on the held-out slices, through the public class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from demo_training.sam_data import deepest_point, held_out_heights, largest_component, tight_box
from demo_training.sam_train import make_slices, structure_names
from fairmedfm_monai.data.demo.bias import degrade_ct
from fairmedfm_monai.networks.segmenters.demo_sam import DemoSAM

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

ORGANS = ("liver", "spleen", "kidney_left", "kidney_right", "lung_left", "lung_right", "heart", "aorta")
TEST_MIN_PIXELS = 100
WINDOW = (50.0, 400.0)  # centre and width in HU, the same for every slice
BOX_MARGIN, POINT_TARGET = 0.03, 0.60
KINDS = ("box", "center", "point", "points")


def score_objects(model: DemoSAM, scan: Scan, *, strength: float = 0.0, turned: bool = False) -> pd.DataFrame:
    """Dice of every object of the held-out slices under each kind of prompt.

    Objects are the largest 4-connected component of a structure on a slice, from 100 pixels on.

    Args:
        model: the model.
        scan: the real CT.
        strength: of :func:`fairmedfm_monai.data.demo.bias.degrade_ct`, applied to the slice.
        turned: give the slices as a left-posterior array (row = left, column = back) instead of upright.

    Returns:
        One row per object: structure, height, pixels, filled (Dice of the filled box), and one column per kind.
    """
    slices = make_slices(scan, held_out_heights())
    names = structure_names(scan)
    rows = []
    for hu, labels, height in zip(slices.hu.numpy(), slices.labels.numpy(), slices.heights, strict=True):
        noisy = degrade_ct(np.round(hu).astype(np.int16), strength, np.random.default_rng([20_000, int(height)]))
        grey = np.clip((noisy - (WINDOW[0] - WINDOW[1] / 2)) / WINDOW[1], 0, 1) * 255
        picture, structures = (grey.T, labels.T) if turned else (grey, labels)
        masks = _objects(structures)
        if masks:
            dice = _dice(model, picture, list(masks.values()), int(height))
            for (value, mask), line in zip(masks.items(), dice, strict=True):
                rows.append({"structure": names[value], "height": int(height), "pixels": int(mask.sum()), **line})
    return pd.DataFrame(rows)


def _objects(labels: np.ndarray) -> dict[int, np.ndarray]:
    found = {int(value): largest_component(labels == value) for value in np.unique(labels) if value}
    return {value: mask for value, mask in found.items() if mask.sum() >= TEST_MIN_PIXELS}


@torch.no_grad()
def _dice(model: DemoSAM, picture: np.ndarray, masks: list[np.ndarray], height: int) -> list[dict[str, float]]:
    """Dice of the objects of one slice (H, W) in 0..255."""
    image = torch.from_numpy(np.ascontiguousarray(picture, np.float32)).expand(1, 3, -1, -1)
    embedding = model.embed(image)
    result: list[dict[str, float]] = [{} for _ in masks]
    for kind in KINDS:
        prompts = [_prompt(mask, kind, seed=(20_000, height, index)) for index, mask in enumerate(masks)]
        coords = torch.tensor(np.stack([coords for coords, _ in prompts]), dtype=torch.float32)[None]
        labels = torch.tensor(np.stack([labels for _, labels in prompts]))[None]
        predicted = (model.decode(embedding, coords, labels)[0][0] > 0).numpy()
        for line, mask, found in zip(result, masks, predicted, strict=True):
            line[kind] = 2 * float((mask & found).sum()) / float(mask.sum() + found.sum())
    for line, mask in zip(result, masks, strict=True):
        x0, y0, x1, y1 = tight_box(mask)
        line["filled"] = 2 * float(mask.sum()) / float(mask.sum() + (x1 - x0 + 1) * (y1 - y0 + 1))
    return result


def _prompt(mask: np.ndarray, kind: str, *, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (N, 2) xy and labels (N,) of a prompt: tight box, deepest pixel, one or five random pixels."""
    if kind == "box":
        return np.array(tight_box(mask)).reshape(2, 2), np.array([2, 3])
    if kind == "center":
        return np.array([deepest_point(mask)]), np.array([1])
    pixels = np.argwhere(mask)[:, ::-1]
    count = 5 if kind == "points" else 1
    return pixels[np.random.default_rng(seed).choice(len(pixels), count, replace=False)], np.ones(count, int)


def summarise(objects: pd.DataFrame) -> dict[str, Any]:
    """Means over objects: eight organs, all structures, per structure, and what falls below its own filled box."""
    organs = objects[objects["structure"].isin(ORGANS)]
    columns = ["filled", *KINDS]
    table = objects.groupby("structure")[columns].mean().round(4)
    table.insert(0, "n", objects.groupby("structure").size())
    below = table[table["box"] < table["filled"]]
    weak = table[table["center"] < 0.5]
    return {
        "n_objects": len(organs),
        "organs": {name: round(float(organs[name].mean()), 4) for name in columns},
        "box_minus_filled": round(float((organs["box"] - organs["filled"]).mean()), 4),
        "per_organ": {name: table.loc[name].to_dict() for name in ORGANS if name in table.index},
        "all_structures": {
            "n_objects": len(objects),
            "n_structures": len(table),
            **{name: round(float(objects[name].mean()), 4) for name in columns},
        },
        "below_filled_box": {name: _pair(row, "filled", "box") for name, row in below.iterrows()},
        "center_below_half": {name: _pair(row, "center", "n") for name, row in weak.iterrows()},
    }


def _pair(row: pd.Series, first: str, second: str) -> dict[str, float]:
    return {first: float(row[first]), second: float(row[second])}


def measure_sam(model: DemoSAM, scan: Scan, *, strengths: dict[str, float]) -> dict[str, Any]:
    """Everything that demo_results.json says about ``demo_sam``.

    Args:
        model: the model as loaded from the shipped file.
        scan: the real CT.
        strengths: name -> strength of the degradation whose cost in Dice is measured.
    """
    plain = score_objects(model, scan)
    found = summarise(plain)
    turned = score_objects(model, scan, turned=True)
    organs = turned[turned["structure"].isin(ORGANS)]
    found["turned"] = {kind: round(float(organs[kind].mean()), 4) for kind in KINDS}
    found["degraded"] = {}
    for name, strength in strengths.items():
        worse = score_objects(model, scan, strength=strength)
        gaps = (plain[list(KINDS)] - worse[list(KINDS)])[plain["structure"].isin(ORGANS)].mean()
        found["degraded"][name] = {
            "strength": strength,
            **{f"{kind}_gap": round(float(gaps[kind]), 4) for kind in KINDS},
        }
    return found


def missed_sam(found: dict[str, Any]) -> list[str]:
    """Targets that a result of :func:`measure_sam` misses."""
    missed = []
    if found["box_minus_filled"] < BOX_MARGIN:
        missed.append(f"box minus filled box {found['box_minus_filled']:.4f} < {BOX_MARGIN} (eight organs)")
    if found["organs"]["center"] < POINT_TARGET:
        missed.append(f"point prompt (center) {found['organs']['center']:.4f} < {POINT_TARGET} (eight organs)")
    return missed
