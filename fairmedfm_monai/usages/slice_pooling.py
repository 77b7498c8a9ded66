"""Volumes for models of pictures: every slice is encoded by itself, and what the slices say is pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fairmedfm_monai.networks.encoders.base import ImageEncoder

MODES = ("max", "mean", "attention")
_ATTENTION_WIDTH = 128  # as in Ilse et al. 2018


class SliceEncoder(ImageEncoder):
    """Gives the slices of a volume to an encoder of pictures.

    Pictures pass as they are, so one network serves both. Memory does not grow with the number of slices: they are
    encoded ``slice_batch`` at a time and, where the encoder trains, encoded again for the gradient instead of kept.

    Args:
        encoder: takes pictures (B, C, S, S).
        slice_batch: slices at a time.
    """

    def __init__(self, encoder: ImageEncoder, *, slice_batch: int = 32) -> None:
        super().__init__(feature_dim=encoder.feature_dim, input_spec=encoder.input_spec)
        if slice_batch < 1:
            msg = f"`slice_batch` must be at least 1, but got {slice_batch}"
            raise ValueError(msg)
        self.encoder = encoder
        self.slice_batch = slice_batch

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode pictures (B, C, S, S), or volumes (B, C, S, S, N): every entry then is (B, N, ...)."""
        if image.ndim == 4:
            return self._encode(image)
        batch, count = image.shape[0], image.shape[4]
        slices = image.permute(0, 4, 1, 2, 3).flatten(0, 1)
        parts = [self._encode(part) for part in slices.split(self.slice_batch)]
        encoded: dict[str, Tensor] = {}
        for name in parts[0].keys():  # noqa: SIM118 (TorchScript does not go through a dictionary itself)
            encoded[name] = torch.cat([part[name] for part in parts]).unflatten(0, [batch, count])
        return encoded

    def _encode(self, images: Tensor) -> dict[str, Tensor]:
        # Two conditions, not one: TorchScript leaves out only what stands below the first alone.
        if not torch.jit.is_scripting():  # noqa: SIM102
            if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.encoder.parameters()):
                return checkpoint(self.encoder.encode_image, images, use_reentrant=False)
        return self.encoder.encode_image(images)


class SlicePooling(nn.Module):
    """A classifier of pictures, made one of volumes.

    * ``max``: the logits of the one slice that looks least like a slice without a finding, i.e. for two classes the
      slice of the largest positive probability (FairMedFM, Jin et al. 2024). Independent labels each take their own
      largest logit.
    * ``mean``: the logits of the mean feature.
    * ``attention``: the logits of a weighted mean, weights ``softmax_n(w . tanh(V h_n))`` (Ilse et al., Attention-based
      deep multiple instance learning, ICML 2018, equation 8), V and w trained.

    Args:
        classifier: (..., D) -> logits (..., C).
        mode: ``max``, ``mean`` or ``attention``.
        dim: D, for ``attention``.
        negative: ``max`` only: index of the class of slices that show nothing; None = the labels are independent.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, classifier: nn.Module, *, mode: str, dim: int, negative: int | None = None) -> None:
        super().__init__()
        if mode not in MODES:
            msg = f"`pooling` must be one of {', '.join(MODES)}, but got {mode!r}"
            raise ValueError(msg)
        self.classifier = classifier
        self.mode = mode
        self.negative = negative
        self.attention = nn.Sequential()
        if mode == "attention":
            self.attention = nn.Sequential(
                nn.Linear(dim, _ATTENTION_WIDTH), nn.Tanh(), nn.Linear(_ATTENTION_WIDTH, 1, bias=False)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of pictures (B, D) or of the slices of volumes (B, N, D)."""
        if features.ndim == 2:
            return self.classifier(features)
        if self.mode == "max":
            return self._strongest(self.classifier(features))
        if self.mode == "mean":
            return self.classifier(features.mean(dim=1))
        weights = self.attention(features).softmax(dim=1)
        return self.classifier((weights * features).sum(dim=1))

    def _strongest(self, logits: Tensor) -> Tensor:
        """Logits (B, C) of the slices (B, N, C) that say most."""
        negative = self.negative
        if negative is None:
            return logits.amax(dim=1)
        # In logarithms: probabilities near 1 could not be told apart.
        chosen = logits.log_softmax(dim=-1)[:, :, negative].argmin(dim=1)
        return logits[torch.arange(logits.shape[0], device=logits.device), chosen]
