"""What all classifiers on a foundation model are: an encoder and a head, for pictures and for volumes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.encoders.base import ImageEncoder, VisionLanguageEncoder
from fairmedfm_monai.networks.weights import seeded, strict_keys
from fairmedfm_monai.usages.slice_pooling import SliceEncoder, SlicePooling


def _take_own_part(head: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """A head that is given the state of the whole model takes its own part of it.

    The head alone is what trains, and MONAI Label offers ``model.pt``, the whole model, to whatever trains: without
    this it would load nothing, say nothing and start again.
    """
    if prefix or not any(name.startswith("encoder.") for name in state):
        return
    for name in list(state):
        value = state.pop(name)
        if name.startswith("head."):
            state[name.removeprefix("head.")] = value


class Classifier(nn.Module):
    """Head on the encodings of a frozen encoder.

    The encoder takes no gradient and stays in evaluation mode whatever ``train()`` says (batch statistics and dropout
    of a frozen network must not move). Train ``head`` alone on cached encodings; the whole network is for images.
    With LoRA (:func:`fairmedfm_monai.usages.lora.add_lora`) only the adapters inside the encoder follow ``train()``.

    Args:
        encoder: its text tower, if any, is released.
        head: encodings (..., D) -> logits (..., C).
        dim: D.
        feature: entry of ``encode_image`` that the head reads.
        pooling: None for pictures; ``max``, ``mean`` or ``attention`` makes a model of pictures one of volumes
            (:class:`fairmedfm_monai.usages.slice_pooling.SlicePooling`); it still takes pictures, too.
        negative: index of the class of slices that show nothing, None = independent labels.
        seed: of attention.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        head: nn.Module,
        *,
        dim: int,
        feature: str = "features",
        pooling: str | None = None,
        negative: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(encoder, VisionLanguageEncoder):
            encoder.release_text()
        encoder.requires_grad_(False).eval()
        self.feature = feature
        self.encoder: ImageEncoder = encoder
        self.head = head
        if pooling is not None:
            self.encoder = SliceEncoder(encoder)
            with seeded(seed):
                self.head = SlicePooling(head, mode=pooling, dim=dim, negative=negative)
        self.head.register_load_state_dict_pre_hook(_take_own_part)
        strict_keys(self)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, C, H, W), or of volumes (B, C, H, W, N) of N slices."""
        return self.head(self.encoder.encode_image(image)[self.feature])

    @torch.jit.unused
    def train(self, mode: bool = True) -> Classifier:
        """Set the head, and the dropout of LoRA adapters, to training mode; the encoder itself stays frozen."""
        super().train(mode)
        self.encoder.eval()
        for name, module in self.encoder.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self


def check_classes(num_classes: int) -> None:
    """Refuse a head without outputs.

    Raises:
        ValueError: for a number below 1.
    """
    if num_classes < 1:
        msg = f"`num_classes` must be at least 1, but got {num_classes}"
        raise ValueError(msg)
