"""SAM 2.1 (Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025) through transformers."""

from __future__ import annotations

from pathlib import Path

from fairmedfm_monai.networks.checkpoint import load_checked, read_checkpoint
from fairmedfm_monai.networks.segmenters.sam2_core import Sam2Core, Sam2Embedding
from fairmedfm_monai.networks.segmenters.sam2_model import (
    GEOMETRIES,
    Geometry,
    build_sam2,
    rename_sam2,
    tiny_geometry,
)
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded

__all__ = ["SOURCES", "Sam2Core", "Sam2Embedding", "Sam2Segmenter", "rename_sam2"]

_URL = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
SOURCES = {
    variant: WeightSource(
        names=(f"sam2.1_hiera_{variant}.pt", f"sam2.1_hiera_{variant}.safetensors"),
        page="https://github.com/facebookresearch/sam2",
        url=f"{_URL}sam2.1_hiera_{variant}.pt",
        repo=f"facebook/sam2.1-hiera-{variant.replace('_', '-')}",
        repo_files=(f"sam2.1_hiera_{variant}.pt", "model.safetensors"),
    )
    for variant in GEOMETRIES
}


class Sam2Segmenter(Sam2Core):
    """SAM 2.1 in one of its four sizes, at 1,024 pixels.

    Weight files: the authors' (container ``model``), transformers' ``Sam2VideoModel``, or one saved from this class.

    Args:
        variant: ``tiny``, ``small``, ``base_plus`` or ``large``.
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
        variant: str = "tiny",
        weights: str | Path = "pretrained",
        *,
        multimask: bool | None = None,
        stability: bool = False,
        seed: int = 0,
    ) -> None:
        if variant not in self.geometries():
            msg = f"`variant` must be one of {', '.join(self.geometries())}, but got {variant!r}"
            raise ValueError(msg)
        path = resolve_weights(weights, self.source(variant))
        geometry = self.geometries()[variant]
        with seeded(seed):
            sam2 = build_sam2(**(tiny_geometry(geometry) if weights == "tiny" else geometry))  # type: ignore[arg-type]
        super().__init__(sam2, multimask=multimask, stability=stability)
        if path is not None:
            load_checked(self, rename_sam2(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return SOURCES[variant]

    @staticmethod
    def geometries() -> dict[str, Geometry]:
        """Arguments of :func:`build_sam2` for each variant."""
        return GEOMETRIES
