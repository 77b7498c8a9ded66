"""Interface of encoders that see volumes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.spec import InputSpec


@dataclass(frozen=True)
class VolumeGrid:
    """What an encoder of CT volumes was trained to see.

    In this order: orient the array to ``axcodes``, resample it to ``spacing`` (linear), cut out the box around all that
    is above ``foreground_above``, map ``hu_range`` to 0..1 and clip, pad with 0 and cut centrally to ``window``.

    Args:
        window: voxels along the three axes of the array.
        axcodes: orientation of these axes, e.g. ``RAS``.
        spacing: edges of a voxel in mm, in the order of the axes.
        hu_range: Hounsfield units that become 0 and 1.
        foreground_above: Hounsfield units; None = nothing is cut out.
    """

    window: tuple[int, int, int]
    axcodes: str
    spacing: tuple[float, float, float]
    hu_range: tuple[float, float]
    foreground_above: float | None = None


class VolumeEncoder(ImageEncoder):
    """An image encoder whose images are volumes (B, 1, *window), in 0..1.

    Args:
        feature_dim: length D of ``features``.
        grid: what ``encode_image`` expects.
    """

    def __init__(self, *, feature_dim: int, grid: VolumeGrid) -> None:
        spec = InputSpec(size=max(grid.window), mean=(0.0,), std=(1.0,), channels=1)
        super().__init__(feature_dim=feature_dim, input_spec=spec)
        self.grid = grid

    @torch.jit.unused
    def check_image(self, image: Tensor) -> None:
        """Refuse what is not (B, 1, *window): most often axes in another order.

        Raises:
            ValueError: naming the expected and the given shape.
        """
        window, axcodes = self.grid.window, self.grid.axcodes
        if image.ndim != 5 or tuple(image.shape[1:]) != (1, *window):
            expected = ", ".join(map(str, window))
            msg = (
                f"`image` must be (B, 1, {expected}) with axes {axcodes}, but has shape {tuple(image.shape)}; "
                f"orient it to {axcodes}, resample it to {self.grid.spacing} mm, then pad and cut it in the "
                "preprocessing"
            )
            raise ValueError(msg)
