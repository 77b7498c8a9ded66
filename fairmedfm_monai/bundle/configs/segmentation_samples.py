"""Parts of segmentation trainings: what is cut from the data, and how a model without prompts goes through it."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common, segmentation
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row

PROMPTED = ("decoder_finetune", "lora_prompted", "full_finetune")
"""Usages that are trained, and evaluated, with prompts."""

PROMPT_FREE = "lora"
"""SAMed: all classes at once, no prompt."""

USAGES = (*PROMPTED, PROMPT_FREE)
ADAPTED = ("lora_prompted", "lora")

# Kinds that a training can draw; masks, words and correction clicks are for evaluation.
TRAINABLE_BASES = ("box", "center", "point", "points")


def prompt_free_strategy(row: Row, *, progress: bool = True) -> Config:
    """How a model without prompts goes through a volume, as overridable scalars."""
    return {
        **({} if row.is_volumetric else {"slice_axis": -1}),
        "slice_batch": 1 if row.is_volumetric else 8,
        "progress": progress,
    }


def prompt_free_inferer(row: Row, *, output: str) -> Config:
    """The inferer of a model without prompts."""
    return {
        "_target_": "fairmedfm_monai.inferers.PromptFreeInferer",
        "labels": "@labels",
        **({} if row.is_volumetric else {"axis": "@slice_axis"}),
        "output": output,
        "slice_batch": "@slice_batch",
        "progress": "@progress",
    }


def loading(row: Row) -> list[Config]:
    """From the files to the grid and intensities of the model."""
    keys = ["image", "label"]
    spacing = row.input_spec.get("spacing")
    resampling = {
        "_target_": "Spacingd",
        "keys": keys,
        "pixdim": [spacing] * 3,
        "mode": ["bilinear", "nearest"],
        "scale_extent": True,
    }
    return [
        *common.load_image(keys),
        *without_prompts(segmentation.to_model(row, keys)),
        *([resampling] if row.is_volumetric and spacing else []),
    ]


def without_prompts(transforms: list[Config]) -> list[Config]:
    """The steps of prompted evaluation that neither prompts nor protocols need."""
    return [step for step in transforms if not step["_target_"].endswith(("PromptsToMetad", "ReverseChannelsd"))]


def sample_dataset(row: Row, usage: str) -> Config:
    """The cut samples; their embeddings where the image encoder is frozen."""
    cutter = (
        {"_target_": "fairmedfm_monai.data.WindowCutter", "network": _cut_network(usage), "min_voxels": "@min_voxels"}
        if row.is_volumetric
        else {"_target_": "fairmedfm_monai.data.SliceCutter", "axis": "@slice_axis", "min_pixels": "@min_pixels"}
    )
    embedded = {"embedder": "@training_def", "device": "@device"} if usage == "decoder_finetune" else {}
    return {
        "_target_": f"fairmedfm_monai.data.{'EmbeddedSamples' if embedded else 'SampleDataset'}",
        "data": "$@dataset_info.cases('train')",
        "loading": "@train#loading",
        "cut": cutter,
        "labels": "@labels",
        "transform": "@train#preprocessing",
        "samples_per_case": "@samples_per_case",
        "seed": "@seed",
        **embedded,
    }


def _cut_network(usage: str) -> str:
    return "$@network_def.segmenter" if usage == PROMPT_FREE else "@network_def"


def collate(usage: str) -> Config:
    """Samples of different sizes are padded behind; embeddings are of one size."""
    if usage == "decoder_finetune":
        return {}
    return {"collate_fn": {"_target_": "monai.transforms.PadListDataCollate", "method": "end"}}


def sample_transforms(row: Row, usage: str, *, rotation: str = "bilinear") -> list[Config]:
    """What happens to each sample every time it is drawn; ``rotation``: interpolation of images that are rotated."""
    transforms = "fairmedfm_monai.transforms"
    channels = {"_target_": f"{transforms}.MatchChannelsd", "keys": "image", "channels": row.input_spec["channels"]}
    if usage != PROMPT_FREE:
        prompts = {
            "_target_": f"{transforms}.SamplePromptsd",
            "keys": "label",
            "kinds": "@prompts",
            "grid": "@loss_size",
            "min_voxels": "@min_voxels" if row.is_volumetric else "@min_pixels",
            "seed": "@seed",
        }
        return [*([] if usage == "decoder_finetune" else [channels]), prompts]
    size = ["@loss_size", "@loss_size"] if not row.is_volumetric else "@loss_size"
    return [
        channels,
        *([] if row.is_volumetric else [_augmentation(rotation)]),
        {"_target_": f"{transforms}.SampleSized", "keys": "image"},
        {"_target_": "Resized", "keys": "label", "spatial_size": size, "mode": "nearest"},
        {"_target_": "EnsureTyped", "keys": ["image", "label"], "track_meta": False},
    ]


def _augmentation(rotation: str) -> Config:
    """SAMed's: one of the four reflections of a square, or in half of the other cases a turn by up to 20 degrees."""
    keys = ["image", "label"]
    turned = [
        {"_target_": "RandRotate90d", "keys": keys, "prob": 0.75},
        {"_target_": "RandFlipd", "keys": keys, "prob": 1.0, "spatial_axis": 0},
    ]
    rotated = {
        "_target_": "RandRotated",
        "keys": keys,
        "prob": 0.5,
        "range_x": 0.349,
        "mode": [rotation, "nearest"],
        "padding_mode": "zeros",
    }
    return {"_target_": "OneOf", "transforms": [{"_target_": "Compose", "transforms": turned}, rotated]}
