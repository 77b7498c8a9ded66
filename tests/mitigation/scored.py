"""Simulated predictions whose score scale depends on the group."""

from __future__ import annotations

import numpy as np
import pandas as pd

GROUPS = ("young", "middle", "old")


def scored(
    n: int = 600, *, seed: int = 0, decimals: int | None = None, groups: tuple[str, ...] = GROUPS
) -> pd.DataFrame:
    """Cases with a group, a label and a score that is shifted and stretched in each group."""
    rng = np.random.default_rng(seed)
    code = rng.integers(0, len(groups), n)
    label = (rng.random(n) < 0.4).astype(int)
    latent = 1.5 * label + rng.standard_normal(n)
    score = 1 / (1 + np.exp(-(latent * (1.0 + code) + 0.8 * code - 1.0)))
    return pd.DataFrame(
        {
            "case_id": [f"case{i}" for i in range(n)],
            "group": np.asarray(groups, dtype=object)[code],
            "label": label,
            "score": score if decimals is None else score.round(decimals),
        }
    )


def table_of(cases: pd.DataFrame, *, val: float = 0.5) -> tuple[pd.DataFrame, dict[str, object]]:
    """The same as a table of predictions: the first share is val, the rest test; and its description."""
    split = np.where(np.arange(len(cases)) < val * len(cases), "val", "test")
    table = cases.rename(columns={"group": "age"}).assign(
        patient_id=cases["case_id"], split=split, failed="", sex=np.where(np.arange(len(cases)) % 2, "f", "m")
    )
    meta: dict[str, object] = {
        "task": "classification",
        "classes": ["no", "yes"],
        "positive_class": "yes",
        "multi_label": False,
        "attributes": {"age": list(GROUPS), "sex": ["f", "m"]},
        "intersections": [],
        "unit": "patient",
        "stamps": ["simulated"],
        "notice": None,
    }
    return table, meta
