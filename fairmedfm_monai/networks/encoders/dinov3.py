"""DINOv3 (Siméoni et al., "DINOv3", arXiv:2508.10104) through transformers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import State, WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

from transformers import DINOv3ViTConfig, DINOv3ViTModel  # isort: skip - after weights: the hub's telemetry is off then

# The authors' evaluation transform: squashed to 256 x 256, ImageNet's statistics.
SPEC = InputSpec(size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# Variant -> width, depth, heads, gated MLP (SiLU) or plain (GELU), start of the published file's SHA-256.
SIZES = {
    "vits16": (384, 12, 6, False, "08c60483"),
    "vits16plus": (384, 12, 6, True, "4057cbaa"),
    "vitb16": (768, 12, 12, False, "73cec8be"),
    "vitl16": (1024, 24, 16, False, "8aa4cbdd"),
    "vith16plus": (1280, 32, 20, True, "7c1da9a5"),
}
TINY = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 64}

# Needed for pre-training only, or computed from the geometry.
_UNUSED = ("mask_token", "embeddings.mask_token", "rope_embed.periods")
_OUTER = {
    "cls_token": "embeddings.cls_token",
    "storage_tokens": "embeddings.register_tokens",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
}
_BLOCK = re.compile(r"(?:model\.)?(?:blocks|layer)\.(\d+)\.(.+?)(\.weight|\.bias|)")
_INNER = {
    "attn.proj": "attention.o_proj",
    "attn.q_bias": "attention.q_proj.bias",
    "attn.v_bias": "attention.v_proj.bias",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "gamma_1": "layer_scale1.lambda1",
    "gamma_2": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.up_proj",
    "mlp.fc2": "mlp.down_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.up_proj",
    "mlp.w3": "mlp.down_proj",
    "mlp.fc1_g": "mlp.gate_proj",
    "mlp.fc1_x": "mlp.up_proj",
}


class DINOv3Encoder(ImageEncoder):
    """DINOv3's vision transformers of the LVD-1689M training, at 256 pixels.

    ``features`` is the class token after the last normalisation. Queries, keys and values are layers of their own here:
    of timm's class with a fused ``qkv`` and a bias, LoRA would never be called.

    Args:
        variant: ``vits16``, ``vits16plus``, ``vitb16``, ``vitl16`` or ``vith16plus``.
        weights: ``pretrained``, a path (the authors' .pth; .safetensors of the hub with transformers' or timm's names),
            ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "vitb16", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        settings = dinov3_settings(variant)
        path = resolve_weights(weights, self.source(variant))
        if weights_kind(weights) == "tiny":
            settings |= TINY
        super().__init__(feature_dim=settings["hidden_size"], input_spec=SPEC)
        with seeded(seed):
            self.vit = build_dinov3(settings)
        if path is not None:
            load_checked(self.vit, rename_dinov3(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from (the hub asks for access first)."""
        digest = pick_variant(variant, SIZES, "DINOv3")[-1]
        original = f"dinov3_{variant}_pretrain_lvd1689m-{digest}.pth"
        repo = f"facebook/dinov3-{variant}-pretrain-lvd1689m"
        return WeightSource(
            names=(original, f"dinov3_{variant}.safetensors"),
            page=f"https://huggingface.co/{repo}",
            repo=repo,
            repo_files=("model.safetensors",),
            sha256={original: digest},
        )

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 256, 256) normalised images to ``features`` (B, D)."""
        self.check_image(image)
        return {"features": self.vit(image).pooler_output}


def dinov3_settings(variant: str) -> dict[str, Any]:
    """Arguments of transformers' configuration for a variant."""
    width, depth, heads, gated, _ = pick_variant(variant, SIZES, "DINOv3")
    return {
        "image_size": SPEC.size,
        "patch_size": 16,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "use_gated_mlp": gated,
        "hidden_act": "silu" if gated else "gelu",
        "num_register_tokens": 4,
        "layer_norm_eps": 1e-5,
        # The default stretches the coordinates of the patches at random while training.
        "pos_embed_rescale": None,
    }


def build_dinov3(settings: dict[str, Any]) -> DINOv3ViTModel:
    """The network of a configuration, without the token for hidden patches: no gradient would ever reach it."""
    network = DINOv3ViTModel(DINOv3ViTConfig(**settings))
    network.embeddings.mask_token = None
    return network


def rename_dinov3(state: State) -> State:
    """The authors', the hub's or timm's names to those of transformers' ``DINOv3ViTModel``.

    Dropped are the mask token, the periods of the position code, and of the authors' biases the third of the keys,
    which their ``bias_mask`` sets to zero. timm's copies leave out biases that are all zero; they come back as zeros.

    Raises:
        WeightsError: a bias without its mask, or a mask that leaves something else than queries and values.
    """
    renamed: State = {}
    for name, tensor in state.items():
        found = _BLOCK.fullmatch(name)
        if name in _UNUSED:
            continue
        if found is None:
            renamed[_OUTER.get(name, name)] = tensor
        elif found[2] == "attn.qkv":
            renamed |= _split(f"model.layer.{found[1]}.attention", found[3], tensor, state.get(f"{name}_mask"))
        elif found[2] != "attn.qkv.bias_mask":
            renamed[f"model.layer.{found[1]}.{_INNER.get(found[2], found[2])}{found[3]}"] = tensor
    if "reg_token" in state:
        for name in [name for name in renamed if name.endswith((".q_proj.weight", ".v_proj.weight"))]:
            bias = name.removesuffix("weight") + "bias"
            renamed.setdefault(bias, torch.zeros_like(renamed[name][:, 0]))
    return renamed


def _split(attention: str, kind: str, fused: Tensor, mask: Tensor | None) -> State:
    """Weight or bias of a fused layer as that of ``q_proj``, ``k_proj`` and ``v_proj``; keys have no bias."""
    thirds = dict(zip("qkv", fused.chunk(3), strict=True))
    if kind == ".bias":
        del thirds["k"]
        if mask is None or not _keeps_queries_and_values(mask):
            msg = (
                f"{attention}: the bias of queries, keys and values needs a bias_mask of ones, zeros and ones, but "
                f"{'has none' if mask is None else 'has another (NaN where a network was never initialised)'}"
            )
            raise WeightsError(msg)
    return {f"{attention}.{part}_proj{kind}": tensor for part, tensor in thirds.items()}


def _keeps_queries_and_values(mask: Tensor) -> bool:
    """Whether a mask is ones, zeros and ones; without values (on the meta device) it is taken to be."""
    return mask.is_meta or torch.equal(mask.float(), torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(len(mask) // 3))
