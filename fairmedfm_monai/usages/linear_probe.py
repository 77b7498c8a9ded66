"""Linear probe: a frozen encoder and one linear layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.weights import seeded
from fairmedfm_monai.usages.classifier import Classifier, check_classes


class LinearProbe(Classifier):
    """One linear layer on the features of a frozen encoder.

    Args:
        encoder: its text tower, if any, is released.
        num_classes: number C of logits.
        seed: of the head's initial weights.
        **options: ``pooling`` and ``negative``, as for :class:`~fairmedfm_monai.usages.classifier.Classifier`.
    """

    def __init__(self, encoder: ImageEncoder, num_classes: int, *, seed: int = 0, **options: Any) -> None:
        check_classes(num_classes)
        with seeded(seed):
            head = nn.Linear(encoder.feature_dim, num_classes)
        super().__init__(encoder, head, dim=encoder.feature_dim, seed=seed, **options)
