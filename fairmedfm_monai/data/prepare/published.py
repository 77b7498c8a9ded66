"""Split rules of publications, for reproductions only."""

from __future__ import annotations

import numpy as np
import pandas as pd


def split_82(table: pd.DataFrame, *, sex: str, unit: str = "case_id") -> pd.Series:
    """``train`` or ``test`` per row, by the rule of FairMedFM (Jin et al., NeurIPS 2024, published code).

    Of each sex the same number ``k = min(int(0.2 n_male), int(0.2 n_female))`` of units goes to the test set, drawn as
    ``sklearn.model_selection.train_test_split(units, test_size=k, random_state=0)`` draws them from the sorted units.

    Args:
        table: one row per case.
        sex: column with the group ``female`` or ``male``; rows of neither are train.
        unit: column whose values are drawn; in the published rule often the image, not the patient.
    """
    members = {group: np.unique(table.loc[table[sex] == group, unit].astype(str)) for group in ("male", "female")}
    number = min(int(0.2 * len(units)) for units in members.values())
    test: set[object] = set()
    for units in members.values():
        test |= set(units[np.random.RandomState(0).permutation(len(units))[:number]])
    return table[unit].astype(str).isin(test).map({True: "test", False: "train"})


def balanced_subset(table: pd.DataFrame, groups: pd.Series, *, seed: int = 0) -> pd.Series:
    """1 or 0 per row: the test rows, with as many of each group as the smallest has.

    The rule of FairMedFM's attribute test sets; theirs were drawn without a seed, so the rows are not the same.

    Args:
        table: one row per case, with ``split``.
        groups: group per row; empty or ``unknown`` rows belong to no subset.
        seed: of the draw.
    """
    test = groups[(table["split"] == "test") & ~groups.isin(["", "unknown"])]
    chosen = pd.Series(0, index=table.index)
    if test.empty:
        return chosen
    number = int(test.value_counts().min())
    for position, name in enumerate(sorted(test.unique())):
        rows = test.index[test == name]
        chosen.loc[np.random.default_rng((seed, position)).permutation(rows)[:number]] = 1
    return chosen
