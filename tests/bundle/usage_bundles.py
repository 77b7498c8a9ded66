"""Bundles of usages written without the collection, so that a usage is tested on any data and FM."""

from __future__ import annotations

import json
from pathlib import Path

from fairmedfm_monai.bundle.configs import classification, classification_training
from fairmedfm_monai.catalog import find_row


def write_bundle(usage: str, folder: Path, *, fm: str = "demo_clip") -> Path:
    """The configurations of one usage of one FM; returns the bundle's folder."""
    row = find_row(fm)
    configs = {
        "evaluate": classification.evaluate(row, usage),
        "inference": classification.inference(row, usage),
        "multi_gpu_evaluate": classification.multi_gpu_evaluate(row, usage),
    }
    if usage != "zero_shot":
        configs["train"] = classification_training.train(row, usage)
        configs["multi_gpu_train"] = classification_training.multi_gpu_train(row, usage)
    (folder / usage / "configs").mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        (folder / usage / "configs" / f"{name}.json").write_text(json.dumps(config, indent=4))
    return folder / usage
