"""Bootstrap weights for patients: how often each is drawn, in every replicate."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

EXACT_LIMIT = 20_000
"""Above so many patients in a group, Poisson weights take the place of exact multinomial draws."""
CHUNK = 1 << 18
"""Weights held at a time (replicates x cases): bounds memory and stays in the processor's cache."""
SCHEME = (
    "patients drawn with replacement within group x outcome (any positive case); drawn strata are rescaled by "
    f"Gamma(size)/size so that prevalence varies too; Poisson(1) weights above {EXACT_LIMIT} patients in a group"
)


def content_seed(seed: int, *columns: NDArray[np.generic]) -> np.random.Generator:
    """A generator that depends on the seed and on the data, never on names or on the order of groups."""
    digest = 0
    for column in columns:
        digest = zlib.crc32(np.ascontiguousarray(column).tobytes(), digest)
    return np.random.default_rng([seed, digest])


@cache
def poisson_table() -> NDArray[np.uint8]:
    """(65536,) Poisson(1) draw for each uniform 16-bit number; class probabilities are right to 2**-16."""
    mass = np.exp(-1.0) / np.cumprod(np.concatenate([[1.0], np.arange(1.0, 12.0)]))
    return np.searchsorted(np.cumsum(mass), (np.arange(65536) + 0.5) / 65536).astype(np.uint8)


def chunks(replicates: int, size: int) -> Iterator[int]:
    """Numbers of replicates to handle at a time, so that replicates x size stays within ``CHUNK``."""
    step = max(1, CHUNK // max(size, 1))
    for start in range(0, replicates, step):
        yield min(step, replicates - start)


def draw_weights(strata: IntArray, count: int, rng: np.random.Generator) -> FloatArray:
    """Weights of patients in ``count`` replicates, shape (count, K).

    Args:
        strata: (K,) stratum 0, 1, ... of each patient of one group.
        count: number of replicates.
        rng: source of randomness.
    """
    k = strata.size
    if k > EXACT_LIMIT:
        return poisson_table()[rng.integers(0, 65536, (count, k), dtype=np.uint16)].astype(np.float64)
    weights = np.empty((count, k))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = members.size
        drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        weights[:, members] = times * (rng.standard_gamma(size, (count, 1)) / size)
    return weights
