"""Training configurations of classification bundles: probes, prototypes, adapters, LoRA, full fine-tuning."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import classification_parts as parts
from fairmedfm_monai.bundle.configs import classification_recipes as recipes
from fairmedfm_monai.bundle.configs import common, mitigation
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

START = [common.SELECTION, common.start_from("@model_state"), common.keep_last("@model_state")]
PROGRESS = (
    "$keep_progress(@train#trainer, @ckpt_dir, resume=@resume, model=@network, optimizer=@optimizer, "
    "schedule=@lr_scheduler, method=@method, best=@validate#handlers#1, early_stopping=@validate#handlers#2)"
)


def train(row: Row, usage: str) -> Config:
    """train.json of a trained usage; ``model.pt`` is the epoch with the best ``select_by``."""
    return {
        "imports": [
            *common.imports(
                *("ModelInfo", "keep_progress", "check_selection", "keep_last"),
                *("start_from_model", "validation_cases"),
            ),
            *parts.negative_import(row),
            *parts.volume_import(row),
            *(["$from fairmedfm_monai.usages import check_gradients"] if usage == "lora" else []),
        ],
        **common.paths(row, writes_run=False),
        **common.model_choice(row),
        "attributes": None,
        "select_by": "val/auc",
        "patience": None,
        "resume": None,
        "start_from": None,
        **recipes.settings(row, usage),
        **mitigation.settings(),
        "log_cases": False,
        **_machine(row, usage),
        **common.tracking(row, usage, "train", mitigation=mitigation.TAG),
        **common.dataset_info(),
        **mitigation.method(),
        **parts.modality(row),
        "classes": "$@dataset_info.prompts" if usage in parts.TEXTUAL else "$@dataset_info.classes",
        **parts.chosen_settings(row, usage),
        **parts.background(usage),
        "settings": {name: f"@{name}" for name in parts.settings(row, usage)},
        "stamps": common.stamps(row),
        "model_info": _written_info(row, usage),
        "input_spec": parts.input_spec(row, "@variant"),
        "network_def": parts.network(row, usage, stage="train"),
        **recipes.network(usage),
        **recipes.model_state(usage),
        **recipes.losses(),
        **recipes.optimizer(usage),
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "optimizer": "@optimizer",
            "T_max": "@epochs",
        },
        # The labels of MONAI Label are files.
        "prepare_batch": {
            "_target_": "fairmedfm_monai.data.class_labels.PrepareClasses",
            "classes": "@classes",
            "multi_label": "@multi_label",
        },
        "train": _train_section(row, usage),
        "validate": _validate_section(usage),
        "initialize": [
            CHECK,
            SEED,
            *parts.check_volumes(row),
            *(["$check_gradients(@network, @probe_shape)"] if usage == "lora" else []),
            *START,
            PROGRESS,
        ],
        "run": _train_run(usage),
    }


def multi_gpu_train(row: Row, usage: str) -> Config:
    """Overlay of train.json for several processes (torchrun)."""
    local = {"lora": "@network_local", "full_finetune": "@finetuned"}.get(usage, "$@prepared.head.to(@device)")
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        **({"network_local": recipes.adapted()} if usage == "lora" else {}),
        "network": common.data_parallel(local),
        **(recipes.model_state(usage, peft="@network_local") if usage == "lora" else {}),
        **mitigation.distributed_sampling(),
        "validate#sampler": common.sampler("@validate#dataset", shuffle=False),
        "validate#dataloader#sampler": "@validate#sampler",
        "initialize": [*common.distributed_start(), *parts.check_volumes(row), *START, PROGRESS],
        "run": _train_run(usage),
        "finalize": common.DISTRIBUTED_END,
    }


def _machine(row: Row, usage: str) -> Config:
    frozen = usage in parts.FROZEN
    machine = common.machine(batch_size=recipes.FEATURE_BATCH_SIZE if frozen else parts.image_batch(row))
    # Mixed precision pays where a whole network trains, and exists on a GPU only.
    return machine | ({"amp": "$torch.cuda.is_available()"} if usage == "full_finetune" else {})


def _written_info(row: Row, usage: str) -> Config:
    return {
        "_target_": "fairmedfm_monai.bundle.ModelInfo",
        "fm": row.name,
        "usage": usage,
        "variant": "@variant",
        "weights": "@weights",
        "classes": "@classes",
        "attributes": "$@dataset_info.attributes",
        "dataset": "$@dataset_info.name",
        "seed": "@seed",
        "settings": "@settings",
        "mitigation": mitigation.INFO,
    }


def _train_section(row: Row, usage: str) -> Config:
    loss = {"tag_name": "train_loss", "output_transform": "$monai.handlers.from_engine(['loss'], first=True)"}
    solver = usage == "linear_probe"
    whole = ", whole_set=@solver == 'lbfgs'" if solver else ""
    loader = common.dataloader("@train#dataset", sampler="@train#sampler", shuffle=mitigation.NOT_DRAWN)
    return {
        "preprocessing": parts.preprocessing(row),
        "dataset": parts.dataset(usage, "$@dataset_info.cases('train')", "@train#preprocessing"),
        "sampler": f"$@method.sampler(@train#dataset.data{whole})",
        # L-BFGS needs the whole set at once: its features fit into memory (3 kB per image and 768 values).
        "dataloader": loader | ({"batch_size": recipes.WHOLE_SET} if solver else {}),
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            *recipes.no_label_loader(usage),
            mitigation.codes_handler(),
            recipes.schedule(usage),
            {
                "_target_": "ValidationHandler",
                "_disabled_": common.KEEPS_LAST,
                "validator": "@validate#evaluator",
                "epoch_level": True,
                "interval": "@val_interval",
            },
            common.tracking_handler(iteration_log=True, close_on_complete=True, **loss),
            common.stats_handler(**loss),
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "prepare_batch": "@prepare_batch",
            **({"iteration_update": "@iteration_update"} if solver else {}),
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
            "amp": "@amp",
        },
    }


def _validate_section(usage: str) -> Config:
    saver: dict[str, Any] = {
        "_target_": "CheckpointSaver",
        "_disabled_": "$@rank > 0",
        "save_dir": "@ckpt_dir",
        "save_dict": {"model": "@model_state"},
        "save_key_metric": True,
        "key_metric_name": "selection",
        "key_metric_filename": "model.pt",
    }
    return {
        "preprocessing": "%train#preprocessing",
        "dataset": parts.dataset(usage, "$validation_cases(@dataset_info, @select_by)", "@validate#preprocessing"),
        "dataloader": common.dataloader("@validate#dataset"),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": parts.probabilities(),
        "handlers": [
            common.fairness_handler(select_by=common.CHOSEN_BY),
            saver,
            common.early_stopping(),
            common.tracking_handler(),
            common.stats_handler(),
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "prepare_batch": "@prepare_batch",
            "inferer": "@validate#inferer",
            "postprocessing": "@validate#postprocessing",
            "val_handlers": "@validate#handlers",
            "amp": "@amp",
        },
    }


def _train_run(usage: str) -> list[str]:
    encode = ["$@train#dataset.encode()", "$@validate#dataset.encode()"] if usage in parts.FROZEN else []
    described = ["$@model_info.write(@ckpt_dir)", "$@model_info.name_outputs(@bundle_root)"]
    return [*encode, *described, "$@train#trainer.run()"]
