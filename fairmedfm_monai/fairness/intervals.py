"""Confidence intervals from patient-level influence values: rates, AUC, means.

All take the variance of an estimate that sums influence values by patient, so that several images of one patient do not
count as independent, and Student quantiles, because small groups have few patients.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LEVEL = 0.95


@lru_cache(maxsize=4096)
def quantile(df: float, level: float = LEVEL) -> float:
    """Two-sided Student quantile; the normal one for infinite ``df``."""
    tail = 0.5 + level / 2
    return float(stdtrit(df, tail)) if np.isfinite(df) else float(ndtri(tail))


def wilson(successes: float, n: float, *, z: float | None = None) -> tuple[float, float]:
    """Wilson's score interval for a rate (Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4).

    Args:
        successes: number of successes; may be fractional when ``n`` is an effective sample size.
        n: number of independent trials, > 0.
        z: two-sided quantile; default the normal one of ``LEVEL``.
    """
    z = quantile(np.inf) if z is None else z
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def clustered_variance(parts: list[tuple[FloatArray, IntArray]]) -> tuple[float, float]:
    """Variance of an estimate and its degrees of freedom, from row influences that are summed by patient.

    The sum of squares of the patients' totals, each divided by the root of 1 - (share of the cases that the patient
    has), which takes the downward bias out (CR2; Bell & McCaffrey 2002). With two parts (positives, negatives) this is
    Obuchowski's clustered variance of the AUC (Biometrics 1997: S10 / M + S01 / N + 2 S11 / (M N)). With one case per
    patient the former is the usual variance and the latter DeLong's (1988). Degrees of freedom are those of the
    effective number of patients, (sum of cases)^2 / sum of cases^2, less 1 (Carter et al. 2017), joined over the parts
    after Satterthwaite.

    Args:
        parts: per part the influence values (m,) and the patient codes (m,) of its rows; one or two parts.

    Returns:
        Variance and degrees of freedom; (NaN, 0) when a part has rows of fewer than two patients.
    """
    k = 1 + max((int(codes.max(initial=-1)) for _, codes in parts), default=-1)
    totals, each, freedom = [], [], []
    for influence, codes in parts:
        share = np.bincount(codes, minlength=k) / max(codes.size, 1)
        if np.count_nonzero(share) < 2:
            return float("nan"), 0.0
        total = np.bincount(codes, weights=influence, minlength=k) / np.sqrt(1 - share)
        totals.append(total)
        each.append(float(total @ total))
        freedom.append(1 / float(share @ share) - 1)
    variance = sum(each)
    if len(parts) == 2:
        # Patients with positive and negative images tie the two parts together.
        variance += 2 * float(totals[0] @ totals[1])
    spread = sum(part**2 / df for part, df in zip(each, freedom, strict=True))
    df = sum(each) ** 2 / spread if spread > 0 else min(freedom)
    return max(variance, 0.0), max(1.0, df)


def rate_interval(value: float, variance: float, *, n: float, patients: int, z: float) -> tuple[float, float]:
    """Wilson interval of a rate on the effective sample size ``value (1 - value) / variance``.

    With one case per patient this is Wilson's interval on ``n``. With several, the design effect shrinks ``n``, never
    below 1 nor above the number of cases. A rate of exactly 0 or 1 shows no variance: the number of patients then
    stands for ``n``. The normal quantile is kept: in simulations with 6 to 60 patients it covered .92 to .97, Student's
    .94 to .99.

    Args:
        value: rate in [0, 1].
        variance: its clustered variance.
        n: denominator of the rate in cases.
        patients: patients with a case in the denominator.
        z: two-sided normal quantile.
    """
    if patients >= n:
        return wilson(value * n, n, z=z)
    if not 0 < value < 1 or not variance > 0:
        effective = float(patients)
    else:
        effective = min(max(value * (1 - value) / variance, 1.0), n)
    return wilson(value * effective, effective, z=z)


def logit_interval(value: float, variance: float, *, n: int, t: float) -> tuple[float, float]:
    """Student interval on the logit scale, for an AUC or another mean in (0, 1).

    At 0 or 1 the variance vanishes; Wilson's interval on ``n`` independent units then gives the open side.

    Args:
        value: estimate in [0, 1].
        variance: its clustered variance.
        n: independent units to fall back on (the smaller number of patients with positives or negatives), > 0.
        t: Student quantile.
    """
    if not 0 < value < 1 or not variance > 0:
        return wilson(value * n, n, z=t)
    centre = np.log(value / (1 - value))
    half = t * np.sqrt(variance) / (value * (1 - value))
    return float(1 / (1 + np.exp(half - centre))), float(1 / (1 + np.exp(-half - centre)))


def log_interval(value: float, variance: float, *, t: float) -> tuple[float, float]:
    """Student interval on the log scale, for the mean of positive quantities with a long upper tail (mm, losses)."""
    if not value > 0:
        return value, value
    factor = float(np.exp(t * np.sqrt(variance) / value))
    return value / factor, value * factor


def percentile_interval(replicates: ArrayLike, *, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of (B,) replicates; undefined replicates are left out."""
    values = np.asarray(replicates, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
