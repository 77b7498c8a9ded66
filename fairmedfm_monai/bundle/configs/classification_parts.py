"""Parts that the configurations of classification bundles share."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row

FROZEN = ("zero_shot", "linear_probe", "mlp_probe", "prototypes", "adapter")
"""Usages whose encoder never changes: they work on cached features."""

TEXTUAL = ("zero_shot", "prototypes", "adapter")
"""Usages that begin with the text embeddings of the classes: for vision-language models."""

NETWORKS = {
    "zero_shot": "ZeroShotClassifier",
    "linear_probe": "LinearProbe",
    "mlp_probe": "MLPProbe",
    "prototypes": "Prototypes",
    "adapter": "CLIPAdapter",
    "lora": "LinearProbe",
    "full_finetune": "FullFinetune",
}
"""Class of the whole model, in ``fairmedfm_monai.usages``."""

# What a network is built for when nobody trained it yet; a trained one carries its own in model.json.
EXAMPLE_CLASSES = {
    "no_finding": ["a chest X-ray with no finding"],
    "finding": ["a chest X-ray with a nodule", "a chest X-ray showing a lung nodule"],
}
EXAMPLE_CLASSES_OF_VOLUMES = ("no_nodule", "nodule")

OWN_SETTINGS: dict[str, Config] = {
    "mlp_probe": {"hidden": 512, "dropout": 0.0},
    "adapter": {"ratio": 0.2, "reduction": 4},
}
"""Arguments of a usage's network beside encoder and classes."""

SLICES: Config = {"slices": 32, "slice_pooling": "max", "negative": 0}
"""How a model of pictures sees volumes."""


def example_names(row: Row) -> list[str]:
    """Names of the classes of the row's demo data."""
    return list(EXAMPLE_CLASSES_OF_VOLUMES if row.is_volumetric else EXAMPLE_CLASSES)


def input_spec(row: Row, variant: str) -> Config:
    """What the FM expects, as a dictionary of the configuration."""
    return {"_target_": "fairmedfm_monai.catalog.input_spec", "fm": row.name, "variant": variant}


def settings(row: Row, usage: str) -> Config:
    """What the network is built from beside the FM, as long as neither a card nor model.json says otherwise."""
    slicewise = {} if row.is_volumetric else SLICES
    return {"multi_label": False, "spatial_dims": 3 if row.is_volumetric else 2, **slicewise} | OWN_SETTINGS.get(
        usage, {}
    )


def chosen_settings(row: Row, usage: str) -> Config:
    """The settings as overridable keys, those that belong to the data filled from the card."""
    from_card = {
        "multi_label": "$@dataset_info.multi_label",
        "spatial_dims": "$@dataset_info.spatial_dims",
        "negative": "$negative_class(@classes, @dataset_info.positive_class, @multi_label)",
    }
    return {name: from_card.get(name, value) for name, value in settings(row, usage).items()}


def stored_settings(row: Row, usage: str) -> Config:
    """The settings as model.json has them."""
    return {name: f"$@model_info.settings['{name}']" for name in settings(row, usage)}


def negative_import(row: Row) -> list[str]:
    """What :func:`chosen_settings` calls."""
    return [] if row.is_volumetric else ["$from fairmedfm_monai.data.class_labels import negative_class"]


def volume_import(row: Row) -> list[str]:
    """What :func:`check_volumes` calls."""
    return ["$from fairmedfm_monai.data.volumes import check_ct_volumes"] if row.is_volumetric else []


def check_volumes(row: Row, *, card: bool = True) -> list[str]:
    """Step of ``initialize`` of a model of volumes: no other images come."""
    dims = ", @dataset_info.spatial_dims" if card else ""
    return [f"$check_ct_volumes(@modality{dims})"] if row.is_volumetric else []


def modality(row: Row, *, card: bool = True) -> Config:
    """Keys that say what the intensities are; a model of volumes has a range of its own and needs no window."""
    if card:
        window = {} if row.is_volumetric else {"window": "$@dataset_info.window"}
        return {"modality": "$@dataset_info.modality", **window}
    return {"modality": "ct"} if row.is_volumetric else {"modality": "xray", "window": None}


def image_batch(row: Row) -> int:
    """How many images go through a network at a time."""
    return 1 if row.is_volumetric else 32


def network(row: Row, usage: str, *, stage: str) -> Config:
    """The whole model. A trained one gets its geometry from model.json: its weights come from the checkpoint."""
    from_info = usage != "zero_shot" and stage != "train"
    encoder = {
        "_target_": row.network,
        "variant": "$@model_info.variant" if from_info else "@variant",
        "weights": "$@model_info.geometry" if from_info else "@weights",
    }
    arguments: Config = {"classes": "@classes"} if usage in TEXTUAL else {"num_classes": "$len(@classes)"}
    if usage in TEXTUAL:
        arguments["background"] = "$@background_prompts if @multi_label else []"
    if not row.is_volumetric:
        # Where no card says what comes, both pictures and volumes do; a pooled network takes either.
        either = usage == "zero_shot" and stage == "inference"
        pooling = "@slice_pooling" if either else "$@slice_pooling if @spatial_dims == 3 else None"
        arguments |= {"pooling": pooling, "negative": "@negative"}
    arguments |= {name: f"@{name}" for name in OWN_SETTINGS.get(usage, {})}
    return {"_target_": f"fairmedfm_monai.usages.{NETWORKS[usage]}", "encoder": encoder, **arguments}


