"""Recipes of segmentation trainings: their numbers, losses and learning rates."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import mitigation
from fairmedfm_monai.bundle.configs import segmentation_samples as parts
from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.catalog import Row

# Numbers of the published recipes where there is one: MedSAM (decoder_finetune, full_finetune), SAMed (lora).
RECIPES: dict[str, dict[str, Any]] = {
    "decoder_finetune": {"epochs": 20, "learning_rate": 1e-4, "weight_decay": 0.01, "batch_size": 8},
    "lora_prompted": {"epochs": 20, "learning_rate": 5e-4, "weight_decay": 0.01, "batch_size": 4},
    "full_finetune": {"epochs": 20, "learning_rate": 1e-4, "weight_decay": 0.01, "batch_size": 2},
    "lora": {"epochs": 100, "stop_epoch": 70, "learning_rate": 0.005, "weight_decay": 0.1, "batch_size": 12},
}
_LORA = {
    "lora_prompted": {"lora_rank": 4, "lora_alpha": 4, "lora_dropout": 0.0},
    "lora": {"lora_rank": 4, "lora_alpha": 4, "lora_dropout": 0.0},
}


def loss(usage: str) -> Config:
    """Dice + cross-entropy: one object against the rest (MedSAM), or all classes, 0.8 to 0.2 (SAMed); by the method."""
    return {"plain_loss": _plain_loss(usage), "loss": mitigation.LOSS}


def _plain_loss(usage: str) -> Config:
    if usage == parts.PROMPT_FREE:
        return {
            "_target_": "DiceCELoss",
            "to_onehot_y": True,
            "softmax": True,
            "squared_pred": True,
            "batch": True,
            "lambda_dice": 0.8,
            "lambda_ce": 0.2,
        }
    return {"_target_": "DiceCELoss", "sigmoid": True, "squared_pred": True}


def model_state(usage: str) -> Config:
    """What becomes model.pt: the plain model, LoRA merged, and what the method changed made plain again."""
    trained: Any = "@prepared"
    if usage in parts.ADAPTED:
        trained = {
            "_target_": "fairmedfm_monai.usages.MergedState",
            "model": "@adapted",
            "adapter": "$@ckpt_dir + '/adapter.safetensors'",
        }
    return {"trained_state": trained, "model_state": mitigation.PLAIN}


def schedule(usage: str) -> Config:
    """SAMed's warm-up and polynomial decay, step by step; the other recipes keep one rate."""
    if usage != parts.PROMPT_FREE:
        return {}
    return {
        "lr_scheduler": {
            "_target_": "fairmedfm_monai.usages.WarmupPolynomialLR",
            "optimizer": "@optimizer",
            "warmup": "@warmup_steps",
            "total": "$@epochs * len(@train#dataloader)",
            "power": "@decay_power",
        },
    }


def length(usage: str) -> Config:
    """Scalars of how long it is trained; a schedule may be longer than the training."""
    return {name: RECIPES[usage][name] for name in ("epochs", "stop_epoch") if name in RECIPES[usage]}


def last_epoch(usage: str) -> str:
    """The epoch after which the training ends."""
    return "$min(@epochs, @stop_epoch or @epochs)" if "stop_epoch" in RECIPES[usage] else "@epochs"


def lora_settings(row: Row, usage: str) -> Config:
    """Scalars of LoRA, and of the schedule that SAMed has."""
    if usage not in parts.ADAPTED:
        return {}
    warmup = {"warmup_steps": 250, "decay_power": 0.9} if usage == parts.PROMPT_FREE else {}
    return {**_LORA[usage], "lora_targets": list(row.lora_targets), **warmup}
