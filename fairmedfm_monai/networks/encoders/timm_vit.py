"""Vision transformers (Dosovitskiy et al., ICLR 2021) through timm, for the families that differ in geometry and names.

The published files of DINOv2, RAD-DINO, RETFound, MedMAE and AIMv2 all fit timm's ``VisionTransformer`` once their
names are mapped; what is the same for all of them is here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairmedfm_monai.networks.checkpoint import State, WeightsError, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.base import ImageEncoder
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

from timm.layers import LayerNorm  # isort: skip - after weights, which switches the hub's telemetry off
from timm.models.vision_transformer import VisionTransformer  # isort: skip

Geometry = Mapping[str, Any]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
VIT_SMALL: Geometry = {"embed_dim": 384, "depth": 12, "num_heads": 6}
VIT_BASE: Geometry = {"embed_dim": 768, "depth": 12, "num_heads": 12}
VIT_LARGE: Geometry = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
TINY: Geometry = {"embed_dim": 48, "depth": 2, "num_heads": 2}
# The decoder of a masked autoencoder (He et al., CVPR 2022), which pre-training needs and features do not.
_BLOCK_PART = r"(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)"
_MAE_DECODER = re.compile(
    rf"mask_token|decoder_pos_embed|decoder_(embed|norm|pred)\.(weight|bias)|decoder_blocks\.\d+\.{_BLOCK_PART}"
)


class TimmViTEncoder(ImageEncoder):
    """One timm ``VisionTransformer`` as an image encoder.

    ``features`` (B, D) is the class token after the last normalisation or, of a network without class token, the mean
    of the normalised patch tokens.

    Args:
        geometry: arguments of ``VisionTransformer`` beside the image size.
        input_spec: what the weights were trained with.
        weights: ``pretrained``, a path, ``random`` or ``tiny``.
        source: where ``pretrained`` is found.
        rename: published names to timm's; drops what it documents and nothing else.
        seed: of ``random`` and ``tiny``.

    Raises:
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(
        self,
        geometry: Geometry,
        input_spec: InputSpec,
        weights: str | Path,
        *,
        source: WeightSource,
        rename: Callable[[State], State],
        seed: int = 0,
    ) -> None:
        path = resolve_weights(weights, source)
        if weights_kind(weights) == "tiny":
            geometry = shrink(geometry, input_spec.size)
        super().__init__(feature_dim=geometry["embed_dim"], input_spec=input_spec)
        with seeded(seed):
            self.vit = build_vit(geometry, input_spec.size)
        if path is not None:
            load_checked(self.vit, rename(read_checkpoint(path)), origin=str(path))
        self.eval()

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode (B, C, S, S) normalised images to ``features`` (B, D)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        return {"features": self.vit(image)}


def build_vit(geometry: Geometry, size: int) -> VisionTransformer:
    """A network for ``size`` x ``size`` images, without classifier; LayerNorm (eps 1e-6) unless another is named."""
    settings: dict[str, Any] = {"norm_layer": partial(LayerNorm, eps=1e-6), **geometry}
    return VisionTransformer(img_size=size, num_classes=0, **settings)


def shrink(geometry: Geometry, size: int) -> Geometry:
    """The same kind of network for the same input, but narrow, shallow and with few tokens."""
    grid = next(edge for edge in range(4, size + 1) if size % edge == 0)
    return {**geometry, **TINY, "patch_size": size // grid}


def resample_positions(state: State, grid: int, *, offset: float) -> State:
    """``state`` with its ``pos_embed`` (1, 1 + M^2, D) resampled to ``grid`` x ``grid``, bicubic and without antialias.

    Args:
        state: timm names, with one table row for the class token.
        grid: patches along an edge of the image.
        offset: 0 samples at the ratio of the sizes; DINOv2's 0.1 at (grid + 0.1) / M, which moves the samples by up to
            a percent of a patch. Weights and features go with the rule they were published with.

    Raises:
        WeightsError: the table is not that of a square.
    """
    table = state.get("pos_embed")
    if table is None or table.shape[1] == grid * grid + 1:
        return state
    old = math.isqrt(table.shape[1] - 1)
    if table.ndim != 3 or old * old != table.shape[1] - 1:
        msg = f"pos_embed must have a row for the class token and M * M more, but its shape is {tuple(table.shape)}"
        raise WeightsError(msg)
    patches = table[:, 1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    if offset:
        ratio = (grid + offset) / old
        patches = F.interpolate(patches, scale_factor=(ratio, ratio), mode="bicubic")
    else:
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic")
    moved = torch.cat([table[:, :1].float(), patches.flatten(2).transpose(1, 2)], dim=1)
    return {**state, "pos_embed": moved}


def rename_parts(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    """``name`` with the left part of each pair, in their order, replaced by the right one."""
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def join_qkv(state: State, pattern: re.Pattern[str], parts: Sequence[str]) -> State:
    """Layers of their own for queries, keys and values as timm's one; the rest as it is.

    Args:
        state: any names.
        pattern: of the layers' names, with the groups ``block`` (number), ``part`` and ``kind`` (weight or bias).
        parts: what ``part`` calls queries, keys and values.
    """
    joined: State = {}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if match := pattern.fullmatch(name):
            found.setdefault(f"blocks.{match['block']}.attn.qkv.{match['kind']}", {})[match["part"]] = tensor
        else:
            joined[name] = tensor
    # Where a third is missing the tensor is too short, which loading then tells.
    return joined | {name: torch.cat([own[part] for part in parts if part in own]) for name, own in found.items()}


def rename_mae(state: State) -> State:
    """A masked autoencoder's tensors without its decoder and mask token; the encoder's names are timm's already.

    Raises:
        WeightsError: the file was fine-tuned with mean pooling, and so has no trained ``norm``.
    """
    if "fc_norm.weight" in state:
        msg = (
            "the file holds fc_norm: it is a network fine-tuned with mean pooling, whose class token was never read; "
            "give the pre-trained file"
        )
        raise WeightsError(msg)
    return {name: tensor for name, tensor in state.items() if not _MAE_DECODER.fullmatch(name)}
