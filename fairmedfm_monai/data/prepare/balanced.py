"""FairMedFM's balanced test subsets as columns, for releases whose owner has no split or whose protocol has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fairmedfm_monai.data.card import Attribute
from fairmedfm_monai.data.manifest import group_column
from fairmedfm_monai.data.prepare.attributes import OLDEST
from fairmedfm_monai.data.prepare.published import balanced_subset

FAIRMEDFM = "fairmedfm"
SIXTY = float(np.nextafter(60, 61))  # the published subsets count the age of 60 as young, the published groups as old


def published_age(column: str) -> dict[str, Any]:
    """The entry ``age`` of FairMedFM: two groups, from 60 on old."""
    groups = ["lt60", "ge60"]
    return {"age": {"column": column, "bins": [0, 60, OLDEST], "groups": groups, "missing": [], "title": "Age"}}


def subset_columns(attributes: Sequence[str] = ("sex", "age")) -> list[str]:
    """Names of the 0/1 columns that `with_balanced_subsets` adds, for the card's ``extra_columns``."""
    return [f"fairmedfm_test_{name}" for name in attributes]


def with_balanced_subsets(
    table: pd.DataFrame,
    attributes: Mapping[str, Any],
    *,
    seed: int,
    published: bool = False,
    names: Sequence[str] = ("sex", "age"),
) -> tuple[pd.DataFrame, str]:
    """Add a 0/1 column per attribute: the test rows with as many of each group as the smallest has.

    Args:
        table: with ``split`` and the columns of the attributes.
        attributes: of the card.
        seed: of the draw.
        published: whether an age of exactly 60 counts as young, as in the published subsets.
        names: of the attributes that get a column.

    Returns:
        The table, and a note of how many test rows each group has.
    """
    result, sizes = table.copy(), []
    for name, column in zip(names, subset_columns(names), strict=True):
        entry = dict(attributes[name])
        if published and name == "age":
            entry["bins"] = [SIXTY if edge == 60 else edge for edge in entry["bins"]]
        groups = group_column(Attribute.from_dict(name, entry), table)
        result[column] = balanced_subset(table, groups, seed=seed).astype(str)
        counts = groups[table["split"] == "test"].value_counts().sort_index()
        sizes.append(f"{name} " + ", ".join(f"{group} {number:,}" for group, number in counts.items()))
    return result, f"test cases before balancing: {'; '.join(sizes)}"
