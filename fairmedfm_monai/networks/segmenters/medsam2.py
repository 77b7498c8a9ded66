"""MedSAM2 (Ma et al., "MedSAM2: Segment Anything in 3D Medical Images and Videos", 2025, arXiv:2504.03600)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fairmedfm_monai.networks.segmenters.sam2 import Sam2Segmenter
from fairmedfm_monai.networks.segmenters.sam2_model import GEOMETRIES, Geometry
from fairmedfm_monai.networks.weights import WeightSource

# Variant -> file of the authors; all are fine-tuned from SAM 2.1 tiny.
FILES = {
    "latest": "MedSAM2_latest.pt",
    "2411": "MedSAM2_2411.pt",
    "ct_lesion": "MedSAM2_CTLesion.pt",
    "mri_liver_lesion": "MedSAM2_MRI_LiverLesion.pt",
    "us_heart": "MedSAM2_US_Heart.pt",
}
REPOSITORY = "wanglab/MedSAM2"
SOURCES = {
    variant: WeightSource(
        names=(name,),
        page="https://github.com/bowang-lab/MedSAM2",
        url=f"https://huggingface.co/{REPOSITORY}/resolve/main/{name}",
        repo=REPOSITORY,
        repo_files=(name,),
    )
    for variant, name in FILES.items()
}
GEOMETRY: Geometry = {**GEOMETRIES["tiny"], "image_size": 512}


class MedSam2Segmenter(Sam2Segmenter):
    """MedSAM2: SAM 2.1 tiny at 512 pixels, fine-tuned on medical volumes and videos.

    It differs from SAM 2.1 in the size of the input and in its preparation: images, like frames, are squashed to
    512 x 512 by PIL (bicubic, 8 bit), as in the authors' scripts for volumes. CT is to be windowed to 0..255 before.

    Args:
        variant: ``latest``, ``2411``, ``ct_lesion``, ``mri_liver_lesion`` or ``us_heart``.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        multimask: see :class:`Sam2Core`.
        stability: see :class:`Sam2Core`.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, or do not fill the network exactly.
    """

    def __init__(
        self,
        variant: str = "latest",
        weights: str | Path = "pretrained",
        *,
        multimask: bool | None = None,
        stability: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(variant, weights, multimask=multimask, stability=stability, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]

    @staticmethod
    def geometries() -> dict[str, Geometry]:
        """Arguments of :func:`build_sam2` for each variant; all are the same network."""
        return dict.fromkeys(FILES, GEOMETRY)

    def preprocess(self, image: Tensor) -> Tensor:
        """Squash (B, 3, H, W) in 0..255 as the authors do, and normalise."""
        return self.preprocess_frame(image)
