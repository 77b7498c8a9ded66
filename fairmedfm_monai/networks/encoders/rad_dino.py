"""RAD-DINO (Perez-Garcia et al., "Exploring scalable medical image encoders beyond text supervision", 2025)."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.networks.encoders.dinov2 import GEOMETRIES, rename_dinov2
from fairmedfm_monai.networks.encoders.timm_vit import TimmViTEncoder
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

SPEC = InputSpec(size=518, mean=(0.5307,) * 3, std=(0.2583,) * 3)
SOURCE = WeightSource(
    names=("rad_dino.safetensors",),
    page="https://huggingface.co/microsoft/rad-dino",
    repo="microsoft/rad-dino",
    repo_files=("model.safetensors",),
)
SOURCES = {"vitb14": SOURCE}


class RadDinoEncoder(TimmViTEncoder):
    """DINOv2's ViT-B/14 trained further on chest radiographs, at its own 518 pixels.

    ``features`` is the class token after the last normalisation, transformers' ``pooler_output`` (what FairMedFM's
    linear probe reads, there of 224 pixels).

    Args:
        variant: ``vitb14``, the only one.
        weights: ``pretrained``, a path (the hub's .safetensors or one with DINOv2's names), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "vitb14", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        source = self.source(variant)
        super().__init__(GEOMETRIES["vitb14"], SPEC, weights, source=source, rename=rename_dinov2, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "RAD-DINO")
