"""Interface of promptable segmenters."""

from __future__ import annotations

from collections.abc import Sequence
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
        features: (B, C, h, w[, d]) image embedding.
        original_size: spatial size of the image given to ``embed``; masks come back at this size.
        input_size: spatial size of the resized image inside the model's input, without padding.
    """

    features: Tensor
    original_size: tuple[int, ...]
    input_size: tuple[int, ...]


class PromptableSegmenter(nn.Module):
    """A network that segments what a point, a box, a mask or a word points at.

    Subclasses write ``embed``, ``decode_low_res`` and ``upscale``.

    Args:
        spatial_dims: 2 for images, 3 for volumes.
        input_spec: what the image encoder sees after the resizing that :meth:`embed` does itself.
    """

    # TorchScript must not compile the property: its value is a plain Python object.
    __jit_unused_properties__ = ("input_spec",)

    # What ``decode`` can take; what the model was trained for stands in the catalog.
    accepts: frozenset[str] = frozenset({"point", "box", "mask"})
    # Whether the model carries objects from slice to slice by a memory of its own (``track``).
    tracks: bool = False

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
            image: (B, 3, H, W), intensities 0..255, any size; grey images as three equal channels. Segmenters of
                volumes take (B, 1, *window), see `VolumeSegmenter`.
        """
        raise NotImplementedError

    def decode(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Segment P objects per image.

        Args:
            embedding: result of :meth:`embed` for B images of H x W (or volumes of D spatial dimensions).
            coords: (B, P, N, 2) x, y in pixel-centre coordinates of the image given to :meth:`embed` (0, 0 is the
                centre of the first pixel; a box's corners are inclusive). Volumes: (B, P, N, 3) in the order of the
                array's axes.
            labels: (B, P, N) with 1 object, 0 background, 2 upper left and 3 lower right corner of a box, -1 padding.
            masks: (B, P, h, w[, d]) low-resolution logits of an earlier step, as ``decode_low_res`` returns them, or of
                :meth:`mask_input`.
            texts: P words, the same for each image, e.g. ``["liver"]``; only for models that accept ``text``.

        Returns:
            Mask logits (B, P, H, W[, D]), object where positive, and predicted IoU (B, P). A row of nothing but padding
            (and no mask or text) is background everywhere (about ``NO_PROMPT`` in SAM) with IoU 0.
        """
        low_res, iou = self.decode_low_res(embedding, coords, labels, masks, texts=texts)
        if not iou.numel():  # torch cannot resize a batch of nothing
            return low_res.new_zeros((*iou.shape, *embedding.original_size)), iou
        return self.upscale(low_res, embedding), iou

    def decode_low_res(
        self,
        embedding: ImageEmbedding,
        coords: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        *,
        texts: Sequence[str] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`decode`, but logits (B, P, h, w[, d]) of the decoder's own size, fit for ``masks``."""
        raise NotImplementedError

    def upscale(self, low_res: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Low-resolution logits (B, P, h, w[, d]) at the original image (B, P, H, W[, D])."""
        raise NotImplementedError

    def mask_input(self, masks: Tensor, embedding: ImageEmbedding) -> Tensor:
        """Binary masks (B, P, H, W[, D]) of the image as low-resolution logits (B, P, h, w[, d]) for ``masks``.

        Raises:
            ValueError: the model takes no mask prompts.
        """
        msg = f"{type(self).__name__} takes no mask prompts; it takes {', '.join(sorted(self.accepts))}"
        raise ValueError(msg)

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


def refuse_texts(network: PromptableSegmenter, texts: Sequence[str] | None) -> None:
    """ValueError where a text comes to a model without a text encoder."""
    if texts is not None:
        msg = (
            f"{type(network).__name__} understands no text prompts ({list(texts)!r}); "
            f"it takes {', '.join(sorted(network.accepts))}"
        )
        raise ValueError(msg)
