"""One value per patient out of several records that need not agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fairmedfm_monai.data.card import UNKNOWN, Attribute
from fairmedfm_monai.data.manifest import classify_value
from fairmedfm_monai.data.problems import Problem, examples

CONFLICT = "conflicting"  # to be listed under ``missing`` of the attribute


def agreed_values(
    keys: pd.Series, values: pd.Series, *, name: str, entry: Mapping[str, Any]
) -> tuple[pd.Series, list[Problem]]:
    """The value of each key where all its records agree.

    Records agree when their values are of the same group; values that the card declares missing say nothing. Of several
    raw values of one group, e.g. ``WHITE`` and ``WHITE - RUSSIAN``, the first in alphabetical order stays.

    Args:
        keys: patient of each record.
        values: raw text of each record.
        name: of the attribute.
        entry: its entry in the card.

    Returns:
        Key -> raw value or `CONFLICT`; a value that the card declares missing where there is no other. And a problem
        with the values that the card does not map, because a conflict would hide them.
    """
    attribute = Attribute.from_dict(name, entry)
    found = {raw: classify_value(attribute, raw) for raw in values.unique()}
    unmapped = values[values.map({raw: kind == "unmapped" for raw, (_, kind) in found.items()}).astype(bool)]
    problems = []
    if len(unmapped):
        listed = examples(f"{raw!r} ({number})" for raw, number in unmapped.value_counts().items())
        problems.append(Problem("unmapped", f"attribute {name!r}: the card maps no group to {listed}"))
    groups = values.map({raw: group for raw, (group, _) in found.items()})
    records = pd.DataFrame({"key": keys, "value": values, "group": groups, "unknown": groups == UNKNOWN})
    records = records.sort_values(["key", "unknown", "value"])
    known = records[~records["unknown"]].drop_duplicates(["key", "group"])["key"]
    single = records.drop_duplicates("key").set_index("key")["value"]
    single[single.index.isin(known[known.duplicated()])] = CONFLICT
    return single, problems
