"""Scores of several methods on several datasets: what can be compared without filling in a missing one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

MIN_DATASETS = 3
"""With fewer complete datasets nothing is computed. Even then the tests say little: see the notes of each result."""


@dataclass(frozen=True)
class CompleteScores:
    """What can be compared, and what cannot.

    Attributes:
        table: (N datasets, k methods) scores without a gap.
        dropped: dataset -> the compared methods that have no score on it.
        left_out: method -> on how many of the datasets it has a score: too few to be compared.
        reason: why nothing can be computed; empty where something can.
    """

    table: pd.DataFrame
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    reason: str = ""

    def notes(self) -> list[str]:
        """What was left out, as sentences."""
        datasets = len(self.table) + len(self.dropped)
        notes = [
            f"{name} is left out: it has a score on {count} of {datasets} datasets."
            for name, count in self.left_out.items()
        ]
        for name, who in self.dropped.items():
            absent = "any method" if len(who) == self.table.shape[1] else ", ".join(who)
            notes.append(f"{name} is left out: no score of {absent}.")
        return notes


def complete_scores(scores: pd.DataFrame, *, min_datasets: int = MIN_DATASETS) -> CompleteScores:
    """Keep the datasets that have every compared method.

    Args:
        scores: (datasets, methods) one score per cell, NaN where there is none; index and columns are names.
        min_datasets: a method with scores on fewer datasets is left out before datasets are dropped, so that it does
            not take the others with it.

    Raises:
        ValueError: on names that occur twice or scores that are not numbers.
    """
    for axis, names in (("datasets (index)", scores.index), ("methods (columns)", scores.columns)):
        if not names.is_unique:
            msg = f"scores: {axis} must be unique, got {sorted(set(names[names.duplicated()]))} more than once"
            raise ValueError(msg)
    try:
        table = scores.astype(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"scores: expected a table of numbers, datasets as rows and methods as columns: {error}"
        raise ValueError(msg) from error
    table.index, table.columns = table.index.map(str), table.columns.map(str)
    counts = table.notna().sum()
    left_out = {name: int(count) for name, count in counts.items() if count < min_datasets}
    table = table.drop(columns=list(left_out))
    gaps = table.isna()
    dropped = {
        str(name): tuple(table.columns[row]) for name, row in zip(table.index, gaps.to_numpy(dtype=bool), strict=True)
    }
    complete = table[~gaps.any(axis=1)]
    reason = _too_few(complete, gaps)
    return CompleteScores(complete, {name: who for name, who in dropped.items() if who}, left_out, reason)


def _too_few(complete: pd.DataFrame, gaps: pd.DataFrame) -> str:
    n, k = complete.shape
    if k < 2:
        return f"{k} method(s) can be compared; at least 2 are needed"
    if n >= MIN_DATASETS:
        return ""
    reason = f"{n} dataset(s) have every method; at least {MIN_DATASETS} are needed"
    freed = {name: int((~gaps.drop(columns=name).any(axis=1)).sum()) for name in gaps.columns}
    name = max(freed, key=lambda method: freed[method])
    return f"{reason}; without {name} there would be {freed[name]}" if k > 2 and freed[name] > n else reason
