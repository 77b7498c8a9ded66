"""Interface of promptable segmenters that see volumes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairmedfm_monai.networks.segmenters.base import PromptableSegmenter
from fairmedfm_monai.networks.spec import InputSpec


@dataclass(frozen=True)
class VolumeSpec:
    """The grid that a model of volumes was trained on.

    Args:
        window: voxels of its input along the three axes of the array.
        axcodes: orientation of these axes, e.g. ``RAS``.
        spacing: edge of a voxel in mm; None = the image's own spacing.
        zoom: True = first the whole volume shrunk to one window, then windows of full resolution around what was found
            (SegVol's zoom-out-zoom-in); False = windows around the prompts.
    """

    window: tuple[int, int, int]
    axcodes: str = "RAS"
    spacing: float | None = None
    zoom: bool = False


class VolumeSegmenter(PromptableSegmenter):
    """A promptable segmenter whose ``embed`` takes one window of a volume, (B, 1, *window).

    Intensities are the file's own (HU in CT); what the model was trained to see is made by :meth:`prepare` and
    ``embed``. Coordinates are voxel-centre indices of the window, in the order of its axes.

    Args:
        volume_spec: grid of the input.
    """

    def __init__(self, *, volume_spec: VolumeSpec) -> None:
        spec = InputSpec(size=max(volume_spec.window), mean=(0.0,), std=(1.0,), channels=1)
        super().__init__(spatial_dims=3, input_spec=spec)
        self.volume_spec = volume_spec

    def prepare(self, volume: Tensor) -> Tensor:
        """What the model does once to the intensities of a whole volume (1, X, Y, Z), before windows are cut."""
        return volume

    def forward(self, image: Tensor, prompts: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Mask logits (B, P, *window) of ``image`` (B, 1, *window).

        Args:
            image: as for ``embed``.
            prompts: (coords, labels) as for ``decode``; None = a point in the middle (P = 1).
        """
        if prompts is None:
            middle = torch.tensor(self.volume_spec.window, dtype=torch.float32, device=image.device) // 2
            prompts = middle.expand(len(image), 1, 1, 3), middle.new_ones(len(image), 1, 1).long()
        return super().forward(image, prompts)
