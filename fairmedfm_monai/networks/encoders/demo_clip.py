"""demo_clip: a small vision-language model of chest radiographs, trained by scripts/train_demo_models.py.

A demonstration of the machinery, not a medical model: its training radiographs are projections of one CT. The loss is
contrastive as in CLIP (Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML
2021); the towers are its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.encoders.demo_vocabulary import MAX_TOKENS, PAD, WordTokenizer
from fairmedfm_monai.networks.pretrained import fill_shipped, only_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import seeded, weights_kind

SPEC = InputSpec(size=128, mean=(0.5,), std=(0.25,), channels=1)
LORA_TARGETS = ("qkv", "proj", "fc1", "fc2")
MAX_SCALE = 100.0  # CLIP's own limit of the logit scale
GEOMETRY = {"stem": 16, "width": 128, "depth": 2, "text_width": 64, "text_depth": 2}
TINY = {"stem": 8, "width": 32, "depth": 1, "text_width": 16, "text_depth": 1}


class Block(nn.Module):
    """Pre-norm transformer block of plain linear layers, (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, N, D).
            visible: (B, 1, 1, N) bool, False = a token that nobody may attend to; None = all are visible.
        """
        batch, count, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Residual(nn.Module):
    """Two 3x3 convolutions with group norm and a short cut, (B, C, H, W) -> (B, C', H/stride, W/stride)."""

    def __init__(self, before: int, after: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, after)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if stride > 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B, C, H, W)."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ImageTower(nn.Module):
    """Convolutions to 16 x 16 cells, pooled to 8 x 8 tokens, then transformer blocks with a class token.

    Args:
        stem: channels of the first convolution; 2 and 4 times as many follow.
        width: channels of the tokens and of the feature.
        depth: transformer blocks.
    """

    def __init__(self, *, stem: int, width: int, depth: int) -> None:
        super().__init__()
        self.cell_width = 4 * stem
        self.stem = nn.Sequential(nn.Conv2d(1, stem, 5, 2, 2, bias=False), nn.GroupNorm(8, stem), nn.ReLU())
        self.stages = nn.Sequential(
            Residual(stem, 2 * stem, stride=2),
            Residual(2 * stem, 2 * stem),
            Residual(2 * stem, 4 * stem, stride=2),
            Residual(4 * stem, 4 * stem),
        )
        self.embed = nn.Conv2d(4 * stem, width, 1)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def cells(self, image: Tensor) -> Tensor:
        """(B, 1, 128, 128) -> (B, 4 * stem, 16, 16)."""
        return self.stages(self.stem(image))

    def forward(self, cells: Tensor) -> Tensor:
        """Feature (B, width) of :meth:`cells`: class token plus the maximum over the other tokens."""
        tokens = self.embed(F.max_pool2d(cells, 2)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0] + tokens[:, 1:].amax(dim=1)


class TextTower(nn.Module):
    """Word embeddings, transformer blocks, mean over the words.

    Args:
        words: number of embeddings, padding and the unknown word included.
        width: channels.
        depth: transformer blocks.
    """

    def __init__(self, *, words: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.positions = nn.Parameter(torch.randn(1, MAX_TOKENS, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        """Word numbers (N, L) -> (N, width)."""
        known = numbers != PAD
        tokens = self.embed(numbers) + self.positions[:, : numbers.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, known[:, None, None, :])
        weight = known[..., None].to(tokens.dtype)
        return (self.norm(tokens) * weight).sum(1) / weight.sum(1)


class DemoCLIP(VisionLanguageEncoder):
    """Small vision-language encoder of chest radiographs with a vocabulary of about 200 words.

    A demo, not a medical model. Input: (B, 1, 128, 128), grey in [0, 1] and then normalised by ``input_spec``.

    Args:
        weights: ``pretrained`` (shipped with the package), a path, ``random`` or ``tiny``.
        variant: ``default``, the only one.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
    """

    def __init__(self, weights: str | Path = "pretrained", *, variant: str = "default", seed: int = 0) -> None:
        only_variant(variant)
        size = TINY if weights_kind(weights) == "tiny" else GEOMETRY
        super().__init__(feature_dim=size["width"], input_spec=SPEC)
        self.tokenizer = WordTokenizer()
        with seeded(seed):
            self.image = ImageTower(stem=size["stem"], width=size["width"], depth=size["depth"])
            self.image_head = nn.Linear(size["width"], size["width"], bias=False)
            self.text: TextTower | None = TextTower(
                words=len(self.tokenizer), width=size["text_width"], depth=size["text_depth"]
            )
            self.text_head: nn.Linear | None = nn.Linear(size["text_width"], size["width"], bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        fill_shipped(self, "demo_clip", weights)
        self.eval()

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 1, 128, 128): ``features`` (B, D) for probes, ``zero_shot`` (B, D) of length 1.

        Raises:
            ValueError: another shape.
        """
        if image.ndim != 4 or image.shape[1:] != (1, SPEC.size, SPEC.size):
            msg = (
                f"`image` must be (B, 1, {SPEC.size}, {SPEC.size}), but has shape {tuple(image.shape)}; "
                "resize it and keep one grey channel"
            )
            raise ValueError(msg)
        features = self.image(self.image.cells(image))
        return {"features": features, "zero_shot": F.normalize(self.image_head(features), dim=-1)}

    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N texts: ``zero_shot`` (N, D) of length 1. Words outside the vocabulary are reported by a warning.

        Raises:
            ValueError: no text, or a text without any known word.
            RuntimeError: the text tower was released.
        """
        if self.text is None or self.text_head is None:
            msg = "the text tower was released (release_text); build another DemoCLIP to encode texts"
            raise RuntimeError(msg)
        numbers = self.tokenizer(list(texts)).to(self.text_head.weight.device)
        return {"zero_shot": F.normalize(self.text_head(self.text(numbers)), dim=-1)}

    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Scale and bias (0) of the logits."""
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        return scale, torch.zeros_like(scale)

    def release_text(self) -> None:
        """Drop the text tower; :meth:`encode_text` then fails."""
        self.text = None
        self.text_head = None
