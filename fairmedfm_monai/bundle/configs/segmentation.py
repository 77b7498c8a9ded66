"""Configurations of promptable segmentation bundles."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

# What a promptable bundle segments until the user names other labels.
EXAMPLE_LABELS = {"object": 1}

SCORES = {"derived_labels": "@derived_labels", "nsd_tolerance": "@nsd_tolerance"}
"""Arguments of an evaluation's ``FairnessHandler``: what is scored beside the labels of the masks, and how."""

# Columns to the patient's left, rows to the back: axial slices stand upright, as a reader sees them.
SLICE_AXCODES = "LPS"


def evaluate(row: Row, usage: str) -> Config:
    """evaluate.json: prompts simulated from the reference masks, all kinds and labels in one pass."""
    return {
        "imports": common.imports("segmentation_protocol"),
        **common.paths(row),
        **common.model_choice(row),
        "attributes": None,
        "split": ["val", "test"],
        "protocol": "default",
        "prompts": list(row.prompts),
        "prompt_per": "volume" if row.is_volumetric else "slice",
        **strategy(row),
        "derived_labels": {},
        "nsd_tolerance": 2.0,
        **common.statistics(),
        **common.machine(batch_size=1),
        **common.tracking(row, usage, "evaluate"),
        **common.dataset_info(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        "labels": "$@dataset_info.labels",
        "protocol_settings": "$segmentation_protocol(@protocol)",
        "stamps": common.stamps(row, with_prompts=True),
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "network_def": network(row),
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [*common.load_image(["image", "label"]), simulate(row), *to_model(row, ["image", "label"])],
        },
        "dataset": {
            "_target_": "fairmedfm_monai.data.CaseDataset",
            "data": "$@dataset_info.cases(*@split)",
            "transform": "@preprocessing",
        },
        "dataloader": common.dataloader("@dataset"),
        "inferer": inferer(row, "@prompts", output="masks", threshold="$@protocol_settings.threshold"),
        # A place for one's own steps, e.g. KeepLargestConnectedComponentd.
        "postprocessing": {"_target_": "Compose", "transforms": []},
        "handlers": evaluation_handlers(row),
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
        "prompt_kind": "user",
        **strategy(row),
        "modality": "ct",
        "window": None,
        **common.machine(batch_size=1),
        **common.tracking(row, usage, "inference"),
        "experiment_name": "fairmedfm-inference",
        "stamps": common.stamps(row, with_card=False),
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "model_info": {
            "_target_": "fairmedfm_monai.bundle.ModelInfo",
            "fm": row.name,
            "usage": usage,
            "variant": "@variant",
            "weights": "@weights",
            "classes": "$list(@labels)",
        },
        "network_def": network(row),
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
                    "kind": "@prompt_kind",
                },
                {
                    "_target_": "fairmedfm_monai.transforms.ClicksToPromptsd",
                    "keys": "image",
                    "label": "$list(@labels)[0]",
                    "labels": "@labels",
                },
                *to_model(row, ["image"]),
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
        "inferer": inferer(row, ["@prompt_kind"], output="label_map"),
        "postprocessing": {"_target_": "Compose", "transforms": to_file()},
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


def strategy(row: Row) -> Config:
    """How the model goes through a volume, as overridable scalars."""
    if row.is_volumetric:
        return {"max_windows": 27, "prompt_batch": 8, "progress": True}
    return {"slice_axis": -1, "propagation": None, "slice_batch": 8, "prompt_batch": 32, "progress": True}


def network(row: Row) -> Config:
    """The promptable FM itself."""
    return {"_target_": row.network, "variant": "@variant", "weights": "@weights"}


def inferer(row: Row, kinds: str | list[str], *, output: str, **extra: Config | str) -> Config:
    """The inferer that feeds prompts to a model of slices or of volumes."""
    own = ("max_windows",) if row.is_volumetric else ("propagation", "slice_batch")
    return {
        "_target_": "fairmedfm_monai.inferers.PromptedInferer",
        "labels": "@labels",
        "kinds": kinds,
        **({} if row.is_volumetric else {"axis": "@slice_axis"}),
        **{key: f"@{key}" for key in (*own, "prompt_batch", "progress")},
        "output": output,
        **extra,
    }


def simulate(row: Row) -> Config:
    """Prompts from the reference mask."""
    return {
        "_target_": "fairmedfm_monai.transforms.SimulatePromptsd",
        "keys": "label",
        "labels": "@labels",
        "kinds": "@prompts",
        "per": "@prompt_per",
        **({} if row.is_volumetric else {"axis": "@slice_axis"}),
        "axcodes": axcodes(row),
        "seed": "@seed",
    }


def axcodes(row: Row) -> str:
    """The orientation that the model sees."""
    return str(row.input_spec["axcodes"]) if row.is_volumetric else SLICE_AXCODES


def to_model(row: Row, keys: list[str]) -> list[Config]:
    """From the file to what a promptable FM takes; prompts go into the meta.

    Models of slices get upright slices in 0..255; models of volumes get the file's own intensities, which they prepare
    themselves, and resample windows themselves, so that the result comes back in the image's own grid.
    """
    transforms = "fairmedfm_monai.transforms"
    intensities = [
        {
            "_target_": f"{transforms}.ModalityIntensityd",
            "keys": "image",
            "modality": "@modality",
            "window": "@window",
            "b_max": 255.0,
        },
    ]
    if "label" in keys:  # protocols belong to evaluation
        enabled = "$@protocol_settings.reverse_channels"
        intensities += [{"_target_": f"{transforms}.ReverseChannelsd", "keys": "image", "enabled": enabled}]
    return [
        {"_target_": f"{transforms}.FiniteValuesd", "keys": "image"},
        {"_target_": "Orientationd", "keys": keys, "axcodes": axcodes(row), "labels": None},
        *([] if row.is_volumetric else intensities),
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float32"},
        {"_target_": f"{transforms}.PromptsToMetad", "keys": "image"},
    ]


def to_file() -> list[Config]:
    """Label maps back to the image's own grid, and onto the disk."""
    return [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": True,
        },
        {
            "_target_": "SaveImaged",
            "keys": "pred",
            "output_dir": "@run_dir",
            "output_postfix": "mask",
            "output_ext": ".nii.gz",
            "separate_folder": False,
            "output_dtype": "$numpy.uint8",
        },
    ]


def evaluation_handlers(row: Row) -> list[Config]:
    """Handlers of prompted evaluation."""
    return common.evaluation_handlers(
        prompts="@prompts",
        axis=None if row.is_volumetric else "@slice_axis",
        slice_table="$@protocol_settings.slice_table",
        **SCORES,
    )
