"""PubMedCLIP (Eslami et al., "PubMedCLIP", Findings of EACL 2023, arXiv:2112.13906)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from fairmedfm_monai.networks.encoders.clip_towers import OPENAI_MEAN, OPENAI_STD, FineTunedCLIP
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

_REPO = "sarahESL/PubMedCLIP"
# Input size and the authors' file names.
VARIANTS = {
    "ViT-B-32": (224, ("PubMedCLIP_ViT32.pth", "pubmed-clip-vit-base-patch32.safetensors")),
    "RN50": (224, ("PubMedCLIP_RN50.pth",)),
    "RN50x4": (288, ("PubMedCLIP_RN50x4.pth",)),
}
SOURCES = {
    variant: WeightSource(names=names, page=f"https://huggingface.co/{_REPO}", repo=_REPO, repo_files=names[:1])
    for variant, (_, names) in VARIANTS.items()
}
# The authors multiply the logits by this ratio, in training and in evaluation.
LOGIT_FACTOR = math.exp(0.01) / math.exp(0.07)


class PubMedCLIPEncoder(FineTunedCLIP):
    """OpenAI's CLIP trained further on ROCO's radiology figures and captions from PubMed Central.

    ``features`` is the projected image embedding (512 numbers, 1024 of RN50, 640 of RN50x4; what FairMedFM's linear
    probe reads), ``zero_shot`` the same scaled to unit length. Logits carry the authors' factor exp(0.01) / exp(0.07)
    beside the learnt scale, as the weights were trained.

    Args:
        variant: ``ViT-B-32``, ``RN50`` or ``RN50x4``.
        weights: ``pretrained``, a path (the authors' .pth, or ViT-B/32 with the names of transformers' ``CLIPModel``),
            ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "PubMedCLIP"

    def __init__(self, variant: str = "ViT-B-32", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        source = self.source(variant)
        spec = InputSpec(size=VARIANTS[variant][0], mean=OPENAI_MEAN, std=OPENAI_STD)
        super().__init__(variant, spec, weights, source=source, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "PubMedCLIP")

    @torch.jit.unused
    def logit_terms(self) -> tuple[Tensor, Tensor]:
        """Learnt scale times the authors' factor, and no bias."""
        scale, bias = super().logit_terms()
        return scale * LOGIT_FACTOR, bias
