"""Parts that the configurations of classification bundles share."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row

FROZEN = ("zero_shot", "linear_probe")
"""Usages whose encoder never changes: they work on cached features."""

FEATURE = {"zero_shot": "zero_shot", "linear_probe": "features"}
"""Entry of ``encode_image`` that a frozen usage reads."""

# What a network is built for when nobody trained it yet; a trained one carries its own in model.json.
EXAMPLE_CLASSES = {
    "no_finding": ["a chest X-ray with no finding"],
    "finding": ["a chest X-ray with a nodule", "a chest X-ray showing a lung nodule"],
}


def input_spec(row: Row, variant: str) -> Config:
    """What the FM expects, as a dictionary of the configuration."""
    return {"_target_": "fairmedfm_monai.catalog.input_spec", "fm": row.name, "variant": variant}


def network(row: Row, usage: str, *, stage: str) -> Config:
    """The whole model. A trained one gets its geometry from model.json: its weights come from the checkpoint."""
    from_info = usage != "zero_shot" and stage != "train"
    encoder = {
        "_target_": row.network,
        "variant": "$@model_info.variant" if from_info else "@variant",
        "weights": "$@model_info.geometry" if from_info else "@weights",
    }
    if usage == "zero_shot":
        return {"_target_": "fairmedfm_monai.usages.ZeroShotClassifier", "encoder": encoder, "classes": "@classes"}
    return {"_target_": "fairmedfm_monai.usages.LinearProbe", "encoder": encoder, "num_classes": "$len(@classes)"}


def model_info(row: Row, usage: str) -> Config:
    """What the checkpoint is; of an untrained bundle, what to build instead."""
    classes = EXAMPLE_CLASSES if usage == "zero_shot" else list(EXAMPLE_CLASSES)
    return {
        "model_info": {
            "_target_": "fairmedfm_monai.bundle.read_model_info",
            "checkpoint": "@checkpoint",
            "fm": row.name,
            "usage": usage,
            "variant": "@variant",
            "weights": "@weights",
            "classes": "@classes" if usage == "zero_shot" else classes,
        }
    }


def preprocessing() -> Config:
    """From the file to what the FM takes."""
    size = "$2 * [@input_spec['size']]"
    return {
        "_target_": "Compose",
        "transforms": [
            *common.load_image("image"),
            # Rows and columns as on a screen, for pictures and slices alike.
            {"_target_": "Orientationd", "keys": "image", "axcodes": "PLS", "labels": None},
            {
                "_target_": "fairmedfm_monai.transforms.ModalityIntensityd",
                "keys": "image",
                "modality": "@modality",
                "window": "@window",
            },
            {
                "_target_": "Resized",
                "keys": "image",
                "spatial_size": "$@input_spec['size']",
                "size_mode": "longest",
                "mode": "bilinear",
                "anti_aliasing": True,
            },
            {"_target_": "SpatialPadd", "keys": "image", "spatial_size": size},
            {
                "_target_": "fairmedfm_monai.transforms.MatchChannelsd",
                "keys": "image",
                "channels": "$@input_spec['channels']",
            },
            {
                "_target_": "NormalizeIntensityd",
                "keys": "image",
                "subtrahend": "$@input_spec['mean']",
                "divisor": "$@input_spec['std']",
                "channel_wise": True,
            },
            {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
        ],
    }


def dataset(usage: str, cases: str, transform: str) -> Config:
    """Cached features for a frozen encoder, images for one that trains."""
    if usage in FROZEN:
        return {
            "_target_": "fairmedfm_monai.data.FeatureDataset",
            "data": cases,
            "transform": transform,
            "encoder": "$@network_def.encoder",
            "feature": FEATURE[usage],
            "device": "@device",
            "num_workers": "@num_workers",
        }
    return {"_target_": "fairmedfm_monai.data.CaseDataset", "data": cases, "transform": transform}


def softmax() -> Config:
    """Logits to probabilities."""
    return {"_target_": "Activationsd", "keys": "pred", "softmax": True}


def encode(usage: str) -> list[str]:
    """The step of ``run`` that encodes, where there is one."""
    return ["$@dataset.encode()"] if usage in FROZEN else []


def load() -> list[str]:
    """Steps of ``initialize`` that load the checkpoint."""
    return ["$check_checkpoint(@checkpoint)", "$@checkpointloader(@evaluator)"]
