"""AIMv2 (Fini et al., "Multimodal Autoregressive Pre-training of Large Vision Encoders", CVPR 2025) through timm."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from timm.layers import RmsNorm, SwiGLU

from fairmedfm_monai.networks.checkpoint import State
from fairmedfm_monai.networks.encoders.timm_vit import Geometry, TimmViTEncoder, join_qkv, rename_parts
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

SPEC = InputSpec(size=224, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))  # CLIP's
GEOMETRIES: dict[str, Geometry] = {
    "large_patch14_224": {
        "patch_size": 14,
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 8,
        "mlp_ratio": 2.75,
        "mlp_layer": SwiGLU,
        "act_layer": "silu",
        "norm_layer": partial(RmsNorm, eps=1e-5),
        "embed_norm_layer": partial(RmsNorm, eps=1e-5),
        "qkv_bias": False,
        "proj_bias": False,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
    }
}
# The authors' names, transformers' names, and timm's.
_AUTHORS = (
    ("preprocessor.patchifier.", "patch_embed."),
    ("preprocessor.pos_embed", "pos_embed"),
    ("trunk.post_trunk_norm.", "norm."),
    ("trunk.blocks.", "blocks."),
    (".norm_1.", ".norm1."),
    (".norm_2.", ".norm2."),
    (".mlp.fc1.", ".mlp.fc1_g."),
    (".mlp.fc3.", ".mlp.fc1_x."),
)
_TRANSFORMERS = (
    ("embeddings.patch_embed.", "patch_embed.proj."),
    ("embeddings.rms_norm.", "patch_embed.norm."),
    ("encoder.layers.", "blocks."),
    (".rms_norm1.", ".norm1."),
    (".rms_norm2.", ".norm2."),
    (".attention.out_proj.", ".attn.proj."),
    (".ffn.gate_proj.", ".mlp.fc1_g."),
    (".ffn.up_proj.", ".mlp.fc1_x."),
    (".ffn.down_proj.", ".mlp.fc2."),
    ("rms_norm.", "norm."),
)
_QKV = re.compile(r"encoder\.layers\.(?P<block>\d+)\.attention\.(?P<part>[qkv])_proj\.(?P<kind>weight)")
_TABLE = "embeddings.position_embedding.weight"


class AIMv2Encoder(TimmViTEncoder):
    """The image encoder of AIMv2: no class token, no pooling head.

    ``features`` is the mean of the patch tokens after the last normalisation.

    Args:
        variant: ``large_patch14_224``.
        weights: ``pretrained``, a path (.safetensors with the authors', transformers' or timm's names), ``random`` or
            ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(
        self, variant: str = "large_patch14_224", weights: str | Path = "pretrained", *, seed: int = 0
    ) -> None:
        geometry = pick_variant(variant, GEOMETRIES, "AIMv2")
        super().__init__(geometry, SPEC, weights, source=self.source(variant), rename=rename_aimv2, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        pick_variant(variant, GEOMETRIES, "AIMv2")
        name = f"aimv2-{variant.replace('_', '-')}"
        return WeightSource(
            names=(f"{name}.safetensors",),
            page=f"https://huggingface.co/apple/{name}",
            repo=f"apple/{name}",
            repo_files=("model.safetensors",),
        )


def rename_aimv2(state: State) -> State:
    """The authors' or transformers' names to timm's (whose own stay as they are); nothing is dropped."""
    if _TABLE in state:
        joined = join_qkv({**state, "pos_embed": state[_TABLE][None]}, _QKV, "qkv")
        return {rename_parts(name, _TRANSFORMERS): tensor for name, tensor in joined.items() if name != _TABLE}
    if "preprocessor.pos_embed" in state:
        return {rename_parts(name, _AUTHORS): tensor for name, tensor in state.items()}
    return dict(state)
