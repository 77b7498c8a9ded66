"""MedMAE (Xiao et al., "Delving into Masked Autoencoders for Multi-Label Thorax Disease Classification", WACV 2023)."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.networks.encoders.timm_vit import VIT_BASE, VIT_SMALL, Geometry, TimmViTEncoder, rename_mae
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

# Grey statistics of the authors' fine-tuning and probing on chest radiographs, in all three channels.
SPEC = InputSpec(size=224, mean=(0.5056,) * 3, std=(0.252,) * 3)
GEOMETRIES: dict[str, Geometry] = {
    "vit_b": {"patch_size": 16, **VIT_BASE},
    "vit_s": {"patch_size": 16, **VIT_SMALL},
}
_DRIVE = "https://drive.google.com/file/d/{}/view"
SOURCES = {
    "vit_b": WeightSource(names=("vit-b_CXR_0.5M_mae.pth",), page=_DRIVE.format("10wqOFCkhyWp6JdSFADrH6Xu9e1am3gXJ")),
    "vit_s": WeightSource(names=("vit-s_CXR_0.3M_mae.pth",), page=_DRIVE.format("1Yok1RemqP27iKJ5BUuoHhLRBB1GycITx")),
}


class MedMAEEncoder(TimmViTEncoder):
    """The encoder of a masked autoencoder of chest radiographs.

    ``features`` is the class token after the encoder's trained last normalisation (the authors' linear probe). Their
    fine-tuning takes the mean of the patch tokens and a new, untrained ``fc_norm`` instead; that is not built here.

    Args:
        variant: ``vit_b`` (0.5 million images) or ``vit_s`` (0.3 million).
        weights: ``pretrained``, a path (the authors' file; the autoencoder's decoder in it is left out), ``random`` or
            ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "vit_b", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        geometry = pick_variant(variant, GEOMETRIES, "MedMAE")
        super().__init__(geometry, SPEC, weights, source=self.source(variant), rename=rename_mae, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "MedMAE")
