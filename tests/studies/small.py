"""A small study file, as JSON values, for the tests to change."""

from __future__ import annotations

import copy
from typing import Any

SIZES = {"n_train": 12, "n_val": 12, "n_test": 24}
_STUDY: dict[str, Any] = {
    "name": "small",
    "title": "A small study",
    "datasets": {
        "made": {"demo": "xray", "options": SIZES},
        "seeded": {"demo": "xray", "bias": "shortcut", "per_seed": True, "options": SIZES},
        "lungs": {"release": "montgomery"},
    },
    "grids": [
        {
            "task": "classification",
            "datasets": ["made", "seeded"],
            "fms": ["demo_clip", {"name": "clip", "variant": "ViT-B-16-quickgelu"}],
            "usages": ["zero_shot", "linear_probe"],
            "mitigations": [
                "erm",
                {"name": "group_dro", "attributes": ["sex"], "options": {"eta": 0.1}},
                {"name": "threshold_per_group", "attributes": ["sex", "age"]},
            ],
            "seeds": [0, 1],
            "train": {"epochs": 2},
        },
        {"task": "segmentation", "datasets": ["lungs"], "fms": ["demo_sam", "sam_med3d"], "usages": ["prompted"]},
    ],
    "choices": [
        {"what": "epochs", "value": 2, "source": "ours", "why": "time"},
        {"what": "loss", "value": "cross-entropy", "source": "paper"},
    ],
    "tables": [
        {
            "name": "auc",
            "title": "AUC",
            "where": {"task": "classification"},
            "rows": ["dataset", "fm"],
            "columns": [
                {"title": "AUC", "metric": "auc"},
                {"title": "gap", "metric": "auc", "attribute": "sex", "statistic": "gap"},
            ],
        }
    ],
    "figures": [
        {
            "kind": "tradeoff",
            "title": "Trade-off",
            "utility": {"metric": "auc"},
            "gap": {"metric": "auc", "attribute": "sex", "statistic": "gap"},
        }
    ],
    "published": [{"where": {"fm": "clip"}, "column": {"metric": "auc"}, "value": 0.8, "source": "a table"}],
}


def small_study() -> dict[str, Any]:
    """A copy of its own."""
    return copy.deepcopy(_STUDY)