def background(usage: str) -> Config:
    """Prompts that independent labels are told apart from."""
    return {"background_prompts": ["a medical image"]} if usage in TEXTUAL else {}


def model_info(row: Row, usage: str) -> Config:
    """What the checkpoint is; of an untrained bundle, what to build instead."""
    classes: Any = EXAMPLE_CLASSES if usage in TEXTUAL else example_names(row)
    return {
        "settings": settings(row, usage),
        "model_info": {
            "_target_": "fairmedfm_monai.bundle.read_model_info",
            "checkpoint": "@checkpoint",
            "fm": row.name,
            "usage": usage,
            "variant": "@variant",
            "weights": "@weights",
            "classes": "@classes" if usage == "zero_shot" else classes,
            "settings": "@settings",
        },
    }


def preprocessing(row: Row) -> Config:
    """From the file to what the FM takes."""
    to_model = _volume_steps(row) if row.is_volumetric else _picture_steps()
    last = {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"}
    return {"_target_": "Compose", "transforms": [*common.load_image("image"), *to_model, last]}


def _picture_steps() -> list[Config]:
    """Pictures, and of volumes as many slices as the model sees."""
    return [
        # Rows and columns as on a screen, for pictures and slices alike.
        {"_target_": "Orientationd", "keys": "image", "axcodes": "PLS", "labels": None},
        {
            "_target_": "fairmedfm_monai.transforms.ModalityIntensityd",
            "keys": "image",
            "modality": "@modality",
            "window": "@window",
        },
        {"_target_": "fairmedfm_monai.transforms.slices.TakeSlicesd", "keys": "image", "number": "@slices"},
        _resizing(),
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
    ]


def _resizing() -> Config:
    """To the size of the FM as its authors did it, pictures and slices alike."""
    return {
        "_target_": "fairmedfm_monai.transforms.PILResized",
        "keys": "image",
        "size": "$@input_spec['resize']['edge']",
        "mode": "$@input_spec['resize']['mode']",
        "interpolation": "$@input_spec['resize']['interpolation']",
        "pad": "$@input_spec['resize']['pad']",
        "crop": "$@input_spec['size']",
    }


def _volume_steps(row: Row) -> list[Config]:
    """The grid and the Hounsfield units that a model of volumes was trained on."""
    low, high = row.input_spec["hu_range"]
    return [
        {"_target_": "Orientationd", "keys": "image", "axcodes": "$@input_spec['axcodes']", "labels": None},
        {"_target_": "Spacingd", "keys": "image", "pixdim": "$@input_spec['spacing']", "mode": "bilinear"},
        *_foreground(row),
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": 0.0,
            "b_max": 1.0,
            "clip": True,
        },
        {"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": "$@input_spec['window']"},
    ]


def _foreground(row: Row) -> list[Config]:
    """The box around all that is denser than a row says, before air becomes 0."""
    least = row.input_spec["foreground_above"]
    if least is None:
        return []
    crop = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": True}
    return [{**crop, "select_fn": f"$lambda image: image > {least}"}]


def dataset(usage: str, cases: str, transform: str) -> Config:
    """Cached features for a frozen encoder, images for one that trains."""
    if usage in FROZEN:
        return {
            "_target_": "fairmedfm_monai.data.FeatureDataset",
            "data": cases,
            "transform": transform,
            "encoder": "$@network_def.encoder",
            "feature": "zero_shot" if usage in TEXTUAL else "features",
            # Images at a time; a volume is a batch of slices already.
            "batch_size": "$1 if @spatial_dims == 3 else 32",
            "device": "@device",
            "num_workers": "@num_workers",
            "amp": "@amp",
            "spatial_dims": "@spatial_dims",
        }
    target = "fairmedfm_monai.data.CaseDataset"
    return {"_target_": target, "data": cases, "transform": transform, "spatial_dims": "@spatial_dims"}


def probabilities() -> Config:
    """Logits to probabilities: of classes that exclude each other, or of independent labels."""
    return {"_target_": "Activationsd", "keys": "pred", "softmax": "$not @multi_label", "sigmoid": "@multi_label"}


def encode(usage: str) -> list[str]:
    """The step of ``run`` that encodes, where there is one."""
    return ["$@dataset.encode()"] if usage in FROZEN else []


def check_classes(usage: str) -> list[str]:
    """Step of an evaluation's ``initialize``: a model with prompts has its own classes, which must be the card's."""
    return ["$@model_info.classes_for(@dataset_info)"] if usage in TEXTUAL and usage != "zero_shot" else []


def load() -> list[str]:
    """Steps of ``initialize`` that load the checkpoint."""
    return ["$check_checkpoint(@checkpoint)", "$@checkpointloader(@evaluator)"]
