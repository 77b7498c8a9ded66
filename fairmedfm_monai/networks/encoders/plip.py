"""PLIP (Huang et al., "A visual-language foundation model for pathology image analysis", Nature Medicine 2023)."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.networks.encoders.clip_towers import OPENAI_MEAN, OPENAI_STD, FineTunedCLIP
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

SPEC = InputSpec(size=224, mean=OPENAI_MEAN, std=OPENAI_STD)
SOURCE = WeightSource(
    names=("plip.safetensors", "plip.bin"),
    page="https://huggingface.co/vinid/plip",
    repo="vinid/plip",
    repo_files=("model.safetensors", "pytorch_model.bin"),
)
SOURCES = {"ViT-B-32": SOURCE}


class PLIPEncoder(FineTunedCLIP):
    """OpenAI's CLIP ViT-B/32 trained further on pathology images and texts from Twitter (OpenPath).

    ``features`` is the projected image embedding of 512 numbers, not normalised (the authors' ``encode_images``; what
    FairMedFM's linear probe means to read), ``zero_shot`` the same scaled to unit length.

    Args:
        variant: ``ViT-B-32``, the only one.
        weights: ``pretrained``, a path (the hub's file, or one with the names of OpenAI's code), ``random`` or
            ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "PLIP"

    def __init__(self, variant: str = "ViT-B-32", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        super().__init__(variant, SPEC, weights, source=self.source(variant), seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "PLIP")
