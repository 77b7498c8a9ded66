"""Segmentation without prompts: a promptable segmenter whose decoder has one mask token per class (Zhang & Liu, SAMed,
arXiv:2304.13785).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter
from fairmedfm_monai.networks.weights import seeded, strict_keys
from fairmedfm_monai.usages.embeddings import OnCase, decode_cases
from fairmedfm_monai.usages.prompted_training import grid_of, own_part, probe_image, same_size
from fairmedfm_monai.usages.segmenter_parts import freeze_unreached, part, set_modes


class PromptFreeSegmenter(nn.Module):
    """A segmenter that answers for all classes at once and takes no prompt.

    The decoder gets one mask token and one hypernetwork per class, the background first; new ones start from random
    values. Everything else keeps the weights of the segmenter. The prompt encoder gives what it gives without a prompt.

    Args:
        segmenter: changed in place.
        num_labels: number K of labels without the background.
        seed: of the new tokens.

    Raises:
        ValueError: for fewer than one label, or a segmenter whose decoder has no mask tokens.
    """

    def __init__(self, segmenter: PromptableSegmenter, num_labels: int, *, seed: int = 0) -> None:
        super().__init__()
        if num_labels < 1:
            msg = f"`num_labels` must be at least 1, but got {num_labels}"
            raise ValueError(msg)
        with seeded(seed):
            set_mask_tokens(part(segmenter, "mask_decoder"), num_labels + 1)
        self.segmenter = segmenter
        self.num_labels = num_labels
        self.spatial_dims = segmenter.spatial_dims
        strict_keys(self)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 1 + K, *size), background first, of images (B, 3, H, W) in 0..255 or windows (B, 1, *window)."""
        return self.decode(self.segmenter.embed(image.as_subclass(Tensor)))

    def decode(self, embedding: ImageEmbedding) -> Tensor:
        """Logits (B, 1 + K, *original_size) of embedded images."""
        return self.segmenter.upscale(token_masks(self.segmenter, embedding), embedding)

    def on_grid(self, embedding: ImageEmbedding, grid: tuple[int, ...]) -> Tensor:
        """Logits (B, 1 + K, *grid) of embedded images: the decoder's own, where it answers on that very grid.

        That is so for an image that fills the model's input, and is where SAMed takes its loss.
        """
        masks = token_masks(self.segmenter, embedding)
        filled = tuple(embedding.input_size) == (self.segmenter.input_spec.size,) * len(grid)
        if filled and tuple(masks.shape[2:]) == grid:
            return masks.float()
        return self.segmenter.upscale(masks, dataclasses.replace(embedding, original_size=grid))


class PromptFreeNetwork(nn.Module):
    """A `PromptFreeSegmenter` in training: images, padded into one batch, to logits on one grid.

    Args:
        network: what requires a gradient in it trains; what the loss cannot reach is frozen.
        grid: size of the logits: one number for all axes, or one per axis.

    Attributes:
        on_case: for those who want to know which case is being decoded, see
            :data:`~fairmedfm_monai.usages.embeddings.OnCase`.
    """

    on_case: OnCase | None = None

    def __init__(self, network: PromptFreeSegmenter, *, grid: int | Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.grid = grid_of(grid, network.spatial_dims)
        self.eval()  # until the trainer says otherwise: batch statistics must not move before
        image = probe_image(network.segmenter).to(next(network.parameters()).device)
        freeze_unreached(self, (image, torch.tensor([image.shape[2:]], device=image.device)))

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Logits (B, 1 + K, *grid) of images (B, C, *padded size) whose own sizes are ``size`` (B, D)."""

        def decode(embedding: ImageEmbedding, _: Tensor) -> Tensor:
            return self.network.on_grid(embedding, self.grid)

        parts, order = [], []
        for rows, shape in same_size(size):
            embedding = self.network.segmenter.embed(own_part(image[rows], shape))
            parts.append(decode_cases(decode, embedding, rows, self.on_case))
            order.append(rows)
        return torch.cat(parts)[torch.cat(order).argsort()]

    @torch.jit.unused
    def train(self, mode: bool = True) -> PromptFreeNetwork:
        """Training mode for the parts that train."""
        super().train(mode)
        set_modes(self.network.segmenter, mode)
        return self


def set_mask_tokens(decoder: Any, count: int) -> None:
    """Give a mask decoder of SAM's make ``count`` new mask tokens and hypernetworks, in place.

    Raises:
        ValueError: when it has no ``mask_tokens`` or ``output_hypernetworks_mlps``.
    """
    tokens, networks = getattr(decoder, "mask_tokens", None), getattr(decoder, "output_hypernetworks_mlps", None)
    if not isinstance(tokens, nn.Embedding) or not isinstance(networks, nn.ModuleList):
        msg = (
            f"{type(decoder).__name__} cannot segment without prompts: it needs an embedding `mask_tokens` and a list "
            "`output_hypernetworks_mlps`, one entry per mask"
        )
        raise ValueError(msg)
    device = tokens.weight.device
    decoder.mask_tokens = nn.Embedding(count, tokens.embedding_dim, device=device)
    decoder.output_hypernetworks_mlps = nn.ModuleList(_renewed(networks[0]) for _ in range(count))
    for name in ("num_mask_tokens", "num_multimask_outputs"):
        if hasattr(decoder, name):
            setattr(decoder, name, count - (name == "num_multimask_outputs"))


def _renewed(network: nn.Module) -> nn.Module:
    """A copy with new start values."""
    result = copy.deepcopy(network)
    for module in result.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]
    return result


def token_masks(segmenter: Any, embedding: ImageEmbedding) -> Tensor:
    """Low-resolution logits (B, T, h, w[, d]) of all T mask tokens, without any prompt.

    A segmenter whose parts do not follow segment-anything's calls has a method ``token_masks(embedding)`` of its own.
    """
    if hasattr(segmenter, "token_masks"):
        masks: Tensor = segmenter.token_masks(embedding)
        return masks
    one = _volume_tokens if segmenter.spatial_dims == 3 else _image_tokens
    return torch.cat([one(segmenter, embedding.features[row : row + 1]) for row in range(len(embedding.features))])


def _image_tokens(segmenter: Any, features: Tensor) -> Tensor:
    """Decode one image (1, C, h, w); segment-anything's decoder takes no more at a time."""
    sparse, dense = segmenter.prompt_encoder(points=None, boxes=None, masks=None)
    masks: Tensor = segmenter.mask_decoder.predict_masks(
        image_embeddings=features,
        image_pe=segmenter.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )[0]
    return masks


def _volume_tokens(segmenter: Any, features: Tensor) -> Tensor:
    """Decode one window (1, C, x, y, z) of SAM-Med3D, whose first pass has a mask of zeros."""
    nothing = features.new_zeros(1, 1, *(4 * edge for edge in features.shape[2:]))
    sparse, dense = segmenter.prompt_encoder(None, nothing)
    masks: Tensor = segmenter.mask_decoder(features, segmenter.prompt_encoder.dense_encoding(), sparse, dense)[0]
    return masks
