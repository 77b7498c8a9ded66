"""GLoRIA's similarity of an image and a prompt: half of the whole, half of regions and words (section 3 of the paper).

Each word attends to the image regions that fit it, and is compared with what it sees there. As in the authors' code
for zero-shot classification, three things differ from the paper:

* a prompt has as many word places as its text has *characters* (at most 96), not words; the places behind its words
  hold the embedding of the closing token and then zeros, which share in the softmax over words and whose own similarity
  is 0;
* the words' similarities are not summed, the largest counts;
* so the local half is 5 times a cosine (the logarithm of an exponential of it), the global half once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.weights import strict_keys


class LocalGlobalHead(nn.Module):
    """Logits = scale * the largest similarity of a class's prompts.

    Args:
        sentences: (N, E) unit-length embeddings of all prompts, group by group.
        words: (N, W, E) embeddings of their words, padded with zeros.
        counts: (N,) places of each prompt that are read.
        groups: number of prompts of each class and, with ``background``, of the background.
        scale: factor of the similarity.
        background: the last group is no class; its similarity is subtracted from that of every class.
    """

    if TYPE_CHECKING:  # TorchScript reads the annotations that exist at run time, and fails on these
        sentences: Tensor
        words: Tensor
        counts: Tensor
        scale: Tensor

    def __init__(
        self,
        sentences: Tensor,
        words: Tensor,
        counts: Tensor,
        *,
        groups: Sequence[int],
        scale: Tensor,
        background: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("sentences", sentences)
        self.register_buffer("words", words)
        self.register_buffer("counts", counts)
        self.register_buffer("scale", scale)
        self.groups = list(groups)
        self.background = background
        strict_keys(self)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (..., C) of the flat vectors (..., (1 + P) * E) of :class:`LocalEncoder`.

        Raises:
            ValueError: for vectors of another length, such as GLoRIA's own ``zero_shot``, which holds no regions.
        """
        dim, length, shape = self.sentences.shape[1], embedding.shape[-1], list(embedding.shape[:-1])
        if length == dim or length % dim:
            raise ValueError("`embedding` must hold an image's and its regions' embeddings, as LocalEncoder gives them")
        local = embedding.reshape([-1, length // dim, dim])
        similarity = joint_similarity(local, self.sentences, self.words, self.counts)
        best = torch.stack([part.amax(dim=1) for part in similarity.split(self.groups, dim=1)], dim=1)
        if self.background:
            best = best[:, :-1] - best[:, -1:]
        shape.append(best.shape[1])
        return (self.scale * best).reshape(shape)


class LocalEncoder(ImageEncoder):
    """An encoder whose ``zero_shot`` is its ``local`` as one vector: what caches and pools of slices can hold.

    Args:
        encoder: gives ``features`` and ``local`` (B, 1 + P, E).
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__(feature_dim=encoder.feature_dim, input_spec=encoder.input_spec)
        self.encoder = encoder

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, C, S, S) images to ``features`` (B, D) and ``zero_shot`` (B, (1 + P) * E), not of unit length."""
        encoded = self.encoder.encode_image(image)
        return {"features": encoded["features"], "zero_shot": encoded["local"].flatten(1)}


def joint_similarity(embedding: Tensor, sentences: Tensor, words: Tensor, counts: Tensor) -> Tensor:
    """Mean of global and local similarity, (B, N).

    Args:
        embedding: (B, 1 + P, E): the unit-length embedding of each image, then those of its P regions.
        sentences: (N, E) unit-length embeddings of the prompts.
        words: (N, W, E) embeddings of their words.
        counts: (N,) places of each prompt that are read.
    """
    whole = embedding[:, 0] @ sentences.T
    parts = [local_similarity(embedding[:, 1:], words[index, : int(counts[index])]) for index in range(len(words))]
    return (whole + torch.stack(parts, dim=1)) / 2


def local_similarity(regions: Tensor, words: Tensor, attention: float = 4.0, matching: float = 5.0) -> Tensor:
    """Largest similarity (B,) of a prompt's W words with what each of them sees in an image.

    Args:
        regions: (B, P, E) embeddings of image regions.
        words: (W, E) embeddings of one prompt's words.
        attention: the paper's temperature of the attention over regions.
        matching: the paper's temperature of a word's similarity.
    """
    shares = (regions @ words.T).softmax(dim=2)  # of the words in each region
    seen = (attention * shares).softmax(dim=1).transpose(1, 2) @ regions
    lengths = words.norm(2, dim=-1) * seen.norm(2, dim=-1)
    cosines = (seen * words).sum(dim=-1) / lengths.clamp(min=1e-8)
    return matching * cosines.amax(dim=1)
