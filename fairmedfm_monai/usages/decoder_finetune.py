"""Fine-tuning of the mask decoder on embeddings that a frozen image encoder made once (Ma et al., "Segment anything in
medical images", Nature Communications 2024).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter
from fairmedfm_monai.usages.embeddings import OnCase, tensors_of, with_tensors
from fairmedfm_monai.usages.prompted_training import decode_groups, grid_of, probe, probe_image
from fairmedfm_monai.usages.segmenter_parts import freeze_unreached, part, set_modes, train_only


class PromptedDecoder(nn.Module):
    """A segmenter whose mask decoder trains on stored embeddings; image and prompt encoder are frozen.

    An embedding is one vector: all tensors of the segmenter's ``ImageEmbedding``, flattened, one after the other (some
    models keep finer levels beside the features).

    Args:
        segmenter: changed in place by the training.
        kinds: kinds of prompts that will come.
        grid: size of the logits: one number for all axes, or one per axis.

    Attributes:
        on_case: for those who want to know which case is being decoded, see
            :data:`~fairmedfm_monai.usages.embeddings.OnCase`.
    """

    on_case: OnCase | None = None

    def __init__(self, segmenter: PromptableSegmenter, *, kinds: Sequence[str], grid: int | Sequence[int]) -> None:
        super().__init__()
        train_only(segmenter, ["mask_decoder"])
        self.segmenter = segmenter
        self.grid = grid_of(grid, segmenter.spatial_dims)
        self.eval()  # until the trainer says otherwise: batch statistics must not move before
        image, coords, point_labels, size = probe(segmenter, kinds)
        with torch.no_grad():
            self._template = segmenter.embed(probe_image(segmenter).to(image.device))
        self._shapes = {name: tensor.shape[1:] for name, tensor in tensors_of(self._template).items()}
        vector, input_size = self.encode(image)
        freeze_unreached(self, (vector, coords, point_labels, size, torch.tensor([input_size], device=image.device)))

    @property
    def encoder(self) -> nn.Module:
        """The frozen module whose weights decide what an embedding is."""
        return part(self.segmenter, "image_encoder")

    @torch.no_grad()
    def encode(self, image: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Embedding (1, L) of one image (1, C, *size) and the size that it had inside the model's input."""
        image = image.expand(-1, 3, -1, -1) if self.segmenter.spatial_dims == 2 else image
        embedding = self.segmenter.embed(image)
        flat = [tensor.flatten(1).float() for tensor in tensors_of(embedding).values()]
        return torch.cat(flat, dim=1), tuple(embedding.input_size)

    def forward(self, vector: Tensor, coords: Tensor, point_labels: Tensor, size: Tensor, input_size: Tensor) -> Tensor:
        """Mask logits (B, P, *grid).

        Args:
            vector: (B, L) embeddings from :meth:`encode`.
            coords: (B, P, N, D) in each image's own pixel centres, see ``PromptableSegmenter.decode``.
            point_labels: (B, P, N).
            size: (B, D) size of each image.
            input_size: (B, D) size that it had inside the model's input.
        """

        def embed(rows: Tensor, shape: tuple[int, ...]) -> ImageEmbedding:
            return self._unpack(vector[rows], shape, tuple(input_size[rows[0]].tolist()))

        return decode_groups(self.segmenter, embed, coords, point_labels, size, grid=self.grid, on_case=self.on_case)

    @torch.jit.unused
    def train(self, mode: bool = True) -> PromptedDecoder:
        """Training mode for the decoder alone."""
        super().train(mode)
        set_modes(self.segmenter, mode)
        return self

    def _unpack(self, vector: Tensor, size: tuple[int, ...], input_size: tuple[int, ...]) -> ImageEmbedding:
        parts = vector.split([shape.numel() for shape in self._shapes.values()], dim=1)
        tensors = {
            name: part.reshape(len(vector), *shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }
        return dataclasses.replace(with_tensors(self._template, tensors), original_size=size, input_size=input_size)
