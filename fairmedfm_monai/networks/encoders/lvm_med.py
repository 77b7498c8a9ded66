"""LVM-Med (Nguyen et al., "LVM-Med", NeurIPS 2023, arXiv:2306.11925): ViT-B and ResNet-50 of medical images."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.encoders.convnets import build_backbone
from fairmedfm_monai.networks.encoders.timm_vit import IMAGENET_MEAN, IMAGENET_STD
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

SPEC = InputSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Segment Anything's ViT-B without its table of absolute positions. Its tables of relative positions are those of
# 1024 pixels; the blocks of global attention interpolate them to the size of the image.
VIT_B: dict[str, Any] = {
    "img_size": 1024,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "window_size": 14,
    "global_attn_indexes": (2, 5, 8, 11),
}
TINY: dict[str, Any] = {
    "img_size": 448,
    "patch_size": 56,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 2,
    "window_size": 3,
    "global_attn_indexes": (1,),
}
_DRIVE = "https://drive.google.com/file/d/{}/view"
_HUB = "ngctnnnn/lvmmed_rn50"
SOURCES = {
    "vit_b": WeightSource(names=("lvmmed_vit.pth",), page=_DRIVE.format("1DOM3uyK8SGE5XRF1L6K6K_BWPfpPePRD")),
    "resnet50": WeightSource(
        names=("lvmmed_resnet.torch", "lvmmed_rn50.safetensors", "lvmmed_rn50.bin"),
        page=_DRIVE.format("1p31IGo97g3ng9bOaq3eL8JaljfoCcBx0"),
        repo=_HUB,
        repo_files=("model.safetensors", "pytorch_model.bin"),
    ),
}
_NECK = re.compile(r"neck\.([02]\.weight|[13]\.(weight|bias))")
_STEM = re.compile(r"embedder\.embedder\.(?P<kind>convolution|normalization)")
_LAYER = re.compile(
    r"encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
    r"(?P<part>layer\.(?P<number>\d)|shortcut)\.(?P<kind>convolution|normalization)"
)


class LVMMedEncoder(ImageEncoder):
    """LVM-Med's ViT-B or ResNet-50, at 224 pixels.

    ``features`` of ``vit_b`` is the mean over the 14 x 14 tokens before Segment Anything's neck, 768 numbers (what the
    authors' classification and FairMedFM's linear probe read; the neck is left out of the network); of ``resnet50`` the
    average over the last map, 2048 numbers.

    Args:
        variant: ``vit_b`` or ``resnet50``.
        weights: ``pretrained``, a path (the authors' files; of ``resnet50`` also the hub's with the names of
            transformers' ``ResNetModel``), ``random`` or ``tiny``. The hub's ``lvmmed_vit`` is another network.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "vit_b", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        path = resolve_weights(weights, self.source(variant))
        tiny = weights_kind(weights) == "tiny"
        with seeded(seed):
            net = PooledViT(**(TINY if tiny else VIT_B)) if variant == "vit_b" else build_backbone(variant, tiny=tiny)
        super().__init__(feature_dim=int(net.num_features), input_spec=SPEC)  # type: ignore[arg-type]
        self.net = net
        if path is not None:
            rename = rename_vit if variant == "vit_b" else rename_resnet
            load_checked(self.net, rename(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from."""
        return pick_variant(variant, SOURCES, "LVM-Med")

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, 3, 224, 224) normalised images to ``features`` (B, D)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        return {"features": self.net(image)}


class PooledViT(ImageEncoderViT):
    """Segment Anything's image encoder without neck and absolute positions, averaged over its tokens.

    Args:
        settings: of ``ImageEncoderViT``.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_abs_pos=False,
            use_rel_pos=True,
        )
        self.neck = nn.Identity()
        self.num_features = int(settings["embed_dim"])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D)."""
        return super().forward(x).mean(dim=(2, 3))


def rename_vit(state: State) -> State:
    """The authors' tensors of ViT-B, whose names are Segment Anything's, without the neck."""
    return {name: tensor for name, tensor in state.items() if not _NECK.fullmatch(name)}


def rename_resnet(state: State) -> State:
    """The authors' names of ResNet-50, or transformers', to torchvision's; a classifier of ImageNet is dropped."""
    named = {_LAYER.sub(_block_name, _STEM.sub(_stem_name, name)): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if name not in {"fc.weight", "fc.bias"}}


def _stem_name(found: re.Match[str]) -> str:
    return "conv1" if found["kind"] == "convolution" else "bn1"


def _block_name(found: re.Match[str]) -> str:
    block = f"layer{int(found['stage']) + 1}.{found['block']}"
    is_convolution = found["kind"] == "convolution"
    if found["number"] is None:
        return f"{block}.downsample.{0 if is_convolution else 1}"
    return f"{block}.{'conv' if is_convolution else 'bn'}{int(found['number']) + 1}"
