"""Segmentation scores of a case over all of its labels, as one more row per case and prompt."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fairmedfm_monai.fairness.registry import SEGMENTATION_METRICS

IS_MEAN = "is_label_mean"
DERIVED = "derived"
"""Column that marks the rows of unions of other labels."""
IntArray = NDArray[np.int64]


def add_label_means(table: pd.DataFrame) -> tuple[pd.DataFrame, IntArray]:
    """Append the mean over labels of every case, for each prompt that has several labels.

    A case's mean goes over the labels that it has a score for: an empty reference does not count, nor does a union of
    other labels (column ``DERIVED``), whose parts would count twice. The row is of an
    empty reference (or prediction) when all labels are, and failed when one of them failed, because a mean over
    fewer labels is another quantity.

    Args:
        table: rows per case, prompt and label with ``prompt``, ``label``, ``failed``, ``empty_reference`` and
            ``empty_prediction``; without ``case_id`` rows cannot be told to belong together and nothing is added.

    Returns:
        the table with a column ``IS_MEAN``, its new rows last and with label "", and for each row the position of the
        row that its attributes are taken from.
    """
    table = table.assign(**{IS_MEAN: False})
    own = np.arange(len(table), dtype=np.int64)
    if "case_id" not in table:
        return table, own
    named = table[(table["label"] != "") & ~derived(table)]
    several = named.groupby("prompt")["label"].nunique()
    named = named[named["prompt"].isin(several[several > 1].index)]
    if named.empty:
        return table, own
    scores = [name for name in SEGMENTATION_METRICS if name in named]
    values = named[scores].astype(np.float64).replace([np.inf, -np.inf], np.nan)
    values = values.mask(named["empty_reference"])
    lost = values["dice"].isna() & ~named["empty_reference"] & (named["failed"] == "")
    failed = named["failed"].mask(lost, "a label has no score")
    named = named.assign(**values, failed=failed, position=own[named.index])
    groups = named.groupby(["prompt", "case_id"], sort=False)
    means = groups.agg(
        {
            **dict.fromkeys(scores, "mean"),
            "empty_reference": "all",
            "empty_prediction": "all",
            "failed": lambda reasons: next((reason for reason in reasons if reason), ""),
            "position": "first",
        }
    ).reset_index()
    sources = means.pop("position").to_numpy(dtype=np.int64)
    means["label"], means[IS_MEAN] = "", True
    return pd.concat([table, means], ignore_index=True), np.concatenate([own, sources])


def derived(table: pd.DataFrame) -> pd.Series:
    """Which rows are of a union of other labels."""
    return table[DERIVED].eq(True) if DERIVED in table else pd.Series(data=False, index=table.index)
