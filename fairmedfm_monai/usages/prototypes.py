"""Prototypes: the text embeddings of the classes are trained, everything else is as in zero-shot classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.weights import strict_keys
from fairmedfm_monai.usages.classifier import Classifier
from fairmedfm_monai.usages.zero_shot import text_terms


class PrototypeHead(nn.Module):
    """Logits = scale * <image embedding, normalised prototype - background> + bias; the prototypes train.

    Args:
        prototypes: (C, E), where training starts.
        background: (E,), fixed; zero where classes exclude each other.
        scale: factor of the cosine, fixed.
        bias: added to every logit, fixed.
    """

    if TYPE_CHECKING:  # TorchScript reads the annotations that exist at run time, and fails on these
        background: Tensor
        scale: Tensor
        bias: Tensor

    def __init__(self, prototypes: Tensor, background: Tensor, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(prototypes.clone())
        self.register_buffer("background", background)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)
        strict_keys(self)

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (..., C) of unit-length image embeddings (..., E)."""
        against = F.normalize(self.prototypes, dim=-1) - self.background
        return self.scale * embedding @ against.T + self.bias


class Prototypes(Classifier):
    """Zero-shot classification whose class embeddings are trained (``clip-adapt`` of FairMedFM, Jin et al. 2024).

    Before the first step its logits are those of :class:`fairmedfm_monai.usages.zero_shot.ZeroShotClassifier`. The
    length of a prototype does not count: it is normalised.

    Args:
        encoder: frozen; its text tower is released once the classes are embedded.
        classes: class name -> prompts, in the order of the logits.
        background: prompts that independent labels are told apart from.
        **options: ``pooling``, ``negative`` and ``seed``, as for
            :class:`~fairmedfm_monai.usages.classifier.Classifier`.

    Raises:
        ValueError: if there is no class, or a class without a prompt.
    """

    def __init__(
        self,
        encoder: VisionLanguageEncoder,
        classes: Mapping[str, Sequence[str]],
        *,
        background: Sequence[str] = (),
        **options: Any,
    ) -> None:
        embeddings, behind, scale, bias = text_terms(encoder, classes, background)
        head = PrototypeHead(embeddings, behind, scale, bias)
        super().__init__(encoder, head, dim=embeddings.shape[1], feature="zero_shot", **options)
        self.classes = list(classes)
