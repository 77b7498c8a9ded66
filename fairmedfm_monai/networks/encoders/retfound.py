"""RETFound (Zhou et al., "A foundation model for generalizable disease detection from retinal images", Nature 2023)."""

from __future__ import annotations

import re
from pathlib import Path

from fairmedfm_monai.networks.checkpoint import State
from fairmedfm_monai.networks.encoders.dinov2 import GEOMETRIES as DINOV2
from fairmedfm_monai.networks.encoders.dinov2 import PATCH, rename_dinov2
from fairmedfm_monai.networks.encoders.timm_vit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    VIT_LARGE,
    Geometry,
    TimmViTEncoder,
    rename_mae,
    resample_positions,
)
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.spec import InputSpec
from fairmedfm_monai.networks.weights import WeightSource

SPEC = InputSpec(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
MAE: Geometry = {"patch_size": 16, **VIT_LARGE}
GEOMETRIES: dict[str, Geometry] = {
    "mae_natureCFP": MAE,
    "mae_natureOCT": MAE,
    "mae_meh": MAE,
    "mae_shanghai": MAE,
    "dinov2_meh": DINOV2["vitl14"],
    "dinov2_shanghai": DINOV2["vitl14"],
}
# Names under which the first two were given out before they came to the hub.
_EARLIER = {"mae_natureCFP": ("RETFound_cfp_weights.pth",), "mae_natureOCT": ("RETFound_oct_weights.pth",)}
# A training file of DINOv2 holds the heads of its two losses beside the backbone, with split-off weight norms.
_LOSS_HEAD = re.compile(r"(dino|ibot)_head\.(mlp\.\d\.(weight|bias)|last_layer\.weight_[gv])")
_CHUNK = re.compile(r"blocks\.\d+\.(\d+\.)")


class RETFoundEncoder(TimmViTEncoder):
    """RETFound: ViT-L of colour fundus photographs (natureCFP, meh, shanghai) or OCT B-scans (natureOCT).

    ``features`` is the class token after the encoder's trained last normalisation. The authors' fine-tuning of the
    masked autoencoders takes the mean of the patch tokens and a new, untrained ``fc_norm`` instead; that is not built
    here, because no file holds it.

    Args:
        variant: ``mae_natureCFP``, ``mae_natureOCT``, ``mae_meh``, ``mae_shanghai`` (masked autoencoders),
            ``dinov2_meh`` or ``dinov2_shanghai``.
        weights: ``pretrained``, a path (the authors' .pth; decoder or loss heads in it are left out), ``random`` or
            ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "mae_natureCFP", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        geometry = pick_variant(variant, GEOMETRIES, "RETFound")
        rename = rename_mae if variant.startswith("mae") else rename_retfound_dinov2
        super().__init__(geometry, SPEC, weights, source=self.source(variant), rename=rename, seed=seed)

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights of a variant come from (the hub asks for registration)."""
        pick_variant(variant, GEOMETRIES, "RETFound")
        name = f"RETFound_{variant}"
        return WeightSource(
            names=(f"{name}.pth", *_EARLIER.get(variant, ())),
            page=f"https://huggingface.co/YukunZhou/{name}",
            repo=f"YukunZhou/{name}",
            repo_files=(f"{name}.pth",),
        )


def rename_retfound_dinov2(state: State) -> State:
    """A DINOv2 training file's names to timm's.

    The prefix ``backbone.`` is taken off, blocks that are grouped (``blocks.<group>.<number>``) lose the group, and
    the heads of the two losses and ``mask_token`` are dropped. A table of another size is resampled as the authors do:
    bicubic at the ratio of the sizes, without DINOv2's own offset.
    """
    backbone = {
        _CHUNK.sub(r"blocks.\1", name.removeprefix("backbone.")): tensor
        for name, tensor in state.items()
        if not _LOSS_HEAD.fullmatch(name)
    }
    return resample_positions(rename_dinov2(backbone), SPEC.size // PATCH, offset=0.0)
