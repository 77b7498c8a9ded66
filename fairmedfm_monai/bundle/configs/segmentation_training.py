"""Training configurations of promptable segmentation bundles: decoder, LoRA with and without prompts, everything."""

from __future__ import annotations

from fairmedfm_monai.bundle.configs import common, mitigation, segmentation
from fairmedfm_monai.bundle.configs import segmentation_input as own_input
from fairmedfm_monai.bundle.configs import segmentation_recipes as recipes
from fairmedfm_monai.bundle.configs import segmentation_samples as parts
from fairmedfm_monai.bundle.configs import segmentation_validation as validation
from fairmedfm_monai.bundle.configs.common import CHECK, SEED, Config
from fairmedfm_monai.catalog import Row

_START_EPOCH = "$@train#trainer.add_event_handler(ignite.engine.Events.EPOCH_STARTED, @train#dataset.start_epoch)"


def train(row: Row, usage: str) -> Config:
    """train.json of a trained usage; ``model.pt`` is the epoch with the best ``select_by``."""
    recipe = recipes.RECIPES[usage]
    return {
        "imports": common.imports(
            *("ModelInfo", "keep_progress", "check_selection", "keep_last", "start_from_model"),
            *("default_selection", "validation_cases", *own_input.calls(row, usage)),
        ),
        **common.paths(row, writes_run=False),
        "dataset_dir": training_data(row),
        **common.model_choice(row),
        "attributes": None,
        **_prompt_choice(row, usage),
        "select_by": f"$default_selection(@labels{'' if usage == parts.PROMPT_FREE else ', @val_prompts'})",
        "patience": None,
        "resume": None,
        "start_from": None,
        **own_input.chosen(row, usage),
        **recipes.length(usage),
        "val_interval": 1,
        "learning_rate": recipe["learning_rate"],
        "weight_decay": recipe["weight_decay"],
        **_samples(row, usage),
        **recipes.lora_settings(row, usage),
        **_going_through(row, usage),
        **mitigation.settings(),
        "log_cases": False,
        **common.machine(batch_size=recipe["batch_size"]),
        **own_input.tagged(row, usage, common.tracking(row, usage, "train", mitigation=mitigation.TAG)),
        **common.dataset_info(),
        **mitigation.method(),
        "modality": "$@dataset_info.modality",
        "window": "$@dataset_info.window",
        "labels": "$@dataset_info.labels",
        **own_input.settings(row, usage),
        "stamps": common.stamps(row),
        "model_info": _written_info(row, usage),
        **networks(row, usage),
        "network": "@training_def",
        **recipes.model_state(usage),
        **recipes.loss(usage),
        "optimizer": {
            "_target_": "torch.optim.AdamW",
            "params": "$[p for p in @network.parameters() if p.requires_grad]",
            "lr": "@learning_rate",
            "weight_decay": "@weight_decay",
        },
        **recipes.schedule(usage),
        "prepare_batch": {"_target_": "PrepareBatchExtraInput", "extra_keys": _extra(usage)},
        "train": _train_section(row, usage),
        "validate": validation.section(row, usage),
        "initialize": [CHECK, SEED, _START_EPOCH, *_progress(usage)],
        "run": _run(usage),
    }


def multi_gpu_train(row: Row, usage: str) -> Config:
    """Overlay of train.json for several processes (torchrun)."""
    wrapped = common.data_parallel("@training_def")
    if usage == "full_finetune":
        wrapped["find_unused_parameters"] = True  # embeddings of prompts that a batch does not hold
    return {
        "+imports": common.DISTRIBUTED_IMPORTS,
        "device": common.DISTRIBUTED_DEVICE,
        "network": wrapped,
        **mitigation.distributed_sampling(),
        "validate#sampler": common.sampler("@validate#dataset", shuffle=False),
        "validate#dataloader#sampler": "@validate#sampler",
        "initialize": [*common.distributed_start(), _START_EPOCH, *_progress(usage)],
        "run": _run(usage),
        "finalize": common.DISTRIBUTED_END,
    }


def training_data(row: Row) -> str:
    """The built-in dataset that a training uses unless told otherwise."""
    return "demo/ct3d" if row.is_volumetric else "demo/ct2d"


def networks(row: Row, usage: str) -> Config:
    """``network_def``, the whole model, and ``training_def``, the same as a plain network for the trainer."""
    usages = "fairmedfm_monai.usages"
    segmenter: Config = {**segmentation.network(row), **own_input.network(row, usage)}
    if usage == parts.PROMPT_FREE:
        segmenter = {
            "_target_": f"{usages}.PromptFreeSegmenter",
            "segmenter": segmenter,
            "num_labels": "$len(@labels)",
            "seed": "@seed",
        }
    found: Config = {"network_def": segmenter, "prepared": mitigation.PREPARED}
    own = "$@prepared.to(@device)"
    if usage in parts.ADAPTED:
        found["adapted"] = {
            "_target_": f"{usages}.add_segmenter_lora",
            "network": own,
            "rank": "@lora_rank",
            "alpha": "@lora_alpha",
            "dropout": "@lora_dropout",
            "target_modules": "@lora_targets",
            "trained": ["prompt_encoder", "mask_decoder"] if usage == parts.PROMPT_FREE else ["mask_decoder"],
            "seed": "@seed",
        }
        own = "$@adapted.get_base_model()"
    if usage == parts.PROMPT_FREE:
        found["training_def"] = {"_target_": f"{usages}.PromptFreeNetwork", "network": own, "grid": "@loss_size"}
    else:
        name = "PromptedDecoder" if usage == "decoder_finetune" else "PromptedNetwork"
        found["training_def"] = {
            "_target_": f"{usages}.{name}",
            "segmenter": own,
            "kinds": "@prompts",
            "grid": "@loss_size",
        }
    return found


