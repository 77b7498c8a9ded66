"""Input of bundles that are trained without prompts and whose FM takes another one: its size, and published protocols.

Of other bundles every function here gives nothing, or what they have anyway.
"""

from __future__ import annotations

from fairmedfm_monai.bundle.configs.common import Config
from fairmedfm_monai.bundle.configs.segmentation_samples import PROMPT_FREE
from fairmedfm_monai.catalog import Row

_CALL = "prompt_free_protocol"


def adjustable(row: Row, usage: str) -> bool:
    """Whether a bundle has these keys."""
    return row.adjustable_input and usage == PROMPT_FREE


def chosen(row: Row, usage: str) -> Config:
    """Overridable keys of a training."""
    return {"protocol": "default", "image_size": None} if adjustable(row, usage) else {}


def written(row: Row, usage: str) -> Config:
    """What model.json keeps of them."""
    return {"settings": {name: f"@{name}" for name in chosen(row, usage)}} if adjustable(row, usage) else {}


def stored(row: Row, usage: str) -> Config:
    """The keys as model.json has them."""
    if not adjustable(row, usage):
        return {}
    return {
        "protocol": "$@model_info.settings.get('protocol', 'default')",
        "image_size": "$@model_info.settings.get('image_size')",
    }


def settings(row: Row, usage: str, *, card: bool = True) -> Config:
    """The protocol behind its name; with a card, one for images is refused for volumes."""
    dims = ", @dataset_info.spatial_dims" if card else ""
    return {"protocol_settings": f"${_CALL}(@protocol{dims})"} if adjustable(row, usage) else {}


def calls(row: Row, usage: str) -> list[str]:
    """What must be imported from ``fairmedfm_monai.bundle``."""
    return [_CALL] if adjustable(row, usage) else []


def network(row: Row, usage: str) -> Config:
    """Arguments of the FM."""
    if not adjustable(row, usage):
        return {}
    normalisation = {name: f"$@protocol_settings.{name}" for name in ("pixel_mean", "pixel_std")}
    return {"image_size": "@image_size", **normalisation}


def crop(row: Row, usage: str, keys: list[str]) -> list[Config]:
    """The middle of images and masks, where the protocol wants that."""
    middle = {"_target_": "CenterSpatialCropd", "keys": keys, "roi_size": "$@protocol_settings.crop"}
    return [middle] if adjustable(row, usage) else []


def rotation(row: Row, usage: str) -> str:
    """Interpolation of images that the augmentation rotates."""
    return "$@protocol_settings.rotation" if adjustable(row, usage) else "bilinear"


def derived_labels(row: Row, usage: str) -> Config | str:
    """Labels that an evaluation reports beside those of the masks."""
    return "$@protocol_settings.derived(@labels)" if adjustable(row, usage) else {}


def tagged(row: Row, usage: str, tracking: Config) -> Config:
    """Where a run is tracked, with the protocol among its tags."""
    return {**tracking, "tags": {**tracking["tags"], "protocol": "@protocol"}} if adjustable(row, usage) else tracking
