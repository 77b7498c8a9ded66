"""DINOv2 (Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024) through timm."""

from __future__ import annotations

import re
from pathlib import Path

from timm.layers import SwiGLUPacked
from torch import nn

from fairmedfm_monai.networks.checkpoint import State
from fairmedfm_monai.networks.encoders.timm_vit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VIT_BASE,
    VIT_LARGE,
    VIT_SMALL,
    Geometry,
    TimmViTEncoder,
    join_qkv,
    rename_parts,
    resample_positions,
)
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

PATCH = 14
SPEC = InputSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# The published networks start their layer scale at 1; what is loaded replaces it.
DINOV2: Geometry = {"patch_size": PATCH, "init_values": 1.0}
GEOMETRIES: dict[str, Geometry] = {
    "vits14": {**DINOV2, **VIT_SMALL},
    "vitb14": {**DINOV2, **VIT_BASE},
    "vitl14": {**DINOV2, **VIT_LARGE},
    # SwiGLU with 4096 hidden channels: gate and value lie in one layer, so timm's ratio counts both.
    "vitg14": {
        **DINOV2,
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 2 * 2.66667,
        "mlp_layer": SwiGLUPacked,
        "act_layer": nn.SiLU,
    },
}
_HUB = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}
# Official position tables are resampled with this added to the number of patches.
OFFSET = 0.1

# transformers' names in the files of the hub, and timm's.
_TRANSFORMERS = (
    ("embeddings.patch_embeddings.projection.", "patch_embed.proj."),
    ("embeddings.position_embeddings", "pos_embed"),
    ("embeddings.", ""),
    ("encoder.layer.", "blocks."),
    (".attention.output.dense.", ".attn.proj."),
    (".layer_scale1.lambda1", ".ls1.gamma"),
    (".layer_scale2.lambda1", ".ls2.gamma"),
    (".mlp.weights_in.", ".mlp.fc1."),
    (".mlp.weights_out.", ".mlp.fc2."),
    ("layernorm.", "norm."),
)
_GATED = re.compile(r"(blocks\.\d+\.mlp\.)(w12|w3)(?=\.)")
_QKV = re.compile(
    r"encoder\.layer\.(?P<block>\d+)\.attention\.attention\.(?P<part>query|key|value)\.(?P<kind>weight|bias)"
)


class DINOv2Encoder(TimmViTEncoder):
    """DINOv2 without registers, at 224 pixels.

    ``features`` is the class token after the last normalisation (what FairMedFM's linear probe reads). The weights were
    trained at 518 pixels: their position table is resampled by the authors' own rule, which differs from that of timm
    and transformers by up to 0.7 % of a feature.

    Args:
        variant: ``vits14``, ``vitb14``, ``vitl14`` or ``vitg14``.
        weights: ``pretrained``, a path (the authors' .pth; .safetensors of the hub with transformers' or timm's names),
            ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "vitb14", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        geometry = pick_variant(variant, GEOMETRIES, "DINOv2")
        super().__init__(geometry, SPEC, weights, source=self.source(variant), rename=fit_dinov2, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        size = pick_variant(variant, _HUB, "DINOv2")
        name = f"dinov2_{variant}"
        return WeightSource(
            names=(f"{name}_pretrain.pth", f"{name}.safetensors"),
            page="https://github.com/facebookresearch/dinov2",
            url=f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth",
            repo=f"facebook/dinov2-{size}",
            repo_files=("model.safetensors",),
        )


def fit_dinov2(state: State) -> State:
    """Published names to timm's, and the position table to 224 pixels by the authors' rule."""
    return resample_positions(rename_dinov2(state), SPEC.size // PATCH, offset=OFFSET)


def rename_dinov2(state: State) -> State:
    """DINOv2's names, or transformers' for it, to timm's; ``mask_token``, needed for pre-training only, is dropped."""
    if "embeddings.cls_token" in state:
        state = _from_transformers(state)
    return {_GATED.sub(_timm_name, name): tensor for name, tensor in state.items() if name != "mask_token"}


def _timm_name(found: re.Match[str]) -> str:
    return found[1] + {"w12": "fc1", "w3": "fc2"}[found[2]]


def _from_transformers(state: State) -> State:
    """Names of transformers' ``Dinov2Model`` before release 5 (those in the hub's files) to timm's."""
    joined = join_qkv(state, _QKV, ("query", "key", "value"))
    return {rename_parts(name, _TRANSFORMERS): tensor for name, tensor in joined.items()}
