"""Configurations of promptable segmentation bundles."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

# What a promptable bundle segments until the user names other labels.
EXAMPLE_LABELS = {"object": 1}

# Columns to the patient's left, rows to the back: axial slices stand upright, as a reader sees them.
AXCODES = "LPS"


def evaluate(row: Row, usage: str) -> Config:
    """evaluate.json: prompts simulated from the reference masks, all kinds and labels in one pass."""
    return {
        "imports": common.imports(),
        **common.paths(row),
        **common.model_choice(row),
        "attributes": None,
        "split": ["val", "test"],
        "prompts": list(row.prompts),
        "slice_axis": -1,
        "slice_batch": 8,
        **common.statistics(),
        **common.machine(batch_size=1),
        **common.tracking(row, usage, "evaluate"),
        **common.dataset_info(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        "labels": "$@dataset_info.labels",
        "stamps": f"$stamps(@weights, fm='{row.name}', prompts=@prompts)",
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "network_def": _network(row),
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                *common.load_image(["image", "label"]),
                {
                    "_target_": "fairmedfm_monai.transforms.SimulatePromptsd",
                    "keys": "label",
                    "labels": "@labels",
                    "kinds": "@prompts",
                    "axis": "@slice_axis",
                    "axcodes": AXCODES,
                    "seed": "@seed",
                },
                *_to_model(["image", "label"]),
            ],
        },
        "dataset": {
            "_target_": "fairmedfm_monai.data.CaseDataset",
            "data": "$@dataset_info.cases(*@split)",
            "transform": "@preprocessing",
        },
        "dataloader": common.dataloader("@dataset"),
        "inferer": _inferer("@prompts"),
        "postprocessing": {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0},
        "handlers": common.evaluation_handlers(prompts="@prompts", axis="@slice_axis"),
        "evaluator": common.evaluator(),
        "initialize": [CHECK, SEED],
        "run": ["$@evaluator.run()", common.EXIT],
    }


def inference(row: Row, usage: str) -> Config:
    """inference.json: user prompts (file, clicks) to one label map per image, in the image's own grid."""
    return {
        "imports": ["$import numpy", *common.imports("ModelInfo", "export_model")],
        **common.paths(row),
        **common.model_choice(row),
        "split": "test",
        "labels": EXAMPLE_LABELS,
        "prompts_file": None,
        "slice_axis": -1,
        "slice_batch": 8,
        "modality": "ct",
        "window": None,
        **common.machine(batch_size=1),
        **common.tracking(row, usage, "inference"),
        "experiment_name": "fairmedfm-inference",
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "model_info": {
            "_target_": "fairmedfm_monai.bundle.ModelInfo",
            "fm": row.name,
            "usage": usage,
            "variant": "@variant",
            "weights": "@weights",
            "classes": "$list(@labels)",
        },
        "network_def": _network(row),
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                *common.load_image("image"),
                {
                    "_target_": "fairmedfm_monai.transforms.LoadPromptsd",
                    "keys": "image",
                    "path": "@prompts_file",
                    "labels": "@labels",
                },
                {
                    "_target_": "fairmedfm_monai.transforms.ClicksToPromptsd",
                    "keys": "image",
                    "label": "$list(@labels)[0]",
                    "labels": "@labels",
                },
                *_to_model(["image"]),
            ],
        },
        "dataset": {
            "_target_": "fairmedfm_monai.data.CaseDataset",
            "data": {
                "_target_": "fairmedfm_monai.data.inference_cases",
                "dataset_dir": "@dataset_dir",
                "split": "@split",
            },
            "transform": "@preprocessing",
        },
        "dataloader": common.dataloader("@dataset"),
        "inferer": _inferer(["user"]),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                },
                {"_target_": "fairmedfm_monai.transforms.MasksToLabelMapd", "keys": "pred", "labels": "@labels"},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@run_dir",
                    "output_postfix": "mask",
                    "output_ext": ".nii.gz",
                    "separate_folder": False,
                    "output_dtype": "$numpy.uint8",
                },
            ],
        },
        "handlers": [common.tracking_handler(close_on_complete=True), common.stats_handler()],
        "evaluator": common.evaluator(),
        "initialize": [CHECK, SEED],
        "run": ["$@evaluator.run()", common.EXIT],
        "export": [CHECK, "$export_model(@network_def, @checkpoint, @model_info)"],
    }


def multi_gpu_evaluate(row: Row, usage: str) -> Config:
    """Overlay of evaluate.json for several processes (torchrun)."""
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        "sampler": common.sampler("@dataset", shuffle=False),
        "dataloader#sampler": "@sampler",
        "initialize": common.distributed_start(),
        # The exit status must wait until the processes have said goodbye to each other.
        "run": ["$@evaluator.run()"],
        "finalize": [*common.DISTRIBUTED_END, common.EXIT],
    }


def _network(row: Row) -> Config:
    return {"_target_": row.network, "variant": "@variant", "weights": "@weights"}


def _inferer(kinds: str | list[str]) -> Config:
    return {
        "_target_": "fairmedfm_monai.inferers.PromptedInferer",
        "labels": "@labels",
        "kinds": kinds,
        "axis": "@slice_axis",
        "slice_batch": "@slice_batch",
    }


def _to_model(keys: list[str]) -> list[Config]:
    """From the file to what a promptable FM takes: upright slices, 0..255; prompts go into the meta."""
    return [
        {"_target_": "Orientationd", "keys": keys, "axcodes": AXCODES, "labels": None},
        {
            "_target_": "fairmedfm_monai.transforms.ModalityIntensityd",
            "keys": "image",
            "modality": "@modality",
            "window": "@window",
            "b_max": 255.0,
        },
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
        {"_target_": "fairmedfm_monai.transforms.PromptsToMetad", "keys": "image"},
    ]
