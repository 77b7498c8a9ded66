"""How a training treats groups: parts that the training configurations of both tasks share."""

from __future__ import annotations

from typing import Any

from fairmedfm_monai.bundle.configs import common
from fairmedfm_monai.bundle.configs.common import Config

TAG = "$@method.text"
INFO = "$@method.describe()"
PREPARED = "$@method.prepare(@network_def)"
"""The whole model as it is trained."""
PLAIN = "$@method.plain(@trained_state)"
"""What becomes model.pt, of the state of the trained model."""
LOSS = "$@method.loss(@plain_loss, network=@network, device=@device)"
NOT_DRAWN = "$@train#sampler is None"
"""``shuffle`` of a loader: on where the method does not draw itself."""


def settings() -> Config:
    """Overridable keys of how groups are treated; the first attribute's groups where none is named."""
    return {"mitigation": "erm", "mitigation_attributes": None, "mitigation_options": {}}


def method() -> Config:
    """The mitigation method: it may change the head, the loss, and how cases are drawn; ``erm`` changes nothing."""
    return {
        "method": {
            "_target_": "fairmedfm_monai.mitigation.make_method",
            "name": "@mitigation",
            "dataset": "@dataset_info",
            "attributes": "@mitigation_attributes",
            "options": "@mitigation_options",
            "seed": "@seed",
        }
    }


def settings_after() -> Config:
    """Overridable keys of a mitigation after training."""
    return {"mitigation": None, "mitigation_attributes": None, "mitigation_options": {}}


def report_handler() -> Config:
    """Mitigates the predictions of an evaluation and reports on them."""
    return {
        "_target_": "fairmedfm_monai.handlers.MitigatedReport",
        "name": "@mitigation",
        "attributes": "@mitigation_attributes",
        "options": "@mitigation_options",
        "operating_point": "@operating_point",
        "n_bootstrap": "@n_bootstrap",
        "seed": "@seed",
    }


def codes_handler() -> Config:
    """Gives the loss the groups of each batch, and stops a training whose loss is no number."""
    return {
        "_target_": "fairmedfm_monai.handlers.GroupCodes",
        "method": "@method",
        "folder": "@ckpt_dir",
        "log_cases": "@log_cases",
    }


def distributed_sampling() -> dict[str, Any]:
    """Overlay for several processes: cases are dealt where the method does not draw, which goes over all processes."""
    return {
        "train#dealt": common.sampler("@train#dataset", shuffle=True),
        "train#dataloader#sampler": "$@train#sampler or @train#dealt",
        "train#dataloader#shuffle": False,
    }
