"""One generator per image: the numbers of one image never depend on how many were drawn before it."""

from __future__ import annotations

import numpy as np

Seed = int | tuple[int, ...]

STREAMS = (
    "anatomy", "pose", "film", "nodule", "patients", "noise", "marker", "volume", "geometry", "phantom",
)  # fmt: skip
MAX_PARTS = 3


def generator(stream: str, seed: Seed) -> np.random.Generator:
    """A generator for one purpose and one item.

    Args:
        stream: what the numbers are for; streams with equal seeds are independent.
        seed: non-negative int, or a tuple of at most 3, e.g. ``(dataset seed, patient, image)``.

    Raises:
        ValueError: an unknown stream, a negative seed, or more than 3 parts.
    """
    parts = seed if isinstance(seed, tuple) else (seed,)
    if stream not in STREAMS or not 1 <= len(parts) <= MAX_PARTS or min(parts) < 0:
        msg = f"expected a stream of {STREAMS} and 1 to {MAX_PARTS} non-negative ints, got {stream!r}, {seed!r}"
        raise ValueError(msg)
    # numpy pads short seeds with zeros, so (1,) and (1, 0) would be the same without their length.
    return np.random.default_rng([STREAMS.index(stream) + 1, len(parts), *parts])
