"""MONET (Kim et al., "Transparent medical image AI via an image-text foundation model", Nature Medicine 2024)."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.networks.encoders.clip_towers import FineTunedCLIP
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

# ImageNet's statistics, not CLIP's.
SPEC = InputSpec(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
SOURCE = WeightSource(
    names=("weight_clip.pt", "monet.safetensors", "monet.bin"),
    page="https://huggingface.co/chanwkim/monet",
    url="https://aimslab.cs.washington.edu/MONET/weight_clip.pt",
    repo="chanwkim/monet",
    repo_files=("model.safetensors", "pytorch_model.bin"),
)
SOURCES = {"ViT-L-14": SOURCE}


class MONETEncoder(FineTunedCLIP):
    """OpenAI's CLIP ViT-L/14 trained further on dermatology images and texts of articles and textbooks.

    ``features`` is the projected image embedding of 768 numbers, not the 1024 before the projection; ``zero_shot`` the
    same scaled to unit length. Images are normalised with ImageNet's statistics, as in the authors' code.

    Args:
        variant: ``ViT-L-14``, the only one.
        weights: ``pretrained``, a path (the authors' ``weight_clip.pt`` or the hub's file), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "MONET"

    def __init__(self, variant: str = "ViT-L-14", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        super().__init__(variant, SPEC, weights, source=self.source(variant), seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "MONET")
