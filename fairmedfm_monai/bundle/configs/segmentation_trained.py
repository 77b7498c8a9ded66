"""Evaluation and inference of trained segmentation bundles."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common, segmentation
from fairmedfm_monai.bundle.configs import segmentation_input as own_input
from fairmedfm_monai.bundle.configs import segmentation_samples as parts
from fairmedfm_monai.bundle.configs import segmentation_training as training
from fairmedfm_monai.bundle.configs.classification_parts import load
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

_WEIGHTS = "@model_info.weights"
_INFO = {"weights": f"${_WEIGHTS}", "variant": "$@model_info.variant"}


def evaluate(row: Row, usage: str) -> Config:
    """evaluate.json: as that of the untrained FM, with the trained network; without prompts where it takes none."""
    config = segmentation.evaluate(row, usage)
    config |= _trained(row, usage, config, stage="evaluate")
    if usage == parts.PROMPT_FREE:
        for key in ("protocol", "protocol_settings", "prompts", "prompt_per", *segmentation.strategy(row)):
            config.pop(key)
        config |= parts.prompt_free_strategy(row) | own_input.stored(row, usage)
        calls = ("read_model_info", "check_checkpoint", "trained_labels", *own_input.calls(row, usage))
        config["imports"] = common.imports(*calls)
        config["labels"] = "$trained_labels(@model_info, @dataset_info)"
        config |= own_input.settings(row, usage)
        config["derived_labels"] = own_input.derived_labels(row, usage)
        config["stamps"] = common.stamps(row, weights=_WEIGHTS)
        config["inferer"] = parts.prompt_free_inferer(row, output="masks")
        steps = [
            *common.load_image(["image", "label"]),
            *parts.without_prompts(segmentation.to_model(row, ["image", "label"])),
            *own_input.crop(row, usage, ["image", "label"]),
        ]
        config["preprocessing"] = {"_target_": "Compose", "transforms": steps}
        axis = None if row.is_volumetric else "@slice_axis"
        config["handlers"] = common.evaluation_handlers(axis=axis, files=["@checkpoint"], **segmentation.SCORES)
    else:
        config["prompts"] = training.trainable_prompts(row)
        config["stamps"] = common.stamps(row, weights=_WEIGHTS, with_prompts=True)
        config["handlers"][0]["files"] = ["@checkpoint"]
    return _ordered(config)


def inference(row: Row, usage: str) -> Config:
    """inference.json: user prompts, or none, to one label map per image, in the image's own grid."""
    config = segmentation.inference(row, usage)
    config |= _trained(row, usage, config, stage="inference")
    config["stamps"] = common.stamps(row, weights=_WEIGHTS, with_card=False)
    config.pop("export")
    if usage == parts.PROMPT_FREE:
        for key in ("prompts_file", "prompt_kind", *segmentation.strategy(row)):
            config.pop(key)
        config |= parts.prompt_free_strategy(row) | own_input.stored(row, usage)
        config["imports"] += [f"$from fairmedfm_monai.bundle import {name}" for name in own_input.calls(row, usage)]
        config["labels"] = "$@model_info.classes"
        config |= own_input.settings(row, usage, card=False)
        config["inferer"] = parts.prompt_free_inferer(row, output="label_map")
        steps = [
            *parts.without_prompts(segmentation.to_model(row, ["image"])),
            *own_input.crop(row, usage, ["image"]),
        ]
        config["preprocessing"] = {"_target_": "Compose", "transforms": [*common.load_image("image"), *steps]}
    return _ordered(config)


def multi_gpu_evaluate(row: Row, usage: str) -> Config:
    """Overlay of evaluate.json for several processes (torchrun)."""
    return {
        **segmentation.multi_gpu_evaluate(row, usage),
        "initialize": [*common.distributed_start(), *load()],
    }


def _trained(row: Row, usage: str, config: Config, *, stage: str) -> Config:
    """What a trained network changes: its geometry comes from model.json and its weights from the checkpoint."""
    network: Config = {**segmentation.network(row), "variant": _INFO["variant"], "weights": "$@model_info.geometry"}
    if usage == parts.PROMPT_FREE:
        network = {
            "_target_": "fairmedfm_monai.usages.PromptFreeSegmenter",
            "segmenter": {**network, **own_input.network(row, usage)},
            "num_labels": "$len(@labels)",
        }
    names = [f"$from fairmedfm_monai.bundle import {name}" for name in ("read_model_info", "check_checkpoint")]
    own = ("ModelInfo", "export_model")
    kept = [line for line in config["imports"] if not line.endswith(own)]
    return {
        "imports": [*kept, *names],
        "dataset_dir": training.training_data(row),
        **own_input.tagged(
            row, usage, common.tracking(row, usage, stage, mitigation="$@model_info.mitigated", **_INFO)
        ),
        **({"experiment_name": config["experiment_name"]} if stage == "inference" else {}),
        "model_info": {
            "_target_": "fairmedfm_monai.bundle.read_model_info",
            "checkpoint": "@checkpoint",
            "fm": row.name,
            "usage": usage,
            "variant": "@variant",
            "weights": "@weights",
            "classes": segmentation.EXAMPLE_LABELS if usage == parts.PROMPT_FREE else list(segmentation.EXAMPLE_LABELS),
        },
        "network_def": network,
        **common.checkpoint_loader(),
        "initialize": [CHECK, SEED, *load()],
    }


def _ordered(config: Config) -> Config:
    """Scalars that users override first, then the sections, then what runs."""
    last = ("checkpointloader", "initialize", "run")
    sections = {key: value for key, value in config.items() if isinstance(value, dict) and "_target_" in value}
    middle = {key: config[key] for key in config if key not in sections and key not in last}
    order = [*middle, *sections, *last]
    return {key: config[key] for key in dict.fromkeys(order) if key in config}
