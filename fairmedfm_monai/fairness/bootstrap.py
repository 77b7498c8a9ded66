"""Bootstrap weights for patients: how often each is drawn, in every replicate."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Weights = NDArray[np.float64] | NDArray[np.uint8]

EXACT_LIMIT = 100
"""From so many patients in a stratum on, Poisson weights take the place of exact multinomial draws."""
CHUNK = 1 << 18
"""Weights held at a time (replicates x cases): bounds memory and stays in the processor's cache."""
SCHEME = (
    f"patients drawn within group x outcome (any positive case): below {EXACT_LIMIT} patients with replacement, the "
    f"stratum rescaled by Gamma(size)/size so that prevalence varies too; from {EXACT_LIMIT} on by Poisson(1) weights"
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


class PatientWeights:
    """Weights of the patients of one group, in as many replicates as asked for.

    Small strata are drawn with replacement, so that no replicate is without positives; many patients are cheaper, and
    equally good, with independent Poisson(1) weights (Chamandy et al. 2012).

    Args:
        strata: (K,) stratum of each patient: 0 or 1.
        rng: source of randomness.
    """

    def __init__(self, strata: IntArray, rng: np.random.Generator) -> None:
        self.size = strata.size
        self.rng = rng
        found = [np.flatnonzero(strata == stratum) for stratum in (0, 1)]
        self.members = [member for member in found if member.size]

    def draw(self, count: int) -> Weights:
        """Weights (count, K); whole numbers where all strata are large."""
        if all(member.size >= EXACT_LIMIT for member in self.members):
            return _poisson(count, self.size, self.rng)
        weights = np.empty((count, self.size))
        for member in self.members:
            draw = _poisson if member.size >= EXACT_LIMIT else _multinomial
            weights[:, member] = draw(count, member.size, self.rng)
        return weights


def _poisson(count: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    return poisson_table()[rng.integers(0, 65536, (count, size), dtype=np.uint16)]


def _multinomial(count: int, size: int, rng: np.random.Generator) -> FloatArray:
    drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
    times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
    return times * (rng.standard_gamma(size, (count, 1)) / size)
