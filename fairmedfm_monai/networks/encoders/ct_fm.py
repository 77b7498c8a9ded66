"""CT-FM (Pai et al., "Vision Foundation Models for Computed Tomography", 2025, arXiv:2501.09001) through MONAI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets.segresnet_ds import SegResEncoder
from torch import Tensor

from fairmedfm_monai.networks.checkpoint import State, load_checked, read_checkpoint
from fairmedfm_monai.networks.encoders.variants import pick_variant
from fairmedfm_monai.networks.encoders.volume import VolumeEncoder, VolumeGrid
from fairmedfm_monai.networks.weights import WeightSource, resolve_weights, seeded, weights_kind

HU_RANGE = (-1024.0, 2048.0)
# Grids in the order S, P, L of the axes. The network takes any size; windows are multiples of its stride, 16.
GRIDS = {
    # Spacing of the pre-training; a window of 288 x 224 x 288 mm holds the lungs.
    "3x1x1mm": VolumeGrid((96, 224, 288), "SPL", (3.0, 1.0, 1.0), HU_RANGE, foreground_above=0.0),
    # Spacing and window of the authors' head CT task.
    "5x2x2mm": VolumeGrid((48, 128, 128), "SPL", (5.0, 2.0, 2.0), HU_RANGE, foreground_above=0.0),
}
# Normalisation is written down because the same file fits instance norm too, and computes something else there.
SETTINGS: dict[str, Any] = {"spatial_dims": 3, "in_channels": 1, "act": "relu", "norm": "batch"}
GEOMETRY: dict[str, Any] = {**SETTINGS, "init_filters": 32, "blocks_down": (1, 2, 2, 4, 4)}
TINY: dict[str, Any] = {**SETTINGS, "init_filters": 4, "blocks_down": (1, 1, 1, 1, 1)}
_REPO = "project-lighter/ct_fm_feature_extractor"
SOURCE = WeightSource(
    names=("ct_fm_feature_extractor.safetensors",),
    page=f"https://huggingface.co/{_REPO}",
    repo=_REPO,
    repo_files=("model.safetensors",),
)
_DECODER = re.compile(r"up_layers\..+")


class CTFMEncoder(VolumeEncoder):
    """CT-FM's encoder, pre-trained on 148,000 CT scans.

    ``features`` (B, 512) is the average over the last of the five levels. CT only: other modalities have no Hounsfield
    units, and no scan of them was seen in training.

    Args:
        variant: grid of the input, ``3x1x1mm`` (pre-training) or ``5x2x2mm`` (coarser and an eighth of the work); the
            weights are the same.
        weights: ``pretrained``, a path (the feature extractor's file, or one of the authors' SegResNet, whose decoder
            is left out), ``random`` or ``tiny``.
        seed: of ``random`` and ``tiny``.

    Raises:
        ValueError: for another variant.
        WeightsError: if the weights cannot be had, read or do not fit.
    """

    def __init__(self, variant: str = "3x1x1mm", weights: str | Path = "pretrained", *, seed: int = 0) -> None:
        path = resolve_weights(weights, self.source(variant))
        geometry = TINY if weights_kind(weights) == "tiny" else GEOMETRY
        levels = len(geometry["blocks_down"])
        super().__init__(feature_dim=geometry["init_filters"] * 2 ** (levels - 1), grid=GRIDS[variant])
        with seeded(seed):
            self.net = SegResEncoder(**geometry)
        if path is not None:
            load_checked(self.net, rename_ct_fm(read_checkpoint(path)), origin=str(path))
        self.eval()

    @staticmethod
    def source(variant: str) -> WeightSource:
        """Where the ``pretrained`` weights come from."""
        pick_variant(variant, GRIDS, "CT-FM")
        return SOURCE

    def encode_image(self, image: Tensor) -> dict[str, Tensor]:
        """Encode volumes (B, 1, *window), axes S, P, L, in 0..1, to ``features`` (B, 512)."""
        if not torch.jit.is_scripting():
            self.check_image(image)
        return {"features": self.net(image)[-1].mean(dim=(2, 3, 4))}


def rename_ct_fm(state: State) -> State:
    """Names of the feature extractor, or of ``SegResNetDS`` (whose decoder is dropped), to those of the encoder."""
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items() if not _DECODER.fullmatch(name)}
