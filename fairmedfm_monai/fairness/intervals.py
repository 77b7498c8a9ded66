"""Confidence intervals from patient-level influence values: rates, AUC, means.

All take the variance of an estimate that sums influence values by patient, so that several images of one patient do not
count as independent, and Student quantiles, because small groups have few patients.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
LEVEL = 0.95


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


def sum_by(codes: IntArray, values: FloatArray, k: int) -> FloatArray:
    """Sums of ``values`` (n,) for each code 0..k-1, shape (k,)."""
    return np.bincount(codes, weights=values, minlength=k)


def clustered_variance(parts: list[tuple[FloatArray, IntArray]], k: int) -> tuple[float, float]:
    """Variance of an estimate and its degrees of freedom, from row influences that are summed by patient.

    With one part this is the ratio-estimator variance ``k/(k-1) sum_k f_k^2``. With two parts (positives, negatives) it
    is Obuchowski's clustered variance of the AUC (Biometrics 1997, eq. 3), which is DeLong's when every patient has one
    case. Degrees of freedom are Satterthwaite's over the parts.

    Args:
        parts: per part the influence values (m,) and the patient codes (m,) of its rows.
        k: number of patient codes.

    Returns:
        Variance and degrees of freedom; (NaN, 0) when a part has rows of fewer than two patients.
    """
    variance, spread, cross, factors = 0.0, 0.0, None, 1.0
    for influence, codes in parts:
        present = np.bincount(codes, minlength=k) > 0
        patients = int(np.count_nonzero(present))
        if patients < 2:
            return float("nan"), 0.0
        sums = sum_by(codes, influence, k)
        factor = patients / (patients - 1)
        part = factor * float(sums @ sums)
        variance += part
        spread += part**2 / (patients - 1)
        factors *= factor
        cross = sums if cross is None else cross * sums
    if len(parts) == 2 and cross is not None:
        # Patients with positive and negative images tie the two parts together.
        variance += 2 * np.sqrt(factors) * float(cross.sum())
    df = max(1.0, variance**2 / spread) if spread > 0 else float(min(len(np.unique(codes)) for _, codes in parts) - 1)
    return max(variance, 0.0), df


def rate_interval(value: float, variance: float, df: float, *, n: float, patients: int) -> tuple[float, float]:
    """Wilson interval of a rate on the effective sample size ``value (1 - value) / variance``.

    With one case per patient this is Wilson's interval on ``n``. With several, the design effect shrinks ``n``, never
    below the number of patients nor above the number of cases, and a Student quantile takes the normal's place. A rate
    of exactly 0 or 1 shows no variance: the number of patients then stands for ``n``.

    Args:
        value: rate in [0, 1].
        variance: clustered variance of the rate.
        df: degrees of freedom of that variance.
        n: denominator of the rate in cases.
        patients: patients with a case in the denominator.
    """
    if patients >= n:
        return wilson(value * n, n)
    if not 0 < value < 1 or not variance > 0:
        effective = float(patients)
    else:
        effective = min(max(value * (1 - value) / variance, 1.0), n)
    return wilson(value * effective, effective, z=quantile(df))


def logit_interval(value: float, variance: float, df: float, *, n: float) -> tuple[float, float]:
    """Student interval on the logit scale, for an AUC or another mean in (0, 1).

    At 0 or 1 the variance vanishes; Wilson's interval on ``n`` independent units then gives the open side.

    Args:
        value: estimate in [0, 1].
        variance: its clustered variance.
        df: degrees of freedom.
        n: independent units to fall back on (the smaller number of patients with positives or negatives).
    """
    if not 0 < value < 1 or not variance > 0:
        return wilson(value * n, n, z=quantile(df)) if n > 0 else (float("nan"), float("nan"))
    centre = np.log(value / (1 - value))
    half = quantile(df) * np.sqrt(variance) / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return float(low), float(high)


def mean_interval(value: float, variance: float, df: float, *, upper: float = np.inf) -> tuple[float, float]:
    """Student interval of a mean that lies in [0, ``upper``]."""
    half = quantile(df) * np.sqrt(variance)
    return max(0.0, value - half), min(upper, value + half)


def percentile_interval(replicates: ArrayLike) -> tuple[float, float]:
    """Percentile bootstrap interval of (B,) replicates; undefined replicates are left out."""
    values = np.asarray(replicates, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)
