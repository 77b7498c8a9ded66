"""FLAIR (Silva-Rodriguez et al., "A Foundation LAnguage-Image model of the Retina", Medical Image Analysis 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import State, read_checkpoint
from fairmedfm_monai.networks.encoders.clinical_towers import (
    RESNET50,
    ClinicalTowers,
    MeanOfLayers,
    bert_geometry,
    build_resnet,
    encode_alone,
    rename_prefixes,
)
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

# The authors divide by 255 and do nothing else.
SPEC = InputSpec(size=512, mean=(0.0,) * 3, std=(1.0,) * 3)
SOURCE = WeightSource(
    names=("flair.safetensors", "flair_resnet.pth"),
    page="https://huggingface.co/jusiro2/FLAIR",
    repo="jusiro2/FLAIR",
    repo_files=("model.safetensors",),
)
SOURCES = {"resnet50": SOURCE}
_PREFIXES = (
    ("vision_model.projection_head_vision.projection.", "visual.projection."),
    ("vision_model.model.", "visual.model."),
    ("text_model.projection_head_text.projection.", "text.projection."),
    ("text_model.model.", "text.model."),
)


class FLAIREncoder(ClinicalTowers):
    """ResNet-50 and Bio_ClinicalBERT trained on fundus photographs and sentences of expert knowledge.

    ``features`` are the 2048 pooled numbers before projection and normalisation, which the authors' linear probe reads;
    ``zero_shot`` the same scaled to unit length, projected to 512 numbers and scaled again.

    The mean over a prompt's tokens counts padding, so that the longest prompt of a batch would change the embeddings of
    all others: here each prompt is encoded as if alone. The authors' template is ``A fundus photograph of <class>``.

    Args:
        variant: ``resnet50``, the only one.
        weights: ``pretrained``, a path (the hub's .safetensors or the older .pth), ``random`` or ``tiny``; these two
            take a stand-in tokenizer.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "FLAIR"
    folder = "flair"

    def __init__(self, variant: str = "resnet50", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        super().__init__(
            build_flair,
            input_spec=SPEC,
            weights=weights,
            source=self.source(variant),
            read=read_checkpoint,
            rename=rename_flair,
            seed=seed,
        )

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "FLAIR")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 512, 512) images in [0, 1] to ``features`` (B, D) and ``zero_shot`` (B, E)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        features, embedding = self.visual(image)
        return {"features": features, "zero_shot": F.normalize(embedding, dim=-1)}

    @torch.jit.unused
    def encode_text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to ``zero_shot`` (N, E). Prompts that are cut are counted in a warning.

        Raises:
            RuntimeError: after :meth:`release_text`.
        """
        tokens = self.tokens(texts)
        return {"zero_shot": F.normalize(encode_alone(self.text, tokens), dim=-1)}


class ImageTower(nn.Module):
    """ResNet-50 and the projection of its features, scaled to unit length, without bias.

    Args:
        dim: length E of the embedding.
        tiny: thin and shallow.
    """

    def __init__(self, dim: int, *, tiny: bool) -> None:
        super().__init__()
        self.model = build_resnet(RESNET50, tiny=tiny)
        self.dim = int(self.model.num_features)
        self.projection = nn.Linear(self.dim, dim, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) to features (B, D) and embeddings (B, E), neither of unit length."""
        features = self.model(image)
        return features, self.projection(F.normalize(features, dim=-1))


def build_flair(tiny: bool) -> tuple[nn.Module, nn.Module]:
    """Image tower and text tower."""
    dim = 24 if tiny else 512
    return ImageTower(dim, tiny=tiny), MeanOfLayers(bert_geometry(tiny), dim, unit=True)


def rename_flair(state: State) -> State:
    """Published names to :class:`FLAIREncoder`'s; BERT's ``position_ids`` are dropped."""
    return rename_prefixes(state, _PREFIXES)
