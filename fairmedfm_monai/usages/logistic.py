"""Logistic regression on features, fitted at once: for questions that need no training run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ITERATIONS = 500
_GRADIENT = 1e-6


@dataclass(frozen=True)
class Logistic:
    """A fitted model; features are standardised by the mean and deviation of the training set.

    Attributes:
        mean: (D,).
        deviation: (D,), 1 where a feature is constant.
        layer: linear layer D -> K.
    """

    mean: Tensor
    deviation: Tensor
    layer: nn.Linear

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """(N, K) of features (N, D)."""
        return self.layer((features - self.mean) / self.deviation).softmax(dim=-1)


def fit_logistic(features: Tensor, labels: Tensor, num_classes: int, *, penalty: float) -> Logistic:
    """Minimise ``mean cross-entropy + penalty / 2 * sum of squared weights`` (biases left out) by L-BFGS.

    This is scikit-learn's ``LogisticRegression(C=1 / (penalty * N))`` on standardised features.

    Args:
        features: (N, D).
        labels: (N,) class indices; every class should occur.
        num_classes: K.
        penalty: its strength, > 0 (without it separable classes have no minimum).

    Raises:
        ValueError: a penalty that is not positive.
    """
    if not penalty > 0:
        msg = f"`penalty` must be positive, but got {penalty}"
        raise ValueError(msg)
    mean, deviation = features.mean(dim=0), features.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    inputs = (features - mean) / deviation
    layer = nn.Linear(features.shape[1], num_classes, device=features.device, dtype=features.dtype)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(),
        max_iter=_ITERATIONS,
        tolerance_grad=_GRADIENT,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(inputs), labels) + penalty / 2 * layer.weight.square().sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return Logistic(mean, deviation, layer.requires_grad_(False))
