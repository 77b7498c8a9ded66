"""MLP probe: a frozen encoder and a perceptron with one hidden layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.weights import seeded
from fairmedfm_monai.usages.classifier import Classifier, check_classes


class MLPProbe(Classifier):
    """``W2 relu(W1 h + b1) + b2`` on the features h of a frozen encoder.

    Args:
        encoder: its text tower, if any, is released.
        num_classes: number C of logits.
        hidden: width of the hidden layer.
        dropout: probability between the two layers.
        seed: of the head's initial weights.
        **options: ``pooling`` and ``negative``, as for :class:`~fairmedfm_monai.usages.classifier.Classifier`.

    Raises:
        ValueError: a width below 1.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        num_classes: int,
        *,
        hidden: int = 512,
        dropout: float = 0.0,
        seed: int = 0,
        **options: Any,
    ) -> None:
        check_classes(num_classes)
        if hidden < 1:
            msg = f"`hidden` must be at least 1, but got {hidden}"
            raise ValueError(msg)
        dim = encoder.feature_dim
        with seeded(seed):
            head = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_classes))
        super().__init__(encoder, head, dim=dim, seed=seed, **options)
