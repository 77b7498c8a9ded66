"""Interface of promptable segmenters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import strict_keys

# Logit of an object that nothing points at: finite in half precision, and certainly background.
NO_PROMPT = -1e4


@dataclass(frozen=True)
class ImageEmbedding:
    """What :meth:`PromptableSegmenter.embed` returns and ``decode`` needs.

    Args:
        features: (B, C, h, w) image embedding.
        original_size: (H, W) of the image given to ``embed``; masks come back at this size.
        input_size: (H', W') of the resized image inside the model's square input, without padding.
    """

    features: Tensor
    original_size: tuple[int, int]
    input_size: tuple[int, int]


class PromptableSegmenter(nn.Module):
    """A network that segments what a point, a box or a mask points at.

    Args:
        spatial_dims: 2 for images, 3 for volumes.
        input_spec: what the image encoder sees after the resizing that :meth:`embed` does itself.
    """

    # TorchScript must not compile the property: its value is a plain Python object.
    __jit_unused_properties__ = ("input_spec",)

    def __init__(self, *, spatial_dims: int, input_spec: InputSpec) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self._input_spec = input_spec
        strict_keys(self)

    @property
    def input_spec(self) -> InputSpec:
        """Size, channels and normalisation that this model was trained with."""
        return self._input_spec

    def embed(self, image: Tensor) -> ImageEmbedding:
        """Encode images once, for any number of prompts.

        Args:
            image: (B, 3, H, W), intensities 0..255, any size; grey images as three equal channels.
        """
        raise NotImplementedError

    def decode(
        self, embedding: ImageEmbedding, coords: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Segment P objects per image.

        Args:
            embedding: result of :meth:`embed` for B images of H x W.
            coords: (B, P, N, 2) x, y in pixel-centre coordinates of the image given to :meth:`embed` (0, 0 is the
                centre of the first pixel; a box's corners are inclusive).
            labels: (B, P, N) with 1 object, 0 background, 2 upper left and 3 lower right corner of a box, -1 padding.
            masks: (B, P, h, w) low-resolution logits of an earlier step, as ``decode_low_res`` returns them.

        Returns:
            Mask logits (B, P, H, W), object where positive, and predicted IoU (B, P). A row of nothing but padding
            (and no mask) is background everywhere (about ``NO_PROMPT`` in SAM) with IoU 0.
        """
        raise NotImplementedError

    def forward(self, image: Tensor, prompts: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Mask logits (B, P, H, W) of ``image`` (B, 3, H, W).

        Args:
            image: as for :meth:`embed`.
            prompts: (coords, labels) as for :meth:`decode`; None = one box over the central half (P = 1), so that the
                network can be checked and exported with an image alone.
        """
        coords, labels = default_box(image) if prompts is None else prompts
        return self.decode(self.embed(image), coords, labels)[0]


def default_box(image: Tensor) -> tuple[Tensor, Tensor]:
    """Box over the central half of ``image`` (B, C, H, W): coords (B, 1, 2, 2) and labels (B, 1, 2)."""
    batch, height, width = image.shape[0], image.shape[-2], image.shape[-1]
    corners = [[width // 4, height // 4], [max(3 * width // 4 - 1, 0), max(3 * height // 4 - 1, 0)]]
    coords = torch.tensor(corners, dtype=torch.float32, device=image.device)
    labels = torch.tensor([2, 3], device=image.device)
    return coords.expand(batch, 1, 2, 2), labels.expand(batch, 1, 2)
