"""How each usage of a classification bundle is trained: settings, optimizer, what trains and what is saved."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import classification_parts as parts
from fairmedfm_monai.bundle.configs import mitigation
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row

SETTINGS: dict[str, Config] = {
    "linear_probe": {"solver": "adamw", "epochs": 100, "learning_rate": 0.01, "weight_decay": 0.01},
    "mlp_probe": {"epochs": 100, "learning_rate": 0.001, "weight_decay": 0.01},
    "prototypes": {"epochs": 50, "learning_rate": 0.001, "weight_decay": 0.0},
    "adapter": {"epochs": 50, "learning_rate": 0.001, "weight_decay": 0.0001},
    "lora": {"epochs": 10, "learning_rate": 0.001, "weight_decay": 0.01},
    "full_finetune": {"epochs": 10, "learning_rate": 0.0001, "weight_decay": 0.05, "layer_decay": 0.75},
}
"""Overridable numbers. ``learning_rate`` is no setting of L-BFGS, which searches its own steps."""

FEATURE_BATCH_SIZE = 128
WHOLE_SET = "$len(@train#dataset) if @solver == 'lbfgs' else @batch_size"

_PARAMETERS = "$@network.parameters()"
_TRAINABLE = "$[p for p in @network.parameters() if p.requires_grad]"


def settings(row: Row, usage: str) -> Config:
    """Overridable keys of the training itself."""
    chosen = dict(SETTINGS[usage])
    epochs, rate = chosen.pop("epochs"), chosen.pop("learning_rate")
    return {"epochs": epochs, "val_interval": 1, "learning_rate": rate, **chosen, **_encoder_settings(row, usage)}


def _encoder_settings(row: Row, usage: str) -> Config:
    """Keys of usages that change the encoder."""
    if usage not in ("lora", "full_finetune"):
        return {}
    lora = {"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_targets": _lora_targets(row)}
    return {**(lora if usage == "lora" else {}), "gradient_checkpointing": False, **_probe_shape(row)}


def _lora_targets(row: Row) -> Any:
    """The modules' names, looked up by variant where variants differ in them."""
    if any("lora_targets" in own for own in row.variants.values()):
        return {"_target_": "fairmedfm_monai.catalog.lora_targets", "fm": row.name, "variant": "@variant"}
    return list(row.lora_targets)


def _probe_shape(row: Row) -> Config:
    """Shape of an image that tells which parameters the gradient reaches; of a volume, two slices do."""
    if row.is_volumetric:
        return {"probe_shape": "$[1, @input_spec['channels'], *@input_spec['window']]"}
    size = "@input_spec['size']"
    return {"probe_shape": f"$[1, @input_spec['channels'], {size}, {size}] + [2] * (@spatial_dims == 3)"}


def losses() -> Config:
    """Cross-entropy, or one binary cross-entropy per label where the card says that labels are independent."""
    return {
        "losses": {
            "exclusive": {"_target_": "torch.nn.CrossEntropyLoss"},
            "independent": {"_target_": "torch.nn.BCEWithLogitsLoss"},
        },
        "plain_loss": "$@losses['independent' if @multi_label else 'exclusive']",
        "loss": mitigation.LOSS,
    }


def optimizer(usage: str) -> Config:
    """``optimizer`` and, where a usage has a choice, ``optimizers``."""
    adamw: Config = {
        "_target_": "torch.optim.AdamW",
        "params": _PARAMETERS if usage in parts.FROZEN else _TRAINABLE,
        "lr": "@learning_rate",
        "weight_decay": "@weight_decay",
    }
    if usage == "full_finetune":
        groups = {
            "_target_": "fairmedfm_monai.usages.layer_decay_groups",
            "network": "@finetuned",
            "image_shape": "@probe_shape",
            "learning_rate": "@learning_rate",
            "decay": "@layer_decay",
            "weight_decay": "@weight_decay",
        }
        return {"optimizer": {**adamw, "params": groups}}
    if usage != "linear_probe":
        return {"optimizer": adamw}
    lbfgs = {"lr": 1.0, "max_iter": 100, "history_size": 10, "line_search_fn": "strong_wolfe"}
    return {
        "optimizers": {
            "adamw": adamw,
            "sgd": {**adamw, "_target_": "torch.optim.SGD", "momentum": 0.9},
            "lbfgs": {"_target_": "torch.optim.LBFGS", "params": _PARAMETERS, **lbfgs},
        },
        "optimizer": "$monai.utils.look_up_option(@solver, @optimizers)",
        "iteration_update": {
            "_target_": "fairmedfm_monai.usages.ClosureUpdate",
            "_disabled_": "$@solver != 'lbfgs'",
            "weight_decay": "@weight_decay",
        },
    }


def schedule(usage: str) -> Config:
    """The handler that lowers the learning rate."""
    off = {"_disabled_": "$@solver == 'lbfgs'"} if usage == "linear_probe" else {}
    return {"_target_": "LrScheduleHandler", **off, "lr_scheduler": "@lr_scheduler", "print_lr": False}


def network(usage: str) -> Config:
    """What trains: the head on cached features, or a whole network."""
    prepared = {"prepared": mitigation.PREPARED}
    if usage in parts.FROZEN:
        return {**prepared, "network": "$@prepared.head.to(@device)"}
    if usage == "full_finetune":
        whole = {
            "_target_": "fairmedfm_monai.usages.train_whole",
            "network": "$@prepared.to(@device)",
            "image_shape": "@probe_shape",
            "gradient_checkpointing": "@gradient_checkpointing",
        }
        return {**prepared, "finetuned": whole, "network": "@finetuned"}
    return {**prepared, "network": adapted()}


def adapted() -> Config:
    """The whole network with LoRA in its encoder."""
    return {
        "_target_": "fairmedfm_monai.usages.add_lora",
        "network": "$@prepared.to(@device)",
        "rank": "@lora_rank",
        "alpha": "@lora_alpha",
        "dropout": "@lora_dropout",
        "target_modules": "@lora_targets",
        "gradient_checkpointing": "@gradient_checkpointing",
    }


def model_state(usage: str, peft: str = "@network") -> Config:
    """What becomes model.pt: the model as it is trained, made plain again where the method changed it."""
    trained: Any = "@prepared"
    if usage == "lora":
        trained = {
            "_target_": "fairmedfm_monai.usages.MergedState",
            "model": peft,
            "adapter": "$@ckpt_dir + '/adapter.safetensors'",
        }
    return {"trained_state": trained, "model_state": mitigation.PLAIN}


def no_label_loader(usage: str) -> list[Config]:
    """MONAI Label loads model.pt into ``network`` before it trains, unless the handlers name a CheckpointLoader.

    The merged model.pt of LoRA cannot become base weights and adapters again: a disabled loader keeps Label's own out,
    and the training starts from the FM. Heads take their part out of model.pt and go on, as a whole network does.
    """
    if usage != "lora":
        return []
    loader = {"_target_": "CheckpointLoader", "_disabled_": True, "load_path": "@checkpoint"}
    return [{**loader, "load_dict": {"model": "@network"}}]