def trainable_prompts(row: Row) -> list[str]:
    """Kinds of the row that a training can draw."""
    return [kind for kind in row.prompts if kind in parts.TRAINABLE_BASES]


def _prompt_choice(row: Row, usage: str) -> Config:
    if usage == parts.PROMPT_FREE:
        return {}
    kinds = trainable_prompts(row)
    return {"prompts": kinds, "val_prompts": kinds[:1], "prompt_per": "volume" if row.is_volumetric else "slice"}


def _samples(row: Row, usage: str) -> Config:
    """What is cut from a case, and on which grid the loss is taken."""
    least = 0 if usage == parts.PROMPT_FREE else 10
    window = list(row.input_spec["window"]) if row.is_volumetric else 256
    return {
        "samples_per_case": 2 if row.is_volumetric else 1,
        "min_voxels" if row.is_volumetric else "min_pixels": least,
        "loss_size": window,
    }


def _going_through(row: Row, usage: str) -> Config:
    """How validation goes through a volume."""
    if usage == parts.PROMPT_FREE:
        return parts.prompt_free_strategy(row, progress=False)
    return {**segmentation.strategy(row), "progress": False}


def _written_info(row: Row, usage: str) -> Config:
    return {
        "_target_": "fairmedfm_monai.bundle.ModelInfo",
        "fm": row.name,
        "usage": usage,
        "variant": "@variant",
        "weights": "@weights",
        "classes": "$dict(@labels)" if usage == parts.PROMPT_FREE else "$list(@labels)",
        "attributes": "$@dataset_info.attributes",
        "dataset": "$@dataset_info.name",
        "seed": "@seed",
        **own_input.written(row, usage),
        "mitigation": mitigation.INFO,
    }


def _progress(usage: str) -> list[str]:
    schedule = ", schedule=@lr_scheduler" if usage == parts.PROMPT_FREE else ""
    return [
        common.SELECTION,
        common.start_from("@model_state"),
        common.keep_last("@model_state"),
        f"$keep_progress(@train#trainer, @ckpt_dir, resume=@resume, model=@network, optimizer=@optimizer{schedule}, "
        "method=@method, best=@validate#handlers#1, early_stopping=@validate#handlers#2)",
    ]


def _extra(usage: str) -> list[str]:
    """What the network takes beside images (or embeddings)."""
    if usage == parts.PROMPT_FREE:
        return ["size"]
    return ["coords", "point_labels", "size", *(["input_size"] if usage == "decoder_finetune" else [])]


def _run(usage: str) -> list[str]:
    cut = "$@train#dataset.encode()" if usage == "decoder_finetune" else "$@train#dataset.prepare()"
    return [cut, "$@model_info.write(@ckpt_dir)", "$@train#trainer.run()"]


def _train_section(row: Row, usage: str) -> Config:
    loss = {"output_transform": "$monai.handlers.from_engine(['loss'], first=True)", "tag_name": "train_loss"}
    schedule = {
        "_target_": "LrScheduleHandler",
        "lr_scheduler": "@lr_scheduler",
        "print_lr": False,
        "epoch_level": False,
    }
    # MONAI Label loads model.pt into `network` before it trains, unless the handlers name a CheckpointLoader; a
    # training starts from the FM, and the merged model.pt of LoRA cannot become weights and adapters again.
    loader = {"_target_": "CheckpointLoader", "_disabled_": True, "load_path": "@checkpoint"}
    return {
        "loading": {
            "_target_": "Compose",
            "transforms": [*parts.loading(row), *own_input.crop(row, usage, ["image", "label"])],
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": parts.sample_transforms(row, usage, rotation=own_input.rotation(row, usage)),
        },
        "dataset": parts.sample_dataset(row, usage),
        "sampler": "$@method.sampler(@train#dataset.item_cases)",
        "dataloader": {
            **common.dataloader("@train#dataset", sampler="@train#sampler", shuffle=mitigation.NOT_DRAWN),
            **parts.collate(usage),
        },
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {**loader, "load_dict": {"model": "@network"}},
            mitigation.codes_handler(),
            *([schedule] if usage == parts.PROMPT_FREE else []),
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
            "max_epochs": recipes.last_epoch(usage),
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "prepare_batch": "@prepare_batch",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
            "amp": "@amp",
            "decollate": False,
        },
    }
