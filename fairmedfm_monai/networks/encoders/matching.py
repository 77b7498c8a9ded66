"""Heads for zero-shot classification by more than one embedding of an image.

A matching head reads an image's tokens and a text together; of several embeddings the one nearest to a text counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.text import Tokens
from fairmedfm_monai.networks.weights import strict_keys

CONTRASTIVE, MATCHING = HEADS = ("contrastive", "matching")


class MatchingHead(nn.Module):
    """Logits = logarithm of the odds that a prompt belongs to an image, averaged over the prompts of a class.

    Unlike class embeddings, prompts must be read anew beside every image, so that this head keeps their tokens and the
    network that reads them: a pass through it for each prompt and batch. Subclasses implement :meth:`match`.

    Args:
        tokens: P prompts, class by class.
        groups: number of prompts of each class.
        shape: (N, D), number and length of the image tokens.
    """

    if TYPE_CHECKING:
        numbers: Tensor
        mask: Tensor

    def __init__(self, tokens: Tokens, groups: Sequence[int], *, shape: tuple[int, int]) -> None:
        super().__init__()
        # Buffers: model.pt then holds the prompts, and Label and Deploy need no tokenizer.
        self.register_buffer("numbers", tokens.ids)
        self.register_buffer("mask", tokens.mask)
        self.groups = list(groups)
        self.shape = shape
        strict_keys(self)

    def match(self, image_tokens: Tensor, tokens: Tokens) -> Tensor:
        """Logarithm of the odds that text i belongs to image i, (B,).

        Args:
            image_tokens: (B, N, D).
            tokens: B texts.
        """
        raise NotImplementedError

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (..., C) of image tokens (..., N * D), as :class:`LocalEncoder` gives them.

        Raises:
            ValueError: for embeddings of another length.
        """
        images, leading = split_local(embedding, self.shape)
        size = (len(images), -1)
        prompts = [Tokens(row.expand(size), own.expand(size)) for row, own in zip(self.numbers, self.mask, strict=True)]
        odds = torch.stack([self.match(images, prompt) for prompt in prompts], dim=1)
        means = torch.stack([part.mean(dim=1) for part in odds.split(self.groups, dim=1)], dim=1)
        return means.unflatten(0, leading)


class BestQueryHead(nn.Module):
    """Logits = scale * the cosine of a class and the one of an image's embeddings nearest to it.

    Args:
        class_embeddings: (C, E), unit length; one more with ``background``.
        scale: factor of the cosine.
        count: number Q of embeddings of an image.
        background: the last embedding is no class; its cosine is subtracted from that of every class.
    """

    if TYPE_CHECKING:
        class_embeddings: Tensor
        scale: Tensor

    def __init__(self, class_embeddings: Tensor, scale: Tensor, *, count: int, background: bool = False) -> None:
        super().__init__()
        self.register_buffer("class_embeddings", class_embeddings)
        self.register_buffer("scale", scale)
        self.count = count
        self.background = background
        strict_keys(self)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (..., C) of unit-length embeddings (..., Q * E), as :class:`LocalEncoder` gives them.

        Raises:
            ValueError: for embeddings of another length.
        """
        queries, leading = split_local(embedding, (self.count, self.class_embeddings.shape[1]))
        cosines = best_query(queries, self.class_embeddings)
        if self.background:
            cosines = cosines[:, :-1] - cosines[:, -1:]
        return (self.scale * cosines).unflatten(0, leading)


def best_query(queries: Tensor, texts: Tensor) -> Tensor:
    """Largest cosine (B, N) of unit-length embeddings (B, Q, E) of queries and (N, E) of texts."""
    return (queries @ texts.T).amax(dim=1)


def split_local(embedding: Tensor, shape: tuple[int, int]) -> tuple[Tensor, tuple[int, ...]]:
    """Embeddings (..., N * D) as (B, N, D), and what stood in the place of B.

    Raises:
        ValueError: for embeddings of another length.
    """
    if embedding.shape[-1] != shape[0] * shape[1]:
        msg = (
            f"`embedding` must be (..., {shape[0]} * {shape[1]}), the `zero_shot` of the classifier's own encoder, "
            f"but has shape {tuple(embedding.shape)}"
        )
        raise ValueError(msg)
    return embedding.reshape(-1, *shape), tuple(embedding.shape[:-1])


def check_head(head: str) -> str:
    """``head`` if there is one of that name.

    Raises:
        ValueError: listing the heads there are.
    """
    if head not in HEADS:
        msg = f"`head` must be one of {', '.join(HEADS)}, but got {head!r}"
        raise ValueError(msg)
    return head


def log_odds(scores: Tensor) -> Tensor:
    """Of "does not match" and "matches" (..., 2), the logarithm of the odds of the latter (...)."""
    return scores[..., 1] - scores[..., 0]
