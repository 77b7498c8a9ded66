"""Interfaces of image encoders and vision-language encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import strict_keys


class ImageEncoder(nn.Module):
    """A network that turns images into feature vectors.

    Subclasses implement :meth:`encode_image`; the dictionary it returns is what a feature cache stores.

    Args:
        feature_dim: length D of ``features``.
        input_spec: what :meth:`encode_image` expects.
    """

    # TorchScript must not compile the property: its value is a plain Python object.
    __jit_unused_properties__ = ("input_spec",)

    def __init__(self, *, feature_dim: int, input_spec: InputSpec) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self._input_spec = input_spec
        strict_keys(self)

    @property
    def input_spec(self) -> InputSpec:
        """Size, channels and normalisation that this model was trained with."""
        return self._input_spec

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode a batch.

        Args:
            image: (B, C, H, W) normalised by ``input_spec``.

        Returns:
            ``features`` (B, D), what a probe reads; vision-language models add ``zero_shot`` (B, E), L2-normalised.
        """
        raise NotImplementedError

    @torch.jit.unused
    def check_image(self, image: Tensor) -> None:
        """Refuse what is not (B, C, S, S) of ``input_spec``.

        Call it under ``if not torch.jit.is_scripting():``, because TorchScript does not know ``input_spec``.

        Raises:
            ValueError: naming the expected and the given shape.
        """
        spec = self.input_spec
        if image.ndim != 4 or tuple(image.shape[1:]) != (spec.channels, spec.size, spec.size):
            msg = (
                f"`image` must be (B, {spec.channels}, {spec.size}, {spec.size}), but has shape {tuple(image.shape)}; "
                f"resize to {spec.size} and repeat or drop channels in the preprocessing"
            )
            raise ValueError(msg)

    def forward(self, image: Tensor) -> Tensor:
        """Return ``features`` (B, D) of ``image`` (B, C, H, W)."""
        return self.encode_image(image)["features"]


class VisionLanguageEncoder(ImageEncoder):
    """An image encoder with a text tower in the same embedding space.

    Subclasses implement :meth:`encode_image`, :meth:`encode_text` and :meth:`logit_terms`.
    """

    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N texts to ``zero_shot`` (N, E), L2-normalised."""
        raise NotImplementedError

    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Scale (already exponentiated) and bias, scalars, that turn a cosine into a logit."""
        raise NotImplementedError

    def release_text(self) -> None:
        """Drop the text tower, for usages that need it no more. The default keeps everything."""

    @torch.jit.unused
    def similarity(self, encoded_image: dict[str, Tensor], encoded_text: dict[str, Tensor]) -> Tensor:
        """Logits (B, N) = scale * <image, text> + bias, of the ``zero_shot`` embeddings (B, E) and (N, E)."""
        scale, bias = self.logit_terms()
        return scale * encoded_image["zero_shot"] @ encoded_text["zero_shot"].T + bias
