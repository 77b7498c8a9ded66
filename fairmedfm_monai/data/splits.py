"""Seeded splitting by patient, balanced over labels and groups."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd

FRACTIONS: Mapping[str, float] = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_patients(
    table: pd.DataFrame,
    *,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    stratify: Sequence[str] = (),
) -> pd.DataFrame:
    """Give every patient one split, so that each split has about the same mix of `stratify` values.

    Patients are sorted by their values in the `stratify` columns (all values of a patient with several cases), within
    equal values by a hash of seed and patient id, and dealt out in turn to the split that is furthest behind its
    fraction: systematic sampling over the sorted list. The order of the rows does not matter.

    Args:
        table: one row per case, with the column ``patient_id``.
        fractions: split name -> share of the patients; they must sum to 1.
        seed: decides the order of patients with equal values.
        stratify: columns to balance, the most important first.

    Returns:
        A copy of the table with the column ``split``.

    Raises:
        ValueError: fractions that are not positive or do not sum to 1, or a column that the table lacks.
    """
    if any(share <= 0 for share in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-9:
        msg = f"`fractions` must be positive and sum to 1, but got {dict(fractions)}"
        raise ValueError(msg)
    absent = [name for name in ("patient_id", *stratify) if name not in table]
    if absent:
        msg = f"the table lacks the columns {', '.join(absent)}; it has {', '.join(map(str, table.columns))}"
        raise ValueError(msg)
    strata = _strata(table, stratify)
    order = sorted(strata, key=lambda patient: (strata[patient], _shuffle_key(seed, patient)))
    names = list(fractions)
    dealt = dict.fromkeys(names, 0)
    split = {}
    for position, patient in enumerate(order, start=1):
        name = max(names, key=lambda name: fractions[name] * position - dealt[name])
        dealt[name] += 1
        split[patient] = name
    return table.assign(split=table["patient_id"].astype(str).map(split))


def carve_validation(
    table: pd.DataFrame, *, fraction: float = 0.125, seed: int = 0, stratify: Sequence[str] = ()
) -> pd.DataFrame:
    """Move a share of the training patients into ``val``, where an official split has only ``train`` and ``test``.

    Args:
        table: one row per case, with ``patient_id`` and ``split``.
        fraction: share of the training patients.
        seed: as in `split_patients`.
        stratify: as in `split_patients`.

    Returns:
        A copy of the table; test rows are as they were.
    """
    train = table[table["split"] == "train"]
    parts = split_patients(train, fractions={"train": 1 - fraction, "val": fraction}, seed=seed, stratify=stratify)
    return table.assign(split=parts["split"].reindex(table.index).fillna(table["split"]))


def _strata(table: pd.DataFrame, stratify: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Patient -> the sorted distinct values of all its cases, joined, per column."""
    patients = table["patient_id"].astype(str)
    if not stratify:
        return dict.fromkeys(patients, ())
    columns = [_distinct_values(patients, table[name].astype(str)) for name in stratify]
    return {patient: tuple(column[patient] for column in columns) for patient in columns[0]}


def _distinct_values(patients: pd.Series, values: pd.Series) -> dict[str, str]:
    """Patient -> sorted distinct values, joined. Plain Python: a pandas group per patient costs ten times as much."""
    found: dict[str, set[str]] = {}
    for patient, value in zip(patients.to_numpy(), values.to_numpy(), strict=True):
        found.setdefault(patient, set()).add(value)
    return {patient: "|".join(sorted(several)) for patient, several in found.items()}


def _shuffle_key(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}/{patient}".encode()).digest()
