"""Zero-shot classification: the class whose prompts lie closest to the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import ImageEncoder, VisionLanguageEncoder
from fairmedfm_monai.networks.weights import strict_keys
from fairmedfm_monai.usages.classifier import Classifier


class ZeroShotHead(nn.Module):
    """Logits = scale * <image embedding, class embedding> + bias.

    Args:
        class_embeddings: (C, E), unit length (or the difference of two such).
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
        """Logits (..., C) of unit-length image embeddings (..., E)."""
        return self.scale * embedding @ self.class_embeddings.T + self.bias


class ZeroShotClassifier(Classifier):
    """A vision-language model and the text embeddings of the classes.

    Each prompt is embedded and normalised, the prompts of a class are averaged and the mean normalised again (prompt
    ensembling, Radford et al. 2021, section 3.1.4). Nothing is trained.

    Args:
        encoder: its text tower, if it can be, is released once the classes are embedded.
        classes: class name -> prompts, in the order of the logits.
        background: prompts that every class is told apart from, for independent labels: the sigmoid of a logit is then
            the softmax over class and background (see :func:`text_terms`).
        pooling: how slices of volumes are pooled, ``max`` or ``mean``; None = pictures only.
        negative: index of the class of slices that show nothing, None = independent labels.

    Raises:
        ValueError: if there is no class, a class without a prompt, or a pooling that would have to be trained.
    """

    def __init__(
        self,
        encoder: VisionLanguageEncoder,
        classes: Mapping[str, Sequence[str]],
        *,
        background: Sequence[str] = (),
        pooling: str | None = None,
        negative: int | None = None,
    ) -> None:
        if pooling == "attention":
            msg = "`pooling` must be max or mean for zero-shot: attention would have to be trained"
            raise ValueError(msg)
        embeddings, behind, scale, bias = text_terms(encoder, classes, background)
        parts: tuple[ImageEncoder, nn.Module] = (encoder, ZeroShotHead(embeddings - behind, scale, bias))
        local_parts: Any = getattr(encoder, "local_parts", None)
        if local_parts is not None:  # GLoRIA compares regions of an image with words, too
            parts = local_parts(classes, background) or parts
        dim = embeddings.shape[1]
        super().__init__(*parts, dim=dim, feature="zero_shot", pooling=pooling, negative=negative)
        self.classes = list(classes)
        self.eval()

    @torch.jit.unused
    def train(self, mode: bool = True) -> ZeroShotClassifier:
        """Stay in evaluation mode: nothing here is trained."""
        super().train(False)
        return self


@torch.no_grad()
def text_terms(
    encoder: VisionLanguageEncoder, classes: Mapping[str, Sequence[str]], background: Sequence[str] = ()
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a head needs of the text: class embeddings (C, E), background (E,), scale and bias.

    Cosines of contrastive models are comparable within an image only, so that independent labels need something to
    be compared with: ``background``, a text that says nothing of a finding. It is zero where none is given and where
    the model was trained with a bias (SigLIP), whose sigmoid needs no comparison.
    """
    embeddings = class_embeddings(encoder, classes)
    scale, bias = (term.detach().clone() for term in encoder.logit_terms())
    behind = torch.zeros_like(embeddings[0])
    if background and not bool(bias):
        behind = class_embeddings(encoder, {"background": background})[0]
    return embeddings, behind, scale, bias


@torch.no_grad()
def class_embeddings(encoder: VisionLanguageEncoder, classes: Mapping[str, Sequence[str]]) -> Tensor:
    """Mean text embedding of each class's prompts, (C, E), unit length."""
    empty = [name for name, prompts in classes.items() if not _are_texts(prompts)]
    if empty or not classes:
        given = f"the prompts of {empty[0]!r} are {classes[empty[0]]!r}" if empty else "it is empty"
        msg = f"`classes` must map each class to a non-empty list of prompts, none of them empty, but {given}"
        raise ValueError(msg)
    prompts = [prompt for group in classes.values() for prompt in group]
    embedded = F.normalize(encoder.encode_text(prompts)["zero_shot"], dim=-1)
    groups = embedded.split([len(group) for group in classes.values()])
    return F.normalize(torch.stack([group.mean(dim=0) for group in groups]), dim=-1)


def _are_texts(prompts: object) -> bool:
    """Whether there is at least one prompt, and each says something."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        return False
    return bool(prompts) and all(isinstance(prompt, str) and prompt.strip() for prompt in prompts)
