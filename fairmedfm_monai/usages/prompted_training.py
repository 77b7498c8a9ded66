"""Training with prompts: a promptable segmenter as a network from tensors to logits, for MONAI's trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.segmenters.base import ImageEmbedding, PromptableSegmenter
from fairmedfm_monai.transforms.sample_prompts import kind_labels
from fairmedfm_monai.usages.embeddings import OnCase, decode_cases
from fairmedfm_monai.usages.segmenter_parts import freeze_unreached, set_modes


class PromptedNetwork(nn.Module):
    """A segmenter in training: images with one prompt per object to logits on one grid.

    Everything goes through the segmenter's own ``embed``, ``decode_low_res`` and ``upscale``, as in evaluation, so each
    image keeps the geometry that its model gives it. Images of different sizes may be padded into one batch. What
    trains is what requires a gradient in ``segmenter``; what the loss cannot reach with these kinds is frozen.

    Args:
        segmenter: changed in place by the training.
        kinds: kinds of prompts that will come.
        grid: size of the logits: one number for all axes, or one per axis. Models of volumes give their window,
            whatever is asked for.

    Attributes:
        on_case: for those who want to know which case is being decoded, see
            :data:`~fairmedfm_monai.usages.embeddings.OnCase`.
    """

    on_case: OnCase | None = None

    def __init__(self, segmenter: PromptableSegmenter, *, kinds: Sequence[str], grid: int | Sequence[int]) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.grid = grid_of(grid, segmenter.spatial_dims)
        self.eval()  # until the trainer says otherwise: batch statistics must not move before
        freeze_unreached(self, probe(segmenter, kinds))

    def forward(self, image: Tensor, coords: Tensor, point_labels: Tensor, size: Tensor) -> Tensor:
        """Mask logits (B, P, *grid).

        Args:
            image: (B, C, *padded size), C = 1 or 3 for images in 0..255, 1 for windows.
            coords: (B, P, N, D) in each image's own pixel centres, see ``PromptableSegmenter.decode``.
            point_labels: (B, P, N).
            size: (B, D) size of each image without what was padded behind.
        """

        def embed(rows: Tensor, shape: tuple[int, ...]) -> ImageEmbedding:
            return self.segmenter.embed(own_part(image[rows], shape))

        return decode_groups(self.segmenter, embed, coords, point_labels, size, grid=self.grid, on_case=self.on_case)

    @torch.jit.unused
    def train(self, mode: bool = True) -> PromptedNetwork:
        """Training mode for the parts that train."""
        super().train(mode)
        set_modes(self.segmenter, mode)
        return self


def decode_groups(
    segmenter: PromptableSegmenter,
    embed: Callable[[Tensor, tuple[int, ...]], ImageEmbedding],
    coords: Tensor,
    point_labels: Tensor,
    size: Tensor,
    *,
    grid: tuple[int, ...],
    on_case: OnCase | None = None,
) -> Tensor:
    """Logits (B, P, *grid), images of one size at a time; ``embed`` gives the embedding of some rows of the batch."""

    def decode(embedding: ImageEmbedding, rows: Tensor) -> Tensor:
        return segmenter.decode_low_res(embedding, coords[rows], point_labels[rows])[0]

    parts, order = [], []
    for rows, shape in same_size(size):
        embedding = embed(rows, shape)
        low_res = decode_cases(decode, embedding, rows, on_case)
        # The same road as in evaluation, except that masks come out on the grid of the loss.
        parts.append(segmenter.upscale(low_res, dataclasses.replace(embedding, original_size=grid)))
        order.append(rows)
    return torch.cat(parts)[torch.cat(order).argsort()]


def same_size(size: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Rows (R,) of the batch that share a size, and that size, of sizes (B, D)."""
    for shape in size.unique(dim=0):
        yield (size == shape).all(-1).nonzero().flatten(), tuple(shape.tolist())


def own_part(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images (B, C, *padded) without what was padded behind; grey pictures get three channels."""
    cut = image.as_subclass(Tensor)
    for axis, extent in enumerate(shape, start=2):
        cut = cut.narrow(axis, 0, extent)
    return cut.expand(-1, 3, -1, -1) if len(shape) == 2 and cut.shape[1] == 1 else cut


def grid_of(grid: int | Sequence[int], spatial_dims: int) -> tuple[int, ...]:
    """Size of the logits along each axis."""
    found = (grid,) * spatial_dims if isinstance(grid, int) else tuple(grid)
    if len(found) != spatial_dims or min(found) < 1:
        msg = f"`grid` must be a positive size or {spatial_dims} of them, but got {grid!r}"
        raise ValueError(msg)
    return found


def probe_image(segmenter: PromptableSegmenter) -> Tensor:
    """The smallest image (1, C, *size) that a segmenter takes, not constant."""
    window = getattr(segmenter, "volume_spec", None)
    shape = (1, *window.window) if window else (3, 32, 32)
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 255


def probe(segmenter: PromptableSegmenter, kinds: Sequence[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Arguments of :meth:`PromptedNetwork.forward`: one image with one prompt of each kind."""
    device = next(segmenter.parameters()).device
    image = probe_image(segmenter).to(device)
    size = torch.tensor(image.shape[2:], device=device)
    labels = torch.from_numpy(kind_labels(kinds)).to(device)[None]
    steps = torch.arange(1, labels.shape[-1] + 1, device=device) / (labels.shape[-1] + 1)
    return image, (steps[:, None] * size).expand(*labels.shape, -1), labels, size[None]
