"""One number from the runs of several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairmedfm_monai.fairness.intervals import quantile

PATIENTS = "test patients"
TRAINING = "training"
EXPERIMENT = "data and training"


@dataclass(frozen=True)
class Run:
    """One number of one run: ``value`` with the run's own 95 % interval (NaN where there is none) and its ``seed``."""

    seed: int
    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Summary:
    """What the runs say together.

    Attributes:
        value: mean over the seeds.
        low, high: 95 % interval; NaN where there is none.
        n: seeds with a value.
        replicates: what the interval lets vary: ``test patients`` (the one run's own interval), ``training`` (the seeds
            share their data) or ``data and training`` (every seed has data of its own); empty without an interval.
        own_low, own_high: lowest and highest end of the runs' own intervals; NaN where a run has none.
    """

    value: float
    low: float
    high: float
    n: int
    replicates: str
    own_low: float
    own_high: float


def summarise(runs: Sequence[Run], *, per_seed: bool) -> Summary:
    """Mean over seeds with Student's interval; for a single run its own interval.

    Student's interval, mean ± t(n - 1) * SD / sqrt(n), takes the runs as independent draws. Of seeds that share their
    data they are draws of the training only: how the number would vary with other test patients is not in it.

    Args:
        runs: runs with a finite value, at least one.
        per_seed: whether every seed has data of its own.

    Raises:
        ValueError: without runs, or for a value that is not finite.
    """
    values = [run.value for run in runs]
    if not values or not all(map(math.isfinite, values)):
        msg = f"`runs`: expected at least one, all with finite values, got {values}"
        raise ValueError(msg)
    own_low, own_high = _ends(runs)
    if len(values) == 1:
        replicates = PATIENTS if math.isfinite(own_low) and math.isfinite(own_high) else ""
        return Summary(values[0], own_low, own_high, 1, replicates, own_low, own_high)
    mean, half = _student(values)
    replicates = EXPERIMENT if per_seed else TRAINING
    return Summary(mean, mean - half, mean + half, len(values), replicates, own_low, own_high)


def _student(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, quantile(n - 1) * math.sqrt(variance / n)


def _ends(runs: Sequence[Run]) -> tuple[float, float]:
    lows, highs = [run.low for run in runs], [run.high for run in runs]
    if not all(map(math.isfinite, [*lows, *highs])):
        return math.nan, math.nan
    return min(lows), max(highs)
