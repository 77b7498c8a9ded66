"""MedSAM (Ma et al., "Segment anything in medical images", Nature Communications 2024): SAM ViT-B, boxes only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding
from fairmedfm_monai.networks.segmenters.sam import SamSegmenter, to_uint8
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Bounds the logit of a probability of 0 or 1 in float32.
_EPSILON = 1e-6
SOURCES = {
    "vit_b": WeightSource(
        names=("medsam_vit_b.pth",),
        page="https://github.com/bowang-lab/MedSAM",
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
    )
}


class MedSamSegmenter(SamSegmenter):
    """MedSAM: SAM's network, prepared and read out as in MedSAM's own inference script.

    The image is squashed to 1,024 x 1,024 (bicubic with antialiasing, 8 bit) and stretched to [0, 1] by its own minimum
    and maximum, without mean and standard deviation. The sigmoid of the low-resolution map is resized bilinearly and
    cut at 0.5; ``decode`` returns the logit of that resized probability, so that ``logits > 0`` is exactly that mask.
    MedSAM was trained for boxes alone; the catalog says so, and runs with other prompts are stamped.

    Args:
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        variant: ``vit_b``, the only one published.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "vit_b", seed: int = 0) -> None:
        if variant != "vit_b":
            msg = f"`variant` must be 'vit_b', the only one of MedSAM, but got {variant!r}"
            raise ValueError(msg)
        super().__init__("vit_b", weights, multimask=False, seed=seed)
        self._input_spec = InputSpec(size=self._input_spec.size, mean=[0.0] * 3, std=[1.0] * 3, max_value=1.0)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]

    def preprocess(self, image: Tensor) -> Tensor:
        """Squash (B, 3, H, W) in 0..255 to the square input and stretch each image to [0, 1]."""
        squashed = np.stack([_squash(array, self.input_spec.size) for array in to_uint8(image)])
        stacked = torch.from_numpy(squashed).permute(0, 3, 1, 2).to(self.pixel_mean)
        low, high = stacked.amin((1, 2, 3), keepdim=True), stacked.amax((1, 2, 3), keepdim=True)
        return (stacked - low) / (high - low).clamp_min(1e-8)

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, h, w) to the logits of the resized probability (B, P, H, W)."""
        probability = F.interpolate(
            low_res.float().sigmoid(), embedding.original_size, mode="bilinear", align_corners=False
        )
        return torch.logit(probability, eps=_EPSILON)


def _squash(array: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """H x W x 3 to size x size x 3, bicubic with antialiasing, truncated to 8 bit as in MedSAM's scripts.

    Channel by channel, and equal channels once: the same values as skimage gives for all three, 6 to 18 times faster.
    """
    from skimage.transform import resize

    grey = np.array_equal(array, np.broadcast_to(array[..., :1], array.shape))
    channels = [
        resize(array[..., channel], (size, size), order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
        for channel in range(1 if grey else 3)
    ]
    return np.stack(channels * 3 if grey else channels, axis=-1)
