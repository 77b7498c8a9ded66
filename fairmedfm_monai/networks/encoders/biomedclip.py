"""BiomedCLIP (Zhang et al., "A Multimodal Biomedical Foundation Model", NEJM AI 2025).

The hub's configuration of it is open_clip's ``CustomTextCLIP``: timm's ViT-B/16 with a linear projection, and BERT with
a projection of two layers. open_clip asks the hub for BERT's configuration even when all weights are at hand; here the
same towers are put together from that configuration written down, so that no connection is needed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import read_checkpoint
from fairmedfm_monai.networks.encoders.clip_towers import OPENAI_MEAN, OPENAI_STD, CLIPTowers
from fairmedfm_monai.networks.encoders.timm_vit import VIT_BASE, build_vit
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.text import TokenizerSource, find_tokenizer, tokenize
from fairmedfm_monai.networks.weights import State, WeightSource, resolve_weights, seeded, weights_kind

from open_clip.hf_model import HFTextEncoder  # isort: skip - after weights, which switches the hub's telemetry off
from transformers import BertConfig  # isort: skip

SPEC = InputSpec(size=224, mean=OPENAI_MEAN, std=OPENAI_STD)
CONTEXT = 256
SOURCE = WeightSource(
    names=("biomedclip.bin", "biomedclip.safetensors"),
    page="https://huggingface.co/microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    repo="microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    repo_files=("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
)
SOURCES = {"ViT-B-16": SOURCE}
TOKENIZER = TokenizerSource(repo="microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", folder="biomedclip")

# Arguments of timm's VisionTransformer and of BertConfig (whose defaults are BERT-base), and the common embedding.
GEOMETRY: Mapping[str, Any] = {"vision": {**VIT_BASE, "patch_size": 16}, "text": {"vocab_size": 30522}, "dim": 512}
TINY: Mapping[str, Any] = {
    "vision": {"embed_dim": 48, "depth": 2, "num_heads": 2, "patch_size": 56},
    "text": {
        "vocab_size": 512,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "dim": 32,
}


class BiomedCLIPEncoder(CLIPTowers):
    """ViT-B/16 and PubMedBERT trained together on 15 million figures and captions of PubMed Central.

    ``features`` is the projected image embedding of 512 numbers (what FairMedFM's linear probe reads), ``zero_shot``
    the same scaled to unit length. Prompts may have 256 tokens; they are padded to the longest one, which gives the
    same as padding all to 256, because padding is masked.

    Args:
        variant: ``ViT-B-16``, the only one.
        weights: ``pretrained``, a path (the hub's file), ``random`` or ``tiny``; these two take a stand-in tokenizer.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    title = "BiomedCLIP"

    def __init__(self, variant: str = "ViT-B-16", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        path = resolve_weights(weights, self.source(variant))
        geometry = TINY if weights_kind(weights) == "tiny" else GEOMETRY
        with seeded(seed):
            model = Towers(geometry)
        super().__init__(
            model,
            feature_dim=geometry["dim"],
            input_spec=SPEC,
            state=None if path is None else rename_biomedclip(read_checkpoint(path)),
            origin=path or weights,
        )
        self._weights = str(weights)
        self._words = int(geometry["text"]["vocab_size"])

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "BiomedCLIP")

    @torch.jit.unused
    def token_numbers(self, texts: Sequence[str]) -> Tensor:
        """Numbers of the word pieces of N prompts, (N, L), L at most 256.

        Raises:
            WeightsError: if BERT's vocabulary is neither here nor to be had.
        """
        tokenizer = find_tokenizer(TOKENIZER, self._weights, words=self._words)
        return tokenize(tokenizer, texts, limit=CONTEXT, model=self.title).ids


class Towers(nn.Module):
    """The two towers by the names of open_clip's ``CustomTextCLIP``.

    Args:
        geometry: ``vision``, ``text`` and ``dim``.
    """

    def __init__(self, geometry: Mapping[str, Any]) -> None:
        super().__init__()
        self.visual = ImageTower(geometry["vision"], geometry["dim"])
        self.text = HFTextEncoder(
            "bert",
            output_dim=geometry["dim"],
            config=BertConfig(**geometry["text"]),
            proj_type="mlp",
            pooler_type="cls_last_hidden_state_pooler",
            pretrained=False,
        )
        self.text.transformer.pooler = None  # BERT's own, which the class token of the last layer replaces
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))


class ImageTower(nn.Module):
    """timm's vision transformer and a linear projection of its class token without bias.

    Args:
        geometry: arguments of ``VisionTransformer``.
        dim: length D of the embedding.
    """

    def __init__(self, geometry: Mapping[str, Any], dim: int) -> None:
        super().__init__()
        self.trunk = build_vit(geometry, SPEC.size)
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(geometry["embed_dim"], dim, bias=False)))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, D)."""
        return self.head(self.trunk(image))


def rename_biomedclip(state: State) -> State:
    """The hub's names are this module's; the ``position_ids`` that old releases stored are dropped."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("embeddings.position_ids")}
