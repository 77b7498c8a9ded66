"""Slices of all volumes as if they were independent images: the table of a published protocol, never the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.fairness.report import ALL, OVERALL, write_table
from fairmedfm_monai.reporting.files import SLICES_FILE, write_atomic

from .records import Row, to_numpy

NOTE = (
    "slices of a volume are counted as independent images: large organs and long scans dominate, and no interval can "
    "be given"
)


def slice_rows(output: Mapping[str, Any], labels: Mapping[str, int], prompts: Sequence[str], axis: int) -> list[Row]:
    """Dice of every slice whose reference is not empty, for each prompt and label of one case.

    Args:
        output: as for ``segmentation_values``; an image counts as one slice.
        labels: name -> value in the label map, in channel order.
        prompts: prompt kinds in channel order.
        axis: spatial axis that numbers the slices.
    """
    predicted, reference = to_numpy(output["pred"]) > 0.5, to_numpy(output["label"])
    reference = reference.reshape(reference.shape[-(predicted.ndim - 1) :])
    if reference.ndim == 2:
        reference, predicted, axis = reference[..., None], predicted[..., None], 2
    rows: list[Row] = []
    for position, (name, value) in enumerate(labels.items()):
        truth = np.moveaxis(reference == value, axis, 0)
        size = truth.sum(axis=(1, 2))
        for kind, prompt in enumerate(prompts):
            mask = np.moveaxis(predicted[kind * len(labels) + position], axis, 0)
            dice = 2 * (mask & truth).sum(axis=(1, 2)) / np.maximum(size + mask.sum(axis=(1, 2)), 1)
            rows += [
                {"label": name, "prompt": prompt, "slice": int(index), "dice": float(dice[index])}
                for index in np.flatnonzero(size)
            ]
    return rows


def write_slices(rows: Sequence[Row], attributes: Mapping[str, Sequence[str]], folder: str | Path) -> Path:
    """Write ``slices.csv``: the mean Dice over all slices of a group, with the number of slices and patients.

    Args:
        rows: of all cases, with ``patient_id``, ``split`` and the attributes.
        attributes: attribute -> groups.
        folder: output folder.
    """
    identity = ["case_id", "split", "prompt", "label", "slice"]
    table = pd.DataFrame(rows, columns=[*identity, "dice", "patient_id", *attributes])
    table = table.drop_duplicates(identity)  # samplers of several processes repeat cases
    parts = [_means(table.assign(**{OVERALL: ALL}), OVERALL, [ALL])]
    parts += [_means(table, name, [*groups, "unknown"]) for name, groups in attributes.items()]
    result = pd.concat(parts, ignore_index=True).assign(note=NOTE)
    return write_atomic(Path(folder) / SLICES_FILE, lambda path: write_table(result, path))


def _means(table: pd.DataFrame, attribute: str, groups: Sequence[str]) -> pd.DataFrame:
    keys = ["split", "prompt", "label", "group"]
    known = table.rename(columns={attribute: "group"})
    known = known[known["group"].isin(groups)]
    found = known.groupby(keys, sort=False).agg(
        dice=("dice", "mean"), n_slices=("dice", "size"), n_patients=("patient_id", "nunique")
    )
    return found.reset_index().assign(attribute=attribute)[
        ["split", "prompt", "label", "attribute", "group", "dice", "n_slices", "n_patients"]
    ]
