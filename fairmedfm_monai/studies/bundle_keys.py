"""Which settings the bundles of a study have."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from fairmedfm_monai.bundle.configs import (
    classification,
    classification_training,
    segmentation,
    segmentation_trained,
    segmentation_training,
)
from fairmedfm_monai.bundle.configs.common import TRAINED
from fairmedfm_monai.catalog import rows
from fairmedfm_monai.data.card_checks import did_you_mean
from fairmedfm_monai.studies.cell import Cell
from fairmedfm_monai.studies.methods import is_postprocessor

OF_THE_STUDY = {
    *("bundle_root", "ckpt_dir", "dataset_dir", "output_dir", "overwrite", "weights", "variant", "seed"),
    *("tracking_uri", "experiment_name", "run_name", "resume", "start_from", "n_bootstrap"),
    *("mitigation", "mitigation_attributes", "mitigation_options"),
}
"""Keys that the study itself sets."""


@cache
def settings_of(fm: str, usage: str, stage: str) -> dict[str, Any]:
    """The top of a bundle's ``train.json`` or ``evaluate.json``."""
    row = rows()[fm]
    if row.task == "classification":
        module = classification_training if stage == "train" else classification
    elif stage == "train":
        module = segmentation_training
    else:
        module = segmentation_trained if usage in TRAINED else segmentation
    config: dict[str, Any] = getattr(module, stage)(row, usage)
    return config


def has_key(cell: Cell, stage: str, key: str) -> bool:
    """Whether a bundle has the setting; of ``optimizer#lr`` the part before ``#`` counts."""
    return re.split(r"#|::", key)[0] in settings_of(cell.fm, cell.usage, stage)


def check_keys(cell: Cell) -> None:
    """Refuse settings of a cell that its bundle lacks: MONAI would add them in silence.

    Raises:
        ValueError: names the nearest key.
    """
    if is_postprocessor(cell.mitigation):
        return
    for stage in ("train", "evaluate") if cell.trained else ("evaluate",):
        for key in getattr(cell, stage):
            if key in OF_THE_STUDY:
                msg = f"{cell.key}: `{stage}` sets {key!r}, which the study itself sets"
                raise ValueError(msg)
            if not has_key(cell, stage, key):
                known = settings_of(cell.fm, cell.usage, stage)
                msg = f"{cell.key}: {stage}.json of {cell.bundle} has no key {key!r}{did_you_mean(key, known)}"
                raise ValueError(msg)
