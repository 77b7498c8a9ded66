"""SegVol's prompt encoder, text encoder and mask decoder (Du et al., "SegVol", NeurIPS 2024, arXiv:2311.13385).

SAM's design with a third axis and a text token. Module and parameter names are those of the published checkpoint.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

import fairmedfm_monai.networks.weights  # noqa: F401 - before open_clip and transformers: telemetry of the hub off

from open_clip import SimpleTokenizer  # isort: skip
from transformers import CLIPTextConfig, CLIPTextModel  # isort: skip

Grid = tuple[int, int, int]
TEMPLATE = "A computerized tomography of a {}."
# Masks that SAM's design predicts for one prompt.
N_MASKS = 4


class FourierEncoding(nn.Module):
    """Random Fourier features of positions in [0, 1]^3 (Tancik et al., NeurIPS 2020), as in SAM.

    Args:
        width: number of frequencies; the encoding has twice as many channels, sines first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, width))
        self.positional_encoding_gaussian_matrix: Tensor

    def forward(self, positions: Tensor) -> Tensor:
        """Encode (..., 3) to (..., 2 * width)."""
        phases = 2 * math.pi * ((2 * positions.float() - 1) @ self.positional_encoding_gaussian_matrix.float())
        return torch.cat([phases.sin(), phases.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Points, boxes and texts as tokens.

    The mask branch is part of the checkpoint but cannot run: its convolutions are two-dimensional.

    Args:
        dim: channels of tokens and of the image embedding.
        window: voxels of the input.
        grid: tokens of the image embedding along the same axes.
        mask_channels: hidden channels of the unused mask branch.
    """

    def __init__(self, dim: int, *, window: Grid, grid: Grid, mask_channels: int = 16) -> None:
        super().__init__()
        self.window, self.grid = window, grid
        self.pe_layer = FourierEncoding(dim // 2)
        self.point_embeddings = nn.ModuleList([nn.Embedding(1, dim) for _ in range(4)])
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, dim, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, dim)

    def forward(self, points: tuple[Tensor, Tensor] | None, corners: Tensor | None, text: Tensor | None) -> Tensor:
        """Tokens (R, T, C) of R prompts of one make-up: points, then box corners, then the text.

        Args:
            points: voxel-centre indices (R, n, 3) and labels (R, n), 1 object or 0 background; or None. Without a box
                one more token says "no further point", as in SAM.
            corners: lower and upper corners of boxes (R, 2, 3), or None.
            text: embeddings (R, C), or None. At least one of the three is given.
        """
        tokens = []
        if points is not None:
            tokens.append(self._encode(points[0]) + self._kinds()[points[1]])
            if corners is None:
                tokens.append(self.not_a_point_embed.weight.expand(len(points[0]), 1, -1))
        if corners is not None:
            tokens.append(self._encode(corners) + self._kinds()[2:])
        if text is not None:
            tokens.append(text[:, None])
        return torch.cat(tokens, dim=1)

    def dense_encoding(self) -> Tensor:
        """Positions of the image embedding's tokens, (1, C, d, h, w).

        Quirk, kept because the weights were trained with it: the first two axes are swapped against :meth:`_encode`.
        """
        device = self.pe_layer.positional_encoding_gaussian_matrix.device
        axes = [(torch.arange(n, device=device) + 0.5) / n for n in self.grid]
        d, h, w = torch.meshgrid(*axes, indexing="ij")
        return self.pe_layer(torch.stack([h, d, w], dim=-1)).permute(3, 0, 1, 2)[None]

    def no_mask(self) -> Tensor:
        """What is added to the image embedding where no mask is given, (1, C, 1, 1, 1)."""
        return self.no_mask_embed.weight[:, :, None, None, None]

    def _kinds(self) -> Tensor:
        """What marks a token as background, object, lower or upper corner: (4, C)."""
        return torch.cat(list(self.point_embeddings.parameters()))

    def _encode(self, coords: Tensor) -> Tensor:
        """Encode voxel-centre indices (R, n, 3).

        Quirk, kept because the weights were trained with it: the first coordinate (of 32 slices) is divided by the
        size of the second axis, 256, and the second by that of the first, 32.
        """
        first, second, third = self.window
        return self.pe_layer((coords + 0.5) / coords.new_tensor([second, first, third]))


class MaskDecoder(nn.Module):
    """Image embedding and tokens to a mask four times finer than the embedding.

    A layer normalisation with one weight per position fixes the window's size.

    Args:
        dim: channels of tokens and of the image embedding.
        grid: tokens of the image embedding.
        mlp: hidden width of the transformer's MLPs.
        iou_width: hidden width of the head that predicts the IoU.
    """

    def __init__(self, dim: int, *, grid: Grid, mlp: int = 2048, iou_width: int = 256) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=mlp, num_heads=8)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(N_MASKS, dim)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(dim, dim // 4, kernel_size=2, stride=2),
            nn.LayerNorm((dim // 4, *(2 * n for n in grid))),
            nn.GELU(),
            nn.ConvTranspose3d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList([MLP(dim, dim, dim // 8, 3) for _ in range(N_MASKS)])
        self.iou_prediction_head = MLP(dim, iou_width, N_MASKS, 3)
        self.txt_align_upscaled_embedding = nn.Linear(dim, dim // 8)

    def forward(
        self, image: Tensor, encoding: Tensor, prompts: Tensor, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Masks of R prompts on one image.

        Args:
            image: embedding (1, C, d, h, w), with what stands for the mask prompt already added.
            encoding: positions of its tokens, of the same shape.
            prompts: tokens (R, T, C).
            text: embeddings (R, C) of the texts among the prompts, or None.

        Returns:
            logits (R, M, 4d, 4h, 4w) of M mask tokens and predicted IoU (R, 4). SegVol reads the first of each.
        """
        rows, grid = len(prompts), image.shape[2:]
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(rows, -1, -1)
        # The package's transformer is written for two axes; it only flattens them, so the first two go as one.
        folded = (tensor.flatten(2, 3).expand(rows, -1, -1, -1) for tensor in (image, encoding))
        tokens, source = self.transformer(*folded, torch.cat([output, prompts], dim=1))
        upscaled = self.output_upscaling(source.transpose(1, 2).unflatten(2, grid))
        networks = self.output_hypernetworks_mlps
        weights = torch.stack([network(tokens[:, 1 + index]) for index, network in enumerate(networks)], dim=1)
        if text is not None:  # the text's own map is added to every mask: all are linear in `upscaled`
            weights = weights + self.txt_align_upscaled_embedding(text)[:, None]
        logits = torch.einsum("rmc,rcdhw->rmdhw", weights, upscaled)
        return logits, self.iou_prediction_head(tokens[:, 0])


class TextEncoder(nn.Module):
    """Names of structures as tokens: CLIP's text model, frozen as its authors left it, and a linear layer.

    CLIP's output is kept for each text (outside the state dict), so that a run encodes a label once.

    Args:
        dim: channels of the tokens.
        config: fields of ``CLIPTextConfig`` that differ from its defaults, which are those of the checkpoint.
    """

    def __init__(self, dim: int, config: dict[str, Any]) -> None:
        super().__init__()
        settings = CLIPTextConfig(**config)
        self.clip_text_model = CLIPTextModel(settings).requires_grad_(False)
        self.dim_align = nn.Linear(settings.hidden_size, dim)
        self._pooled: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(_forget)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Tokens (R, C) of R texts.

        Raises:
            ValueError: a text is too long.
        """
        for text in texts:
            if text not in self._pooled:
                self._pooled[text] = self._pool(text)
        pooled = torch.stack([self._pooled[text] for text in texts])
        return self.dim_align(pooled.to(self.dim_align.weight))

    @torch.no_grad()
    def _pool(self, text: str) -> Tensor:
        """CLIP's output (D,) at the end-of-text token.

        Texts go one by one: what would pad a batch stands behind that token, where causal attention never looks.
        """
        device = self.dim_align.weight.device
        with torch.autocast(device.type, enabled=False):
            tokens = torch.tensor([text_tokens(text)], device=device)
            return self.clip_text_model(input_ids=tokens).pooler_output[0]


def _forget(encoder: TextEncoder, _: object) -> None:
    """Post-hook of ``load_state_dict``: what other weights made of the texts is worth nothing."""
    encoder._pooled.clear()


def text_tokens(text: str) -> list[int]:
    """CLIP's token numbers of ``text`` in SegVol's sentence, with those of start and end of text.

    Raises:
        ValueError: if the sentence is longer than CLIP's 77 positions.
    """
    tokenizer = _tokenizer()
    start, end = tokenizer.all_special_ids[:2]
    tokens = [start, *tokenizer.encode(TEMPLATE.format(text)), end]
    if len(tokens) > tokenizer.context_length:
        msg = (
            f"the text prompt {text[:60]!r}... makes {len(tokens)} tokens, but the text encoder reads at most "
            f"{tokenizer.context_length}; give the name of one structure, e.g. 'liver'"
        )
        raise ValueError(msg)
    return tokens


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    """CLIP's byte-pair vocabulary, which ships with open_clip: nothing has to be downloaded."""
    return SimpleTokenizer(context_length=77)
