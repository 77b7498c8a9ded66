"""Configurations of classification bundles: zero-shot, linear probe, LoRA."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
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


PROGRESS = (
    "$keep_progress(@train#trainer, @ckpt_dir, resume=@resume, model=@network, optimizer=@optimizer, "
    "schedule=@lr_scheduler)"
)


def evaluate(row: Row, usage: str) -> Config:
    """evaluate.json: subgroup report on ``val`` and ``test``."""
    trained = usage != "zero_shot"
    frozen = usage in FROZEN
    weights, variant = ("$@model_info.weights", "$@model_info.variant") if trained else ("@weights", "@variant")
    return {
        "imports": common.imports(*(("read_model_info", "check_checkpoint") if trained else ())),
        **common.paths(row),
        **common.model_choice(row),
        "attributes": None,
        "split": ["val", "test"],
        **common.statistics(),
        **common.machine(batch_size=32),
        **common.tracking(row, usage, "evaluate", weights=weights, variant=variant),
        **common.dataset_info(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        **(_model_info(row, usage) if trained else {}),
        "classes": "$@model_info.classes_for(@dataset_info)" if trained else "$@dataset_info.prompts",
        "stamps": f"$stamps({'@model_info.weights' if trained else '@weights'})",
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "input_spec": _input_spec(row, variant),
        "network_def": _network(row, usage, stage="evaluate"),
        "network": "$@network_def.head.to(@device)" if frozen else "$@network_def.to(@device)",
        "preprocessing": _preprocessing(),
        "dataset": _dataset(usage, "$@dataset_info.cases(*@split)", "@preprocessing"),
        "dataloader": common.dataloader("@dataset"),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": _softmax(),
        "handlers": common.evaluation_handlers(**({"files": ["@checkpoint"]} if trained else {})),
        "evaluator": common.evaluator(),
        **(common.checkpoint_loader() if trained else {}),
        "initialize": [CHECK, SEED, *(_load() if trained else [])],
        "run": [*_encode(usage), "$@evaluator.run()", common.EXIT],
    }


def inference(row: Row, usage: str) -> Config:
    """inference.json: class probabilities for images; also what MONAI Label and Deploy read."""
    trained = usage != "zero_shot"
    weights, variant = ("$@model_info.weights", "$@model_info.variant") if trained else ("@weights", "@variant")
    config = {
        "imports": common.imports("read_model_info", *(("check_checkpoint",) if trained else ("export_model",))),
        **common.paths(row),
        **common.model_choice(row),
        "split": "test",
        "modality": "xray",
        "window": None,
        **common.machine(batch_size=32),
        **common.tracking(row, usage, "inference", weights=weights, variant=variant),
        "experiment_name": "fairmedfm-inference",
        **_model_info(row, usage),
        "classes": "$@model_info.classes" if trained else EXAMPLE_CLASSES,
        "class_names": "$list(@classes)",
        "stamps": f"$stamps({'@model_info.weights' if trained else '@weights'})",
        "run_dir": "$free_output_dir(@output_dir, @overwrite)",
        "input_spec": _input_spec(row, variant),
        "network_def": _network(row, usage, stage="inference"),
        "network": "$@network_def.to(@device)",
        "preprocessing": _preprocessing(),
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
            "transforms": [_softmax(), {"_target_": "fairmedfm_monai.transforms.ForgetSpatialShaped", "keys": "image"}],
        },
        "handlers": [
            {
                "_target_": "fairmedfm_monai.handlers.ProbabilityWriter",
                "output_dir": "@run_dir",
                "classes": "@class_names",
                "stamps": "@stamps",
            },
            common.tracking_handler(close_on_complete=True),
            common.stats_handler(),
        ],
        "evaluator": common.evaluator(),
        **(common.checkpoint_loader() if trained else {}),
        "initialize": [CHECK, SEED, *(_load() if trained else [])],
        "run": ["$@evaluator.run()", common.EXIT],
    }
    if not trained:
        config["export"] = [CHECK, "$export_model(@network_def, @checkpoint, @model_info)"]
    return config


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
        "input_spec": _input_spec(row, "@variant"),
        "network_def": _network(row, usage, stage="train"),
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


def multi_gpu_evaluate(row: Row, usage: str) -> Config:
    """Overlay of evaluate.json for several processes (torchrun)."""
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        "sampler": common.sampler("@dataset", shuffle=False),
        "dataloader#sampler": "@sampler",
        "initialize": common.distributed_start() + (_load() if usage != "zero_shot" else []),
        # The exit status must wait until the processes have said goodbye to each other.
        "run": [*_encode(usage), "$@evaluator.run()"],
        "finalize": [*common.DISTRIBUTED_END, common.EXIT],
    }


def _input_spec(row: Row, variant: str) -> Config:
    return {"_target_": "fairmedfm_monai.catalog.input_spec", "fm": row.name, "variant": variant}


def _network(row: Row, usage: str, *, stage: str) -> Config:
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


def _model_info(row: Row, usage: str) -> Config:
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


def _preprocessing() -> Config:
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


def _dataset(usage: str, cases: str, transform: str) -> Config:
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


def _softmax() -> Config:
    return {"_target_": "Activationsd", "keys": "pred", "softmax": True}


def _encode(usage: str) -> list[str]:
    return ["$@dataset.encode()"] if usage in FROZEN else []


def _load() -> list[str]:
    return ["$check_checkpoint(@checkpoint)", "$@checkpointloader(@evaluator)"]


def _train_section(usage: str) -> Config:
    return {
        "preprocessing": _preprocessing(),
        "dataset": _dataset(usage, "$@dataset_info.cases('train')", "@train#preprocessing"),
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


def _no_label_loader(usage: str) -> list[Config]:
    """MONAI Label loads model.pt into ``network`` before it trains, unless the handlers name a CheckpointLoader.

    The merged model.pt of LoRA cannot become base weights and adapters again: a disabled loader keeps Label's own out,
    and the training starts from the FM. A linear probe takes its head out of model.pt and goes on.
    """
    if usage != "lora":
        return []
    loader = {"_target_": "CheckpointLoader", "_disabled_": True, "load_path": "@checkpoint"}
    return [{**loader, "load_dict": {"model": "@network"}}]


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
        "dataset": _dataset(usage, "$@dataset_info.cases('val')", "@validate#preprocessing"),
        "dataloader": common.dataloader("@validate#dataset"),
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": _softmax(),
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
    encode = ["$@train#dataset.encode()", "$@validate#dataset.encode()"] if usage in FROZEN else []
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
