"""Training of ``demo_sam`` on the axial slices of the scan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import nn

from demo_training.common import rate
from demo_training.sam_data import Slices, augment, draw_prompts
from demo_training.sam_model import AuxiliaryHead, auxiliary_loss, decode_batch, mask_loss, structured_start
from fairmedfm_monai.networks.segmenters.demo_sam import GEOMETRY, DemoSAM, build_demo_sam

if TYPE_CHECKING:
    from fairmedfm_monai.data.demo.scan import Scan

LUNG_PARTS = {
    "lung_lower_lobe_left": "lung_upper_lobe_left",
    "lung_middle_lobe_right": "lung_upper_lobe_right",
    "lung_lower_lobe_right": "lung_upper_lobe_right",
}
"""Lobes that are merged into the structure on the right, so that the two lungs are objects."""


@dataclass(frozen=True)
class SamRecipe:
    """Every number of the training.

    Attributes:
        steps: optimiser steps (fixed, so that two runs on one machine agree).
        slices: slices per step, with eight prompts each.
        learning_rate: highest rate, see :func:`demo_training.common.rate`.
        horizon: where the cosine would end.
        cooldown: last steps, over which the rate falls to zero.
        weight_decay: of AdamW.
        auxiliary: weight of the auxiliary loss (structure of every mask cell, from the image embedding).
        seed: of start values, slices, augmentation and prompts.
    """

    steps: int = 2500
    slices: int = 4
    learning_rate: float = 1.2e-3
    horizon: int = 4000
    cooldown: int = 1000
    weight_decay: float = 0.02
    auxiliary: float = 1.0
    seed: int = 10_000


def structure_names(scan: Scan) -> dict[int, str]:
    """Label value -> name of the structures, both lungs merged from their lobes."""
    names = {value: name for name, value in scan.organ_names.items() if name not in LUNG_PARTS}
    merged = {"lung_upper_lobe_left": "lung_left", "lung_upper_lobe_right": "lung_right"}
    return {value: merged.get(name, name) for value, name in names.items()}


def make_slices(scan: Scan, heights: np.ndarray) -> Slices:
    """Upright axial slices of the scan, halved to 256 x 256.

    Args:
        scan: the CT, 512 x 512 in plane, axes left-anterior-superior.
        heights: slice indices.

    Raises:
        ValueError: another in-plane size (the procedural phantom): the shipped model is trained on the real scan only.
    """
    if scan.hu.shape[:2] != (512, 512):
        msg = f"`scan` must be the real CT with 512 x 512 pixels per slice, but has {scan.hu.shape[:2]}"
        raise ValueError(msg)
    organs = scan.organs.copy()
    for part, whole in LUNG_PARTS.items():
        organs[organs == scan.organ_names[part]] = scan.organ_names[whole]
    hu = scan.hu[:, ::-1].transpose(2, 1, 0)[heights].astype(np.float32)
    hu = hu.reshape(len(heights), 256, 2, 256, 2).mean((2, 4)).clip(-1024, 3071)
    labels = np.ascontiguousarray(organs[:, ::-1].transpose(2, 1, 0)[heights, ::2, ::2])
    names = structure_names(scan)
    focus = ("liver", "spleen", "kidney_right", "kidney_left", "lung_left", "lung_right", "heart", "aorta")
    return Slices(
        hu=torch.from_numpy(hu),
        labels=torch.from_numpy(labels),
        aux=_auxiliary_classes(names),
        focus=frozenset(value for value, name in names.items() if name in focus),
        heights=heights,
    )


def _auxiliary_classes(names: dict[int, str]) -> torch.Tensor:
    """(256,) lookup from structure to class: all vertebrae are one class, all ribs another, background 0."""
    classes: dict[str, int] = {}
    lookup = torch.zeros(256, dtype=torch.int64)
    for value, name in names.items():
        kind = next((common for common in ("vertebrae", "rib") if name.startswith(common)), name)
        lookup[value] = classes.setdefault(kind, len(classes) + 1)
    return lookup


def train_sam(
    slices: Slices, recipe: SamRecipe, *, log_every: int = 100, watch: Callable[[int, Sam], None] | None = None
) -> DemoSAM:
    """Train on slices and return the model (without the auxiliary head).

    Args:
        slices: training slices.
        recipe: hyper-parameters.
        log_every: steps between two printed lines.
        watch: called after each of these lines with the step and the model.
    """
    torch.manual_seed(recipe.seed)
    sam = build_demo_sam(**GEOMETRY)
    structured_start(sam, torch.Generator().manual_seed(recipe.seed))
    head = AuxiliaryHead(width=GEOMETRY["prompt_dim"], classes=int(slices.aux.max()) + 1)
    parameters = [*sam.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True
    )
    start, smooth = time.perf_counter(), np.zeros(3)
    for step in range(recipe.steps):
        optimiser.param_groups[0]["lr"] = rate(
            step,
            steps=recipe.steps,
            horizon=recipe.horizon,
            cooldown=recipe.cooldown,
            highest=recipe.learning_rate,
        )
        loss, auxiliary, dice = _losses(sam, head, slices, recipe=recipe, step=step)
        optimiser.zero_grad()
        (loss + recipe.auxiliary * auxiliary).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        smooth += (np.array([loss.item(), auxiliary.item(), dice.item()]) - smooth) * max(0.02, 1 / (step + 1))
        if (step + 1) % log_every == 0:
            shown = "loss {:.3f}, auxiliary {:.3f}, soft Dice {:.3f}".format(*smooth)
            print(f"sam step {step + 1}/{recipe.steps} {shown}, {time.perf_counter() - start:.0f} s", flush=True)
            if watch is not None:
                watch(step + 1, sam)
    model = DemoSAM(weights="random")
    model.load_state_dict(sam.state_dict())
    return model.eval()


def _losses(
    sam: Sam, head: nn.Module, slices: Slices, *, recipe: SamRecipe, step: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask loss, auxiliary loss and soft Dice of one batch."""
    rng = np.random.default_rng([recipe.seed, step])
    rows = rng.choice(len(slices.heights), recipe.slices, replace=False)
    image, labels = augment(slices, rows, torch.Generator().manual_seed(recipe.seed * 1_000_000 + step))
    prompts = draw_prompts(labels.numpy(), slices.focus, rng=rng)
    embedding = sam.image_encoder((image.expand(-1, 3, -1, -1) - sam.pixel_mean) / sam.pixel_std)
    logits, guesses = zip(*(decode_batch(sam, embedding, part) for part in prompts), strict=True)
    boxes, masks = torch.cat([part.boxes for part in prompts]), torch.cat([part.masks for part in prompts])
    loss, dice = mask_loss(torch.cat(logits), torch.cat(guesses), boxes, masks)
    return loss, auxiliary_loss(head(embedding), slices.aux[labels.long()]), dice
