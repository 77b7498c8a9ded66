"""Image encoder of SAM-Med3D (Wang et al., "SAM-Med3D", arXiv:2310.15161): SAM's vision transformer with a third axis.

FastSAM3D's student shares all of it but the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (B, C, X, Y, Z), with an affine weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, volume: Tensor) -> Tensor:
        """Normalise (B, C, X, Y, Z)."""
        last = F.layer_norm(volume.movedim(1, -1), self.weight.shape, self.weight, self.bias, EPSILON)
        return last.movedim(-1, 1)


class Attention3D(nn.Module):
    """Self-attention of a grid of tokens with relative positions, padded in thought to a larger window.

    SAM-Med3D's windowed blocks put zeros behind the normalised tokens until a window of 14^3 is full (8^3 tokens are
    real) and, as SAM's, **do not mask** them: the padding takes part as keys and was trained with. All padding tokens
    have the same key and value (the bias of ``qkv``), so they act on a query as one token whose logit is the log-sum-
    exp of theirs, which the sums over axes give exactly. The result is that of the 2,744 tokens up to rounding, for
    the price of 513.

    Quirk of the published weights: the logits of the relative positions are added along other axes than the tables'
    names say. SAM's rule, carried to query (d, h, w) and key (d', h', w'), would be q(d, h, w) . (D[d - d'] +
    H[h - h'] + W[w - w']). The networks were trained with q(d, h, w) . D[d - w'] + q(d, h, d') . H[h - w'] +
    q(d, h, h') . W[h' - w'].

    Args:
        width: channels of the tokens.
        heads: attention heads.
        grid: tokens along each axis.
        window: tokens along each axis after padding at the far end; equal to ``grid`` = no padding.

    Raises:
        ValueError: if ``window`` is smaller than ``grid`` (several windows; no published model has them).
    """

    def __init__(self, width: int, heads: int, *, grid: int, window: int) -> None:
        super().__init__()
        if window < grid:
            msg = f"`window` must hold the whole grid of {grid} tokens along each axis, but got {window}"
            raise ValueError(msg)
        self.heads, self.grid, self.window = heads, grid, window
        size = (2 * window - 1, width // heads)
        self.rel_pos_d = nn.Parameter(nn.init.trunc_normal_(torch.empty(size), std=0.02))
        self.rel_pos_h = nn.Parameter(nn.init.trunc_normal_(torch.empty(size), std=0.02))
        self.rel_pos_w = nn.Parameter(nn.init.trunc_normal_(torch.empty(size), std=0.02))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend among (B, G, G, G, C) tokens."""
        query, key, value = self._split(self.qkv(tokens.flatten(1, 3)))  # each (B, heads, G^3, C / heads)
        # Through the module, not its bias: an adapter around it is then seen too.
        pad_query, pad_key, pad_value = self._split(self.qkv(tokens.new_zeros(1, 1, tokens.shape[-1])))
        own, second, third = self._position_logits(query, pad_query)
        grid = self.grid
        bias = own[..., None, None, :grid] + (
            second[..., None, :grid, None, :grid] + third[..., None, None, :grid, :grid]
        )
        bias = bias.flatten(5).flatten(2, 4)  # (B, heads, G^3, G^3)
        if self.window > grid:
            content = (query * pad_key).sum(-1) * query.shape[-1] ** -0.5
            padding = content + _padding_logit(own, second, third, grid).flatten(2)
            bias = torch.cat([bias, padding[..., None]], dim=-1)
            key = torch.cat([key, torch.zeros_like(key[:, :, :1])], dim=2)
            value = torch.cat([value, pad_value.expand_as(value[:, :, :1])], dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        return self.proj(mixed.transpose(1, 2).flatten(2)).view_as(tokens)

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, count, _ = qkv.shape
        query, key, value = qkv.view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        return query, key, value

    def _position_logits(self, query: Tensor, pad_query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The three terms of a logit, for the real queries (d, h, w) and the keys (d', h', w') of the whole window.

        Returns:
            (B, heads, d, h, w, w'), (B, heads, d, h, d', w') and (B, heads, d, h, h', w'), float32 or as autocast.
        """
        grid, window = self.grid, self.window
        offsets = torch.arange(window, device=query.device)
        offsets = offsets[:, None] - offsets + window - 1
        query = query.unflatten(2, (grid, grid, grid))
        padding = pad_query[:, :, :, None, None].expand(*query.shape[:4], window - grid, -1)
        padded = torch.cat([query, padding], dim=4)
        return (
            torch.einsum("bndhwc,dkc->bndhwk", query, self.rel_pos_d[offsets[:grid]]),
            torch.einsum("bndhxc,hkc->bndhxk", padded, self.rel_pos_h[offsets[:grid]]),
            torch.einsum("bndhxc,xkc->bndhxk", padded, self.rel_pos_w[offsets]),
        )


def _padding_logit(own: Tensor, second: Tensor, third: Tensor, grid: int) -> Tensor:
    """Log-sum-exp (B, heads, d, h, w) of the position logits of all padding keys.

    For a given w' the terms of d' and h' are apart, so that the sum over both is a product. Keys with w' beyond the
    grid are all padding; of the others, those with d' beyond it, and those with d' within but h' beyond.
    """
    own, second, third = own.float(), second.float(), third.float()
    any_third = third.logsumexp(-2)
    beyond = second.logsumexp(-2) + any_third
    within = torch.logaddexp(
        second[..., grid:, :].logsumexp(-2) + any_third,
        second[..., :grid, :].logsumexp(-2) + third[..., grid:, :].logsumexp(-2),
    )
    last = torch.cat([within[..., :grid], beyond[..., grid:]], dim=-1)
    return (own + last[..., None, :]).logsumexp(-1)


class Block3D(nn.Module):
    """Transformer block of SAM-Med3D: ``x + attention(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        width: channels of the tokens.
        heads: attention heads.
        grid: tokens along each axis.
        window: see :class:`Attention3D`.
    """

    def __init__(self, width: int, heads: int, *, grid: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.attn = Attention3D(width, heads, grid=grid, window=window)
        self.norm2 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = MLPBlock(width, 4 * width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (B, G, G, G, C) tokens."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class ImageEncoder3D(nn.Module):
    """Patches, absolute positions, blocks and SAM's neck.

    Args:
        blocks: modules that map (B, G, G, G, width) to itself, with G = ``image_size // patch_size``.
        image_size: edge of the cubic input in voxels.
        patch_size: edge of a token in voxels.
        width: channels of the tokens.
        channels: channels of the embedding.
    """

    def __init__(
        self, blocks: Iterable[nn.Module], *, image_size: int, patch_size: int, width: int, channels: int
    ) -> None:
        super().__init__()
        self.img_size = image_size
        self.grid = image_size // patch_size
        shape = (1, self.grid, self.grid, self.grid, width)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(1, width, patch_size, stride=patch_size)})
        self.blocks = nn.ModuleList(blocks)
        self.neck = nn.Sequential(
            nn.Conv3d(width, channels, 1, bias=False),
            ChannelNorm(channels),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, window: Tensor) -> Tensor:
        """Embed (B, 1, S, S, S) normalised voxels as (B, channels, G, G, G)."""
        tokens = self.patch_embed["proj"](window).movedim(1, -1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.neck(tokens.movedim(-1, 1))
