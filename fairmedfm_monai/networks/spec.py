"""What a model expects at its input. Preprocessing belongs to the model, never to the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """Geometry and intensity of a model's input.

    Args:
        size: edge length of the square (cubic) input in pixels (voxels).
        mean: subtrahend per channel, in units of ``max_value``.
        std: divisor per channel, in units of ``max_value``.
        channels: number of input channels (grey images are repeated).
        max_value: intensity of white before ``mean`` and ``std`` apply: 1 for encoders, 255 for SAM's family.

    Raises:
        ValueError: if ``mean`` and ``std`` do not hold one value per channel, or a size or divisor is not positive.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]
    channels: int = 3
    max_value: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not len(self.mean) == len(self.std) == self.channels:
            msg = (
                f"`mean` and `std` must hold one value for each of {self.channels} channels, "
                f"but have {len(self.mean)} and {len(self.std)}"
            )
            raise ValueError(msg)
        if self.size < 1 or self.max_value <= 0 or min(self.std) <= 0:
            msg = f"`size`, `std` and `max_value` must be positive, but got {self.size}, {self.std}, {self.max_value}"
            raise ValueError(msg)
