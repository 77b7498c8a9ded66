"""Tables of predictions that other tools wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

UNKNOWN = "unknown"


def foreign_predictions(
    path: str | Path,
    *,
    attributes: Sequence[str],
    label: str,
    score: str,
    patient_id: str | None = None,
    split: str | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table with one row per case as if a bundle had written it.

    Args:
        path: CSV or Parquet file.
        attributes: columns with patient groups; empty cells become ``unknown``.
        label: column with the true class, 0 or 1.
        score: column with the score of class 1, in [0, 1].
        patient_id: column that names the patient; without it every row is its own and intervals are per image.
        split: column with the split; without it all rows are ``test``.

    Returns:
        The table in this project's columns, and its description.

    Raises:
        ValueError: for missing columns or labels other than 0 and 1; lists the columns that the table has.
    """
    file = Path(path)
    raw = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    wanted = [*attributes, label, score, *([patient_id] if patient_id else []), *([split] if split else [])]
    missing = [name for name in wanted if name not in raw.columns]
    if missing:
        msg = f"{file} has no column {', '.join(missing)}; its columns are {', '.join(map(str, raw.columns))}"
        raise ValueError(msg)
    labels = pd.to_numeric(raw[label], errors="coerce")
    if not labels.isin([0, 1]).all():
        bad = raw.loc[~labels.isin([0, 1]), label].unique()[:5]
        msg = f"column {label!r} of {file} must hold 0 and 1, but it also holds {', '.join(map(repr, bad))}"
        raise ValueError(msg)
    groups = {name: raw[name].map(_slug) for name in attributes}
    table = pd.DataFrame(
        {
            "case_id": [f"row-{number}" for number in range(len(raw))],
            "patient_id": raw[patient_id].astype(str) if patient_id else [f"row-{n}" for n in range(len(raw))],
            "split": raw[split].astype(str) if split else "test",
            **groups,
            "label": labels.astype(int),
            "score": pd.to_numeric(raw[score], errors="coerce"),
            "failed": "",
        }
    )
    meta = {
        "task": "classification",
        "classes": ["negative", "positive"],
        "positive_class": "positive",
        "multi_label": False,
        "labels": {},
        "prompts": [],
        "attributes": {name: sorted(set(column) - {UNKNOWN}) for name, column in groups.items()},
        "intersections": [],
        "unit": "patient" if patient_id else "image",
        "dataset": file.stem,
        "stamps": [],
        "notice": None,
    }
    return table, meta


def _slug(value: str | float | None) -> str:
    """A group name that MLflow and file names accept; empty becomes ``unknown``."""
    text = "" if pd.isna(value) else str(value).strip()
    return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_.-]", "_", text)).lstrip(".")[:60] or UNKNOWN
