"""Zero-shot classification: the class whose prompts lie closest to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.weights import strict_keys


class ZeroShotHead(nn.Module):
    """Logits = scale * <image embedding, class embedding> + bias.

    Args:
        class_embeddings: (C, E), unit length.
        scale: factor of the cosine.
        bias: added to every logit.
    """

    if TYPE_CHECKING:  # TorchScript reads the annotations that exist at run time, and fails on these
        class_embeddings: Tensor
        scale: Tensor
        bias: Tensor

    def __init__(self, class_embeddings: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        # Buffers: model.pt then holds the classes, and Label and Deploy need neither prompts nor a text tower.
        self.register_buffer("class_embeddings", class_embeddings)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        strict_keys(self)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (B, C) of unit-length image embeddings (B, E)."""
        return self.scale * embedding @ self.class_embeddings.T + self.bias


class ZeroShotClassifier(nn.Module):
    """A vision-language model and the text embeddings of the classes.

    Each prompt is embedded and normalised, the prompts of a class are averaged and the mean normalised again (prompt
    ensembling, Radford et al. 2021, section 3.1.4). Nothing is trained.

    Args:
        encoder: its text tower, if it can be, is released once the classes are embedded.
        classes: class name -> prompts, in the order of the logits.

    Raises:
        ValueError: if there is no class, or a class without a prompt.
    """

    def __init__(self, encoder: VisionLanguageEncoder, classes: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.classes = list(classes)
        encoder.requires_grad_(False).eval()
        self.head = ZeroShotHead(class_embeddings(encoder, classes), *(term.clone() for term in encoder.logit_terms()))
        encoder.release_text()
        self.encoder = encoder
        strict_keys(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, C, H, W)."""
        return self.head(self.encoder.encode_image(image)["zero_shot"])

    @torch.jit.unused
    def train(self, mode: bool = True) -> ZeroShotClassifier:
        """Stay in evaluation mode: nothing here is trained."""
        return super().train(False)


@torch.no_grad()
def class_embeddings(encoder: VisionLanguageEncoder, classes: Mapping[str, Sequence[str]]) -> Tensor:
    """Mean text embedding of each class's prompts, (C, E), unit length."""
    empty = [name for name, prompts in classes.items() if isinstance(prompts, str) or not prompts]
    if empty or not classes:
        msg = (
            "`classes` must map each class to a non-empty list of prompts, "
            f"but {f'{empty[0]!r} has none' if empty else 'it is empty'}"
        )
        raise ValueError(msg)
    prompts = [prompt for group in classes.values() for prompt in group]
    embedded = F.normalize(encoder.encode_text(prompts)["zero_shot"], dim=-1)
    groups = embedded.split([len(group) for group in classes.values()])
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)
