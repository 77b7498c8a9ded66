"""Configurations of classification bundles: evaluation and inference of every usage."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import classification_parts as parts
from fairmedfm_monai.bundle.configs import common, mitigation
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row


def evaluate(row: Row, usage: str) -> Config:
    """evaluate.json: subgroup report on ``val`` and ``test``."""
    trained = usage != "zero_shot"
    frozen = usage in parts.FROZEN
    weights, variant = ("$@model_info.weights", "$@model_info.variant") if trained else ("@weights", "@variant")
    return {
        "imports": [
            *common.imports(*(("read_model_info", "check_checkpoint") if trained else ())),
            *([] if trained else parts.negative_import(row)),
            *parts.volume_import(row),
        ],
        **common.paths(row),
        **common.model_choice(row),
        "attributes": None,
        "split": ["val", "test"],
        **common.statistics(),
        **mitigation.settings_after(),
        **common.machine(batch_size=32 if frozen else parts.image_batch(row)),
        **common.tracking(
            *(row, usage, "evaluate"),
            weights=weights,
            variant=variant,
            mitigation="$@model_info.mitigated" if trained else None,
            mitigation_after="@mitigation",
        ),
        **common.dataset_info(),
        **parts.modality(row),
        **(parts.model_info(row, usage) if trained else {}),
        "classes": _classes(usage),
        **(parts.stored_settings(row, usage) if trained else parts.chosen_settings(row, usage)),
        **parts.background(usage),
        "stamps": common.stamps(row, weights=weights.removeprefix("$")),
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "input_spec": parts.input_spec(row, variant),
        "network_def": parts.network(row, usage, stage="evaluate"),
        "network": "$@network_def.head.to(@device)" if frozen else "$@network_def.to(@device)",
        "preprocessing": parts.preprocessing(row),
        "dataset": parts.dataset(usage, "$@dataset_info.cases(*@split)", "@preprocessing"),
        "dataloader": common.dataloader("@dataset"),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": parts.probabilities(),
        "handlers": common.evaluation_handlers(
            mitigation.report_handler(), **({"files": ["@checkpoint"]} if trained else {})
        ),
        "evaluator": common.evaluator(),
        **(common.checkpoint_loader() if trained else {}),
        "initialize": [
            *(CHECK, SEED),
            *parts.check_volumes(row),
            *parts.check_classes(usage),
            *(parts.load() if trained else []),
        ],
        "run": [*parts.encode(usage), "$@evaluator.run()", common.EXIT],
    }


def _classes(usage: str) -> str:
    if usage == "zero_shot":
        return "$@dataset_info.prompts"
    return "$@model_info.classes" if usage in parts.TEXTUAL else "$@model_info.classes_for(@dataset_info)"


def inference(row: Row, usage: str) -> Config:
    """inference.json: class probabilities for images; also what MONAI Label and Deploy read."""
    trained = usage != "zero_shot"
    weights, variant = ("$@model_info.weights", "$@model_info.variant") if trained else ("@weights", "@variant")
    config = {
        "imports": [
            *common.imports("read_model_info", *(("check_checkpoint",) if trained else ("export_model",))),
            *parts.volume_import(row),
        ],
        **common.paths(row),
        **common.model_choice(row),
        "split": "test",
        **parts.modality(row, card=False),
        **common.machine(batch_size=parts.image_batch(row)),
        **common.tracking(row, usage, "inference", weights=weights, variant=variant),
        "experiment_name": "fairmedfm-inference",
        **parts.model_info(row, usage),
        "classes": "$@model_info.classes" if trained else parts.EXAMPLE_CLASSES,
        "class_names": "$list(@classes)",
        **parts.stored_settings(row, usage),
        **parts.background(usage),
        "stamps": common.stamps(row, weights=weights.removeprefix("$"), with_card=False),
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "input_spec": parts.input_spec(row, variant),
        "network_def": parts.network(row, usage, stage="inference"),
        "network": "$@network_def.to(@device)",
        "preprocessing": parts.preprocessing(row),
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
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                parts.probabilities(),
                {"_target_": "fairmedfm_monai.transforms.ForgetSpatialShaped", "keys": "image"},
            ],
        },
        "handlers": [
            {
                "_target_": "fairmedfm_monai.handlers.ProbabilityWriter",
                "output_dir": "@run_dir",
                "classes": "@class_names",
                "multi_label": "@multi_label",
                "stamps": "@stamps",
            },
            common.tracking_handler(close_on_complete=True),
            common.stats_handler(),
        ],
        "evaluator": common.evaluator(),
        **(common.checkpoint_loader() if trained else {}),
        "initialize": [CHECK, SEED, *parts.check_volumes(row, card=False), *(parts.load() if trained else [])],
        "run": ["$@evaluator.run()", common.EXIT],
    }
    if not trained:
        config["export"] = [CHECK, "$export_model(@network_def, @checkpoint, @model_info)"]
    return config


def multi_gpu_evaluate(row: Row, usage: str) -> Config:
    """Overlay of evaluate.json for several processes (torchrun)."""
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        "sampler": common.sampler("@dataset", shuffle=False),
        "dataloader#sampler": "@sampler",
        "initialize": [
            *common.distributed_start(),
            *parts.check_volumes(row),
            *(parts.load() if usage != "zero_shot" else []),
        ],
        # The exit status must wait until the processes have said goodbye to each other.
        "run": [*parts.encode(usage), "$@evaluator.run()"],
        "finalize": [*common.DISTRIBUTED_END, common.EXIT],
    }
