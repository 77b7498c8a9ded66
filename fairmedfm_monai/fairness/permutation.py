"""Group values under shuffled groups: what the differences look like when the groups mean nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairmedfm_monai.fairness import bootstrap
from fairmedfm_monai.fairness.estimate import Problem
from fairmedfm_monai.fairness.groups import compact

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

BUDGET = 4_000_000_000
"""Cases x groups x permutations that are evaluated at most for one attribute (about half a minute)."""
FEWEST = 200
"""Permutations that are run whatever the size."""


def affordable(permutations: int, cases: int, groups: int) -> int:
    """Permutations within ``BUDGET``, at least ``FEWEST`` (or the number asked for, when smaller)."""
    return min(permutations, max(FEWEST, BUDGET // max(1, cases * groups)))


def null_values(
    problem: Problem,
    rows: IntArray,
    codes: IntArray,
    *,
    n_groups: int,
    patients: IntArray,
    outcome: BoolArray,
    n_permutations: int,
    seed: int,
) -> FloatArray:
    """Metrics of each group when groups are shuffled among patients within outcome class.

    A patient's images move together. Patients with images in several groups move as one unit per group.

    Args:
        problem: the cases.
        rows: (m,) rows whose group is known.
        codes: (m,) group 0..n_groups-1 of each of them.
        n_groups: number of groups.
        patients: (n,) patient code of every row of the problem.
        outcome: (n,) outcome of every row.
        n_permutations: how many.
        seed: seed of the shuffles.

    Returns:
        (n_permutations, n_groups, M) metrics.
    """
    cases = problem.prepare(rows)
    group_of = np.full(patients.size, -1, dtype=np.int64)
    group_of[rows] = codes
    unit, k = compact(patients[cases.rows] * n_groups + group_of[cases.rows])
    unit_group, unit_outcome = np.zeros(k, dtype=np.int16), np.zeros(k, dtype=bool)
    unit_group[unit] = group_of[cases.rows]
    np.logical_or.at(unit_outcome, unit, outcome[cases.rows])
    # The order of units must not depend on how groups or patients are called.
    order = _canonical(unit, k)
    rng = bootstrap.content_seed(seed, order[unit])
    shuffled = np.empty(k, dtype=np.int64)
    shuffled[order] = np.arange(k)
    found = []
    for count in bootstrap.chunks(n_permutations, cases.rows.size):
        drawn = np.empty((count, k), dtype=np.int16)
        for value in (False, True):
            members = shuffled[unit_outcome[shuffled] == value]
            drawn[:, members] = rng.permuted(np.tile(unit_group[members], (count, 1)), axis=1)
        per_case = drawn[:, unit]
        groups = [cases.evaluate((per_case == group).view(np.uint8)) for group in range(n_groups)]
        found.append(np.stack(groups, axis=1))
    return np.concatenate(found)


def _canonical(unit: IntArray, k: int) -> IntArray:
    """Rank (k,) of each unit by its first case in the sorted order: each case is in one unit, so ranks are unique."""
    positions = np.arange(unit.size)
    first = np.full(k, unit.size)
    np.minimum.at(first, unit, positions)
    rank = np.empty(k, dtype=np.int64)
    rank[np.argsort(first, kind="stable")] = np.arange(k)
    return rank
