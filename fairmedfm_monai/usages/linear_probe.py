"""Linear probe: a frozen encoder and one linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder, VisionLanguageEncoder
from fairmedfm_monai.networks.weights import seeded, strict_keys


def _take_own_part(head: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A head that is given the state of the whole model takes its own part of it.

    The head alone is what trains, and MONAI Label offers ``model.pt``, the whole model, to whatever trains: without
    this it would load nothing, say nothing and start again.
    """
    if prefix or "head.weight" not in state:
        return
    for name in list(state):
        value = state.pop(name)
        if name.startswith("head."):
            state[name.removeprefix("head.")] = value


class LinearProbe(nn.Module):
    """Classifier on the features of a frozen encoder.

    The encoder takes no gradient and stays in evaluation mode whatever ``train()`` says (batch statistics and dropout
    of a frozen network must not move). Train ``head`` alone on cached features; the whole network is for images.
    With LoRA (:func:`fairmedfm_monai.usages.lora.add_lora`) only the adapters inside the encoder follow ``train()``.

    Args:
        encoder: its text tower, if any, is released.
        num_classes: number C of logits.
        seed: of the head's initial weights.
    """

    def __init__(self, encoder: ImageEncoder, num_classes: int, *, seed: int = 0) -> None:
        super().__init__()
        if num_classes < 1:
            msg = f"`num_classes` must be at least 1, but got {num_classes}"
            raise ValueError(msg)
        if isinstance(encoder, VisionLanguageEncoder):
            encoder.release_text()
        self.encoder = encoder.requires_grad_(False).eval()
        with seeded(seed):
            self.head = nn.Linear(encoder.feature_dim, num_classes)
        self.head.register_load_state_dict_pre_hook(_take_own_part)
        strict_keys(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, C, H, W)."""
        return self.head(self.encoder(image))

    @torch.jit.unused
    def train(self, mode: bool = True) -> LinearProbe:
        """Set the head, and the dropout of LoRA adapters, to training mode; the encoder itself stays frozen."""
        super().train(mode)
        self.encoder.eval()
        for name, module in self.encoder.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self
