"""Validation in segmentation trainings: what chooses the epoch that becomes model.pt."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import common, segmentation
from fairmedfm_monai.bundle.configs import segmentation_input as own_input
from fairmedfm_monai.bundle.configs import segmentation_samples as parts
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row


def section(row: Row, usage: str) -> Config:
    """The section ``validate`` of train.json."""
    saver: dict[str, Any] = {
        "_target_": "CheckpointSaver",
        "_disabled_": "$@rank > 0",
        "save_dir": "@ckpt_dir",
        "save_dict": {"model": "@model_state"},
        "save_key_metric": True,
        "key_metric_name": "selection",
        "key_metric_filename": "model.pt",
    }
    free = usage == parts.PROMPT_FREE
    keys = ["image", "label"]
    steps = segmentation.to_model(row, keys)
    axis = None if row.is_volumetric else "@slice_axis"
    return {
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                *common.load_image(keys),
                *([] if free else [{**segmentation.simulate(row), "kinds": "@val_prompts"}]),
                *(parts.without_prompts(steps) if free else [*parts.without_prompts(steps), steps[-1]]),
                *own_input.crop(row, usage, keys),
            ],
        },
        "dataset": {
            "_target_": "fairmedfm_monai.data.CaseDataset",
            "data": "$validation_cases(@dataset_info, @select_by)",
            "transform": "@validate#preprocessing",
        },
        "dataloader": {**common.dataloader("@validate#dataset"), "batch_size": 1},
        "inferer": parts.prompt_free_inferer(row, output="masks")
        if free
        else segmentation.inferer(row, "@val_prompts", output="masks"),
        "postprocessing": {"_target_": "Compose", "transforms": []},
        "handlers": [
            common.fairness_handler(
                select_by=common.CHOSEN_BY, axis=axis, **({} if free else {"prompts": "@val_prompts"})
            ),
            saver,
            common.early_stopping(),
            common.tracking_handler(),
            common.stats_handler(),
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network_def",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "val_handlers": "@validate#handlers",
            "amp": "@amp",
        },
    }
