"""What is to be done in the windows of a volume: objects on their way through them, and decoder passes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fairmedfm_monai.inferers.volume_prompts import VolumePrompt
from fairmedfm_monai.transforms.prompts import BOX_LOWER

Start = tuple[int, ...]


@dataclass(eq=False)
class PromptedObject:
    """A prompt on its way through the windows.

    Attributes:
        prompt: as it came.
        coords: (N, 3) on the model's grid.
        left: decoder passes that it may still take.
        found: what hangs together with its points in each window so far, bool.
        dice: per window with correction clicks: reference voxels, Dice after each click.
    """

    prompt: VolumePrompt
    coords: np.ndarray
    left: int
    found: dict[Start, np.ndarray] = field(default_factory=dict)
    dice: list[tuple[int, list[float]]] = field(default_factory=list)

    def has_followed(self, places: np.ndarray) -> bool:
        """Whether windows have looked at all of some voxels (M, 3) of the model's grid and found a part of them."""
        seen, any_found = np.zeros(len(places), dtype=bool), False
        for start, mask in self.found.items():
            here = ((places >= start) & (places < np.add(start, mask.shape))).all(axis=1)
            seen |= here
            any_found |= bool(mask[tuple((places[here] - start).T)].any())
        return any_found and bool(seen.all())

    def mean_dice(self) -> list[float]:
        """Mean over windows, weighted by their reference voxels, of the Dice after each click."""
        sizes, dice = zip(*self.dice, strict=True)
        return np.average(np.array(dice), axis=0, weights=sizes).tolist()


@dataclass(frozen=True, eq=False)
class Job:
    """One decoder pass for one object in one window.

    Attributes:
        owner: the object.
        coords: (N, 3) in the window, a box's corners last.
        labels: (N,).
        prior: low-resolution logits (h, w, d) of a neighbouring window, moved into this one; or None.
        mask: mask prompt (*window) bool, or None.
        target: reference (*window) bool for correction clicks, or None.
    """

    owner: PromptedObject
    coords: np.ndarray
    labels: np.ndarray
    prior: Tensor | None = None
    mask: Tensor | None = None
    target: Tensor | None = None

    @property
    def make_up(self) -> tuple[bool, bool, bool, int]:
        """Jobs that agree in this share a decoder call: SAM treats the others differently."""
        rounds = 0 if self.target is None else self.owner.prompt.rounds
        return bool((self.labels >= BOX_LOWER).any()), self.prior is not None, self.mask is not None, rounds
