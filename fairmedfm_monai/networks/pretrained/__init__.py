"""Weights that are shipped with the package: the two demo models (half precision on disk, loaded as float32)."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fairmedfm_monai.networks.weights import WeightSource, fill_weights, weights_kind

FOLDER = Path(__file__).parent


def shipped(name: str) -> Path:
    """Path of the shipped weights of ``demo_clip`` or ``demo_sam``."""
    return FOLDER / f"{name}.safetensors"


def fill_shipped(module: nn.Module, name: str, weights: str | Path) -> None:
    """Fill ``module`` with the shipped weights of ``name`` (``pretrained``), a file, or leave it as it is.

    Raises:
        WeightsError: the file is missing or of another model.
    """
    path = shipped(name) if weights_kind(weights) == "pretrained" else weights
    fill_weights(module, path, source=WeightSource(names=(f"{name}.safetensors",), page="scripts/train_demo_models.py"))


def only_variant(variant: str) -> None:
    """Refuse a variant: each demo model has one, ``default``.

    Raises:
        ValueError: for another name.
    """
    if variant != "default":
        msg = f"`variant` must be 'default', the only one of a demo model, but got {variant!r}"
        raise ValueError(msg)
