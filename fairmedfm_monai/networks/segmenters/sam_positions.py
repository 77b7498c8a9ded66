"""SAM's image encoder at another input size than the one it was trained at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize_input(segmenter: Any, image_size: int) -> None:
    """Change the edge of the square input of a SAM in place; at its own size nothing changes.

    The table of absolute positions and those of relative positions of the blocks that attend over the whole image are
    interpolated bilinearly to the new grid of tokens (Zhang & Liu, SAMed, arXiv:2304.13785); windows keep theirs.

    Args:
        segmenter: with ``image_encoder`` and ``prompt_encoder`` of segment-anything's classes.
        image_size: new edge in pixels, a multiple of the edge of a token.

    Raises:
        ValueError: another number.
    """
    encoder, prompts = segmenter.image_encoder, segmenter.prompt_encoder
    patch = int(encoder.patch_embed.proj.kernel_size[0])
    if image_size < patch or image_size % patch:
        msg = f"`image_size` must be a multiple of the {patch} pixels of a token, but got {image_size}"
        raise ValueError(msg)
    if image_size == encoder.img_size:
        return
    tokens = image_size // patch
    if encoder.pos_embed is not None:
        encoder.pos_embed = _like(encoder.pos_embed, absolute_positions(encoder.pos_embed, tokens))
    for block in encoder.blocks:
        if block.window_size == 0 and block.attn.use_rel_pos:
            for name in ("rel_pos_h", "rel_pos_w"):
                table = getattr(block.attn, name)
                setattr(block.attn, name, _like(table, relative_positions(table, tokens)))
    encoder.img_size = image_size
    prompts.input_image_size = (image_size, image_size)
    prompts.image_embedding_size = (tokens, tokens)
    prompts.mask_input_size = (4 * tokens, 4 * tokens)


def absolute_positions(table: Tensor, tokens: int) -> Tensor:
    """Table (1, h, w, C) on a grid of ``tokens`` x ``tokens``."""
    grid = table.detach().permute(0, 3, 1, 2)
    return F.interpolate(grid, (tokens, tokens), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def relative_positions(table: Tensor, tokens: int) -> Tensor:
    """Table (2 h - 1, C) for all distances along ``tokens`` tokens, (2 ``tokens`` - 1, C)."""
    along = table.detach().T[None]
    return F.interpolate(along, 2 * tokens - 1, mode="linear", align_corners=False)[0].T


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), requires_grad=parameter.requires_grad)
