"""Training configurations of classification bundles: linear probe, LoRA."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import classification_parts as parts
from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

PROGRESS = (
    "$keep_progress(@train#trainer, @ckpt_dir, resume=@resume, model=@network, optimizer=@optimizer, "
    "schedule=@lr_scheduler)"
)


def train(row: Row, usage: str) -> Config:
    """train.json of a trained usage; ``model.pt`` is the epoch with the best ``select_by``."""
    return {
        "imports": common.imports("ModelInfo", "keep_progress") + _lora_imports(usage),
        **common.paths(row, writes_run=False),
        **common.model_choice(row),
        "attributes": None,
        "select_by": "val/auc",
        "resume": None,
        "epochs": 100 if usage == "linear_probe" else 10,
        "val_interval": 1,
        "learning_rate": 0.01 if usage == "linear_probe" else 0.001,
        **(_lora_settings(row) if usage == "lora" else {}),
        **common.machine(batch_size=128 if usage == "linear_probe" else 32),
        **common.tracking(row, usage, "train"),
        **common.dataset_info(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        "classes": "$@dataset_info.classes",
        "stamps": "$stamps(@weights)",
        "model_info": _written_info(row, usage),
        "input_spec": parts.input_spec(row, "@variant"),
        "network_def": parts.network(row, usage, stage="train"),
        "network": _trained_network(usage),
        "model_state": _model_state(usage),
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "optimizer": {"_target_": "torch.optim.AdamW", "params": _parameters(usage), "lr": "@learning_rate"},
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "optimizer": "@optimizer",
            "T_max": "@epochs",
        },
        # The labels of MONAI Label are files.
        "prepare_batch": {"_target_": "fairmedfm_monai.data.class_labels.PrepareClasses", "classes": "@classes"},
        "train": _train_section(usage),
        "validate": _validate_section(usage),
        "initialize": [
            CHECK,
            SEED,
            *(["$check_gradients(@network, @probe_shape)"] if usage == "lora" else []),
            PROGRESS,
        ],
        "run": _train_run(usage),
    }


def multi_gpu_train(row: Row, usage: str) -> Config:
    """Overlay of train.json for several processes (torchrun)."""
    trained = "$@network_def.head.to(@device)" if usage == "linear_probe" else "@network_local"
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        **({"network_local": _trained_network(usage)} if usage == "lora" else {}),
        "network": common.data_parallel(trained),
        **({"model_state": _model_state(usage, peft="@network_local")} if usage == "lora" else {}),
        "train#sampler": common.sampler("@train#dataset", shuffle=True),
        "train#dataloader#sampler": "@train#sampler",
        "train#dataloader#shuffle": False,
        "validate#sampler": common.sampler("@validate#dataset", shuffle=False),
        "validate#dataloader#sampler": "@validate#sampler",
        "initialize": [*common.distributed_start(), PROGRESS],
        "run": _train_run(usage),
        "finalize": common.DISTRIBUTED_END,
    }


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
    }


def _train_section(usage: str) -> Config:
    return {
        "preprocessing": parts.preprocessing(),
        "dataset": parts.dataset(usage, "$@dataset_info.cases('train')", "@train#preprocessing"),
        "dataloader": common.dataloader("@train#dataset", shuffle=True),
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            *_no_label_loader(usage),
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
            {
                "_target_": "ValidationHandler",
                "validator": "@validate#evaluator",
                "epoch_level": True,
                "interval": "@val_interval",
            },
            common.tracking_handler(
                iteration_log=True,
                tag_name="train_loss",
                output_transform="$monai.handlers.from_engine(['loss'], first=True)",
                close_on_complete=True,
            ),
            common.stats_handler(
                tag_name="train_loss", output_transform="$monai.handlers.from_engine(['loss'], first=True)"
            ),
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
        "dataset": parts.dataset(usage, "$@dataset_info.cases('val')", "@validate#preprocessing"),
        "dataloader": common.dataloader("@validate#dataset"),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": parts.softmax(),
        "handlers": [
            common.fairness_handler(select_by="@select_by"),
            saver,
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


def _lora_settings(row: Row) -> Config:
    size = row.input_spec["size"]
    return {
        "lora_rank": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "lora_targets": list(row.lora_targets),
        "probe_shape": [1, row.input_spec["channels"], size, size],
    }


def _lora_imports(usage: str) -> list[str]:
    return ["$from fairmedfm_monai.usages import check_gradients"] if usage == "lora" else []


def _trained_network(usage: str) -> Any:
    if usage == "linear_probe":
        return "$@network_def.head.to(@device)"
    return {
        "_target_": "fairmedfm_monai.usages.add_lora",
        "network": "$@network_def.to(@device)",
        "rank": "@lora_rank",
        "alpha": "@lora_alpha",
        "dropout": "@lora_dropout",
        "target_modules": "@lora_targets",
    }


def _model_state(usage: str, peft: str = "@network") -> Any:
    if usage == "linear_probe":
        return "@network_def"
    return {
        "_target_": "fairmedfm_monai.usages.MergedState",
        "model": peft,
        "adapter": "$@ckpt_dir + '/adapter.safetensors'",
    }


def _parameters(usage: str) -> str:
    return (
        "$@network.parameters()"
        if usage == "linear_probe"
        else "$[p for p in @network.parameters() if p.requires_grad]"
    )


def _no_label_loader(usage: str) -> list[Config]:
    """MONAI Label loads model.pt into ``network`` before it trains, unless the handlers name a CheckpointLoader.

    The merged model.pt of LoRA cannot become base weights and adapters again: a disabled loader keeps Label's own out,
    and the training starts from the FM. A linear probe takes its head out of model.pt and goes on.
    """
    if usage != "lora":
        return []
    loader = {"_target_": "CheckpointLoader", "_disabled_": True, "load_path": "@checkpoint"}
    return [{**loader, "load_dict": {"model": "@network"}}]
