"""Training of ``demo_clip``: contrastive with several positives, and a localisation loss that is dropped afterwards."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from demo_training.captions import agreement, draw_caption
from demo_training.clip_data import Films, augment
from demo_training.common import rate
from fairmedfm_monai.networks.encoders.demo_clip import DemoCLIP


@dataclass(frozen=True)
class ClipRecipe:
    """Every number of the training.

    Attributes:
        steps: optimiser steps (fixed, so that two runs on one machine agree).
        images: training radiographs, projected from ``seed``.
        batch: images, and captions, per step.
        learning_rate: highest rate, see :func:`demo_training.common.rate`.
        horizon: where the cosine would end.
        weight_decay: of AdamW.
        localisation: weight of the auxiliary loss.
        localisation_positive: weight of covered cells in it.
        seed: of start values, captions, augmentation and images.
    """

    steps: int = 1000
    images: int = 12_000
    batch: int = 64
    learning_rate: float = 1.5e-3
    horizon: int = 1600
    weight_decay: float = 0.05
    localisation: float = 3.0
    localisation_positive: float = 20.0
    seed: int = 10_000


def contrastive_loss(logits: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in both directions against the mean over all matching partners.

    CLIP's loss (Radford et al. 2021, figure 3) with several positives per row: an image matches every caption of the
    batch that does not contradict it, as in supervised contrastive learning (Khosla et al., NeurIPS 2020, equation 2).

    Args:
        logits: (B, N) scaled cosines of B images and N captions.
        matches: (B, N) bool; every row and every column has a match.
    """
    weight = matches.to(logits.dtype)
    by_image = -(weight / weight.sum(1, keepdim=True) * F.log_softmax(logits, dim=1)).sum(1).mean()
    by_text = -(weight / weight.sum(0, keepdim=True) * F.log_softmax(logits, dim=0)).sum(0).mean()
    return (by_image + by_text) / 2


def train_clip(
    films: Films,
    recipe: ClipRecipe,
    *,
    log_every: int = 100,
    watch: Callable[[int, DemoCLIP], None] | None = None,
) -> DemoCLIP:
    """Train on films and return the model (without the auxiliary head).

    Args:
        films: training radiographs.
        recipe: hyper-parameters.
        log_every: steps between two printed lines.
        watch: called after each of these lines with the step and the model.
    """
    torch.manual_seed(recipe.seed)
    model = DemoCLIP(weights="random", seed=recipe.seed).train()
    locate = nn.Conv2d(model.image.cell_width, 1, kernel_size=1)
    parameters = [*model.parameters(), *locate.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    images, cells = torch.from_numpy(films.image), torch.from_numpy(films.cells)
    order = np.random.default_rng([recipe.seed, 1])
    start, queue = time.perf_counter(), np.empty(0, int)
    for step in range(recipe.steps):
        if len(queue) < recipe.batch:
            queue = order.permutation(len(films.facts))
        rows, queue = queue[: recipe.batch], queue[recipe.batch :]
        optimiser.param_groups[0]["lr"] = rate(
            step, steps=recipe.steps, horizon=recipe.horizon, cooldown=1, highest=recipe.learning_rate
        )
        losses = _losses(model, locate, films, (images[rows], cells[rows], rows), recipe=recipe, step=step)
        optimiser.zero_grad()
        sum(losses).backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if (step + 1) % log_every == 0:
            shown = " ".join(f"{loss.item():.3f}" for loss in losses)
            print(f"clip step {step + 1}/{recipe.steps} losses {shown} {time.perf_counter() - start:.0f} s", flush=True)
            if watch is not None:
                watch(step + 1, model)
    return model.eval()


def _losses(
    model: DemoCLIP,
    locate: nn.Module,
    films: Films,
    batch: tuple[torch.Tensor, torch.Tensor, np.ndarray],
    *,
    recipe: ClipRecipe,
    step: int,
) -> list[torch.Tensor]:
    """Contrastive and weighted localisation loss of one batch (images, cells, row numbers)."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_000 + step)
    picture, covered = augment(batch[0], batch[1], generator)
    facts = [films.facts[row] for row in batch[2]]
    rng = np.random.default_rng([recipe.seed, 2, step])
    texts, claims = zip(*(draw_caption(fact, rng) for fact in facts), strict=True)
    spec = model.input_spec
    inner = model.image.cells((picture - spec.mean[0]) / spec.std[0])
    embedded = F.normalize(model.image_head(model.image(inner)), dim=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a word outside the vocabulary would be a mistake in the captions
        written = model.encode_text(texts)
    logits = model.similarity({"zero_shot": embedded}, written)
    positive = torch.tensor(recipe.localisation_positive)
    found = F.binary_cross_entropy_with_logits(locate(inner), covered, pos_weight=positive)
    matches = torch.from_numpy(agreement(facts, list(claims)))
    return [contrastive_loss(logits, matches), recipe.localisation * found]
