"""Prompt encoder and mask decoder of SAM-Med3D (Wang et al., arXiv:2310.15161): SAM's, with a third axis.

FastSAM3D uses both as they are.
"""

from __future__ import annotations

import math

import torch
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn

from fairmedfm_monai.networks.segmenters.sam_med3d_encoder import ChannelNorm

# Low-resolution masks are this many times finer than the grid of tokens.
UPSCALING = 4


class PositionEncoding3D(nn.Module):
    """Random Fourier features of places in the unit cube (Tancik et al., NeurIPS 2020, as in SAM).

    Args:
        channels: of the encoding, a multiple of 3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, channels // 3))
        self.positional_encoding_gaussian_matrix: Tensor

    def forward(self, places: Tensor) -> Tensor:
        """Encode (..., 3) in [0, 1] as (..., channels)."""
        # A sum and no matrix product: autocast would round the places to half precision.
        phases = 2 * math.pi * ((2 * places - 1)[..., None] * self.positional_encoding_gaussian_matrix).sum(-2)
        # Quirk of the published weights: three parts instead of SAM's two, and the third repeats the first.
        return torch.cat([phases.sin(), phases.cos(), phases.sin()], dim=-1)


class PromptEncoder3D(nn.Module):
    """Points and masks as tokens. There are no embeddings for the corners of a box.

    Args:
        channels: of the decoder, a multiple of 3.
        grid: tokens of the image embedding along each axis.
        image_size: edge of the cubic input in voxels.
    """

    def __init__(self, channels: int, *, grid: int, image_size: int) -> None:
        super().__init__()
        self.channels, self.grid, self.image_size = channels, grid, image_size
        self.pe_layer = PositionEncoding3D(channels)
        self.point_embeddings = nn.ModuleList([nn.Embedding(1, channels) for _ in range(2)])  # background, object
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, 4, 2, stride=2),
            ChannelNorm(4),
            nn.GELU(),
            nn.Conv3d(4, 16, 2, stride=2),
            ChannelNorm(16),
            nn.GELU(),
            nn.Conv3d(16, channels, 1),
        )
        # In the published files, but without use: there always is a mask, if only one of zeros.
        self.no_mask_embed = nn.Embedding(1, channels)

    def forward(self, points: tuple[Tensor, Tensor] | None, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Encode R prompts.

        Args:
            points: coordinates (R, N, 3) as voxel-centre indices and labels (R, N) with 1 object, 0 background;
                None = masks alone.
            masks: low-resolution logits (R, 1, m, m, m), m = 4 x grid; zeros before the first pass.

        Returns:
            sparse (R, N + 1, C), with the padding point that SAM appends (no token at all without points), and dense
            (R, C, G, G, G).
        """
        dense = self.mask_downscaling(masks)
        if points is None:
            return dense.new_zeros(len(masks), 0, self.channels), dense
        coords, labels = points
        places = self.pe_layer((coords + 0.5) / self.image_size)
        kinds = torch.cat([embedding.get_parameter("weight") for embedding in self.point_embeddings])
        padding = self.not_a_point_embed.weight.expand(len(labels), 1, -1)
        return torch.cat([places + kinds[labels], padding], dim=1), dense

    def dense_encoding(self) -> Tensor:
        """Position encoding (1, C, G, G, G) of the tokens of the image."""
        along = torch.arange(self.grid, device=self.no_mask_embed.weight.device)
        along = (along + 0.5) / self.grid
        first, second, third = torch.meshgrid(along, along, along, indexing="ij")
        # Quirk: the first two axes are swapped here, but not in the points' encoding; the weights were trained so.
        return self.pe_layer(torch.stack([second, first, third], dim=-1)).movedim(-1, 0)[None]


class MaskDecoder3D(nn.Module):
    """Two-way transformer, upscaling and one hypernetwork per mask token; the IoU is predicted beside.

    Args:
        channels: of embedding and tokens, a multiple of 48.
        mlp_width: hidden width of the transformer's MLPs.
        iou_width: hidden width of the head that predicts the IoU.
        n_masks: mask tokens; the first is the one used, the others are SAM's alternatives.
    """

    def __init__(self, channels: int, *, mlp_width: int = 2048, iou_width: int = 256, n_masks: int = 4) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=channels, num_heads=8, mlp_dim=mlp_width)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(n_masks, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(channels, channels // 4, 2, stride=2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.ConvTranspose3d(channels // 4, channels // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            [MLP(channels, channels, channels // 8, 3) for _ in range(n_masks)]
        )
        self.iou_prediction_head = MLP(channels, iou_width, n_masks, 3)

    def forward(self, features: Tensor, encoding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Decode R prompts on one image.

        Args:
            features: (1, C, G, G, G) image embedding.
            encoding: (1, C, G, G, G) its position encoding.
            sparse: (R, N, C) tokens of the prompts.
            dense: (R, C, G, G, G) embedded masks.

        Returns:
            logits (R, n_masks, 4G, 4G, 4G) and predicted IoU (R, n_masks).
        """
        count = len(sparse)
        image = features + dense
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(count, -1, -1)
        # SAM's transformer is of two axes and flattens them at once: two of the three are folded into one.
        tokens, flat = self.transformer(
            image.flatten(2, 3), encoding.flatten(2, 3).expand(count, -1, -1, -1), torch.cat([output, sparse], dim=1)
        )
        upscaled = self.output_upscaling(flat.transpose(1, 2).reshape_as(image))
        weights = [network(tokens[:, 1 + index]) for index, network in enumerate(self.output_hypernetworks_mlps)]
        logits = torch.einsum("rmc,rcxyz->rmxyz", torch.stack(weights, dim=1), upscaled)
        return logits, self.iou_prediction_head(tokens[:, 0])
