"""CLIP-Adapter: a small residual network on the image embedding, in front of frozen class embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.encoders.base import VisionLanguageEncoder
from fairmedfm_monai.networks.weights import seeded
from fairmedfm_monai.usages.classifier import Classifier
from fairmedfm_monai.usages.zero_shot import ZeroShotHead, text_terms


class AdapterHead(nn.Module):
    """``f* = normalise(ratio * relu(relu(f W1) W2) + (1 - ratio) * f)``, then the logits of zero-shot classification.

    Args:
        zero_shot: gives logits (..., C) of unit-length embeddings (..., E); frozen.
        dim: E.
        ratio: share of the adapted embedding.
        reduction: E / width of the layer between.
    """

    def __init__(self, zero_shot: ZeroShotHead, *, dim: int, ratio: float, reduction: int) -> None:
        super().__init__()
        width = max(1, dim // reduction)
        # No biases: the map then keeps factors, so that it makes no difference that embeddings are normalised before.
        self.adapter = nn.Sequential(
            nn.Linear(dim, width, bias=False), nn.ReLU(), nn.Linear(width, dim, bias=False), nn.ReLU()
        )
        self.ratio = ratio
        self.zero_shot = zero_shot

    def forward(self, embedding: Tensor) -> Tensor:
        """Logits (..., C) of unit-length image embeddings (..., E)."""
        mixed = self.ratio * self.adapter(embedding) + (1 - self.ratio) * embedding
        return self.zero_shot(F.normalize(mixed, dim=-1))


class CLIPAdapter(Classifier):
    """CLIP-Adapter with a visual adapter (Gao et al., CLIP-Adapter: Better vision-language models with feature
    adapters, IJCV 2024, equations 3 and 5).

    Args:
        encoder: frozen; its text tower is released once the classes are embedded.
        classes: class name -> prompts, in the order of the logits.
        ratio: share of the adapted embedding (alpha of the paper; its own code has 0.2); 0 = zero-shot.
        reduction: factor by which the layer between is narrower.
        background: prompts that independent labels are told apart from.
        seed: of the adapter's initial weights.
        **options: ``pooling`` and ``negative``, as for :class:`~fairmedfm_monai.usages.classifier.Classifier`.

    Raises:
        ValueError: if there is no class, a class without a prompt, or a ratio outside [0, 1].
    """

    def __init__(
        self,
        encoder: VisionLanguageEncoder,
        classes: Mapping[str, Sequence[str]],
        *,
        ratio: float = 0.2,
        reduction: int = 4,
        background: Sequence[str] = (),
        seed: int = 0,
        **options: Any,
    ) -> None:
        if not 0 <= ratio <= 1 or reduction < 1:
            msg = f"`ratio` must be in [0, 1] and `reduction` at least 1, but got {ratio} and {reduction}"
            raise ValueError(msg)
        embeddings, behind, scale, bias = text_terms(encoder, classes, background)
        dim = embeddings.shape[1]
        with seeded(seed):
            head = AdapterHead(
                ZeroShotHead(embeddings - behind, scale, bias), dim=dim, ratio=ratio, reduction=reduction
            )
        super().__init__(encoder, head, dim=dim, feature="zero_shot", seed=seed, **options)
        self.classes = list(classes)
